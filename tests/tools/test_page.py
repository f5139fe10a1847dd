"""The exported page in a real browser, opened from disk."""

import re
import shutil

import jax
from models import agent
from models import start_states
from models import weights
from models import world_model
import numpy as np
import pytest

STATE = 'document.documentElement.dataset.state'
ACTION = 'dream.page.controls.action'
# Draws of its own are the same every time: some dreams leave the road.
SEEDED = """
let state = 1;
Math.random = () => {
  state = (1103515245 * state + 12345) % 2147483648;
  return state / 2147483648;
};
"""
# Its draws, too, are given, so that Python can take the same step.
STEP = """([z, cell, hidden, action, gumbel, temperature]) => {
  [z, cell, hidden] = [z, cell, hidden].map((x) => Float32Array.from(x));
  const next = dream.step(z, cell, hidden, action, gumbel, temperature);
  return {
    z: [...next.z],
    cell: [...next.cell],
    hidden: [...next.hidden],
    reward: next.reward,
    termination: next.termination,
    frame: [...dream.network.decode(next.z)],
    action: dream.network.act({ z, hidden }),
  };
}"""


def export(command, folder, output):
  done = command('tools.export_page', f'--agent={folder}', f'--output={output}')
  assert done.status == 0, done.stderr
  return output


@pytest.fixture(scope='module')
def html(command, tmp_path_factory):
  """The page of the agent of this project."""
  folder = tmp_path_factory.mktemp('page')
  return export(command, agent.PRETRAINED, folder / 'dream.html')


@pytest.fixture
def show(browser):
  """Opens a page from disk; fails if it complains or asks for anything."""
  complaints = []

  def complain(x):
    complaints.append(str(x))

  def open_file(path, script=None, **options):
    page = browser.new_page(**options)
    page.on('pageerror', complain)
    page.on('console', lambda message: complain(message.text))
    page.on(
      'request',
      lambda x: x.url.startswith(('file:', 'data:')) or complain(x.url),
    )
    if script is not None:
      page.add_init_script(script)
    page.goto(path.as_uri())
    page.wait_for_function(f"{STATE} !== 'loading'")
    return page

  yield open_file
  assert not complaints
  for context in browser.contexts:
    context.close()


def wait_for_steps(page, number):
  page.wait_for_function(f'dream.page.steps >= {number}')


def picture(page):
  return page.evaluate('[...dream.page.image.data]')


def assert_same_step(page, folder, temperature):
  """Compares a step, its frame and C's action with those of Python."""
  driver = agent.load(folder)
  states = start_states.load(folder / 'mdn_rnn')
  rng = np.random.default_rng(0)
  z, cell, hidden = states.mean[-1], states.cell[-1], states.hidden[-1]
  action = np.array([0.3, 0.5, 0.1], np.float32)
  prediction, carry = jax.jit(world_model.predict)(
    driver.model,
    world_model.State(z[None], (cell[None], hidden[None])),
    action[None],
  )
  logits, mean, _ = (np.asarray(x)[0] for x in prediction.mixture)
  gumbel = rng.gumbel(size=logits.shape)
  [component] = np.argmax(logits + temperature * gumbel, 0, keepdims=True)
  expected = np.choose(np.broadcast_to(component, z.shape), mean)
  inputs = z, cell, hidden, action, gumbel.ravel()
  found = page.evaluate(STEP, [*(x.tolist() for x in inputs), temperature])

  np.testing.assert_allclose(found['z'], expected, atol=2e-2)
  for name, x in zip(('cell', 'hidden'), carry):
    np.testing.assert_allclose(found[name], x[0], atol=2e-2)
  frame = jax.jit(world_model.decode)(
    driver.model, np.float32(found['z'])[None]
  )
  pixels = np.reshape(found['frame'], (64, 64, 4))
  np.testing.assert_allclose(pixels[..., :3], 255 * frame[0], atol=2)
  assert np.ptp(pixels[..., :3]) > 2
  assert (pixels[..., 3] == 255).all()
  [chosen] = driver.c.apply(driver.c_variables, z[None], hidden[None])
  np.testing.assert_allclose(found['action'], chosen, atol=2e-2)
  if prediction.reward is None:
    assert found['reward'] is found['termination'] is None
  else:
    [reward] = prediction.reward.mean()
    [termination] = jax.nn.sigmoid(prediction.termination_logit)
    np.testing.assert_allclose(found['reward'], reward, atol=2e-2)
    np.testing.assert_allclose(found['termination'], termination, atol=2e-2)


def test_a_step_is_that_of_python(html, show):
  page = show(html)
  assert page.evaluate('dream.network.vectors')
  for temperature in 0, 0.5, 1:
    assert_same_step(page, agent.PRETRAINED, temperature)


@pytest.mark.parametrize(
  'script',
  [
    'delete globalThis.WebAssembly',
    # As if the policy of a site forbade it.
    'WebAssembly.Module = class { constructor() { throw Error("no"); } }',
  ],
)
def test_a_browser_without_vectors_takes_the_same_step(script, html, show):
  page = show(html, script)
  assert not page.evaluate('dream.network.vectors')
  assert_same_step(page, agent.PRETRAINED, temperature=1)


def test_the_same_agent_gives_the_same_small_file(html, command, tmp_path):
  again = export(command, agent.PRETRAINED, tmp_path / 'again.html')
  assert again.read_bytes() == html.read_bytes()
  assert html.stat().st_size < 15e6
  assert [*tmp_path.iterdir()] == [again]


def test_a_held_key_drives(html, show):
  page = show(html)
  assert page.evaluate(STATE) == 'ready'
  before = picture(page)
  page.keyboard.down('ArrowUp')
  page.keyboard.down('d')
  wait_for_steps(page, 10)
  assert page.evaluate(ACTION) == [1, 1, 0]
  page.keyboard.up('ArrowUp')
  page.keyboard.up('D')  # Shift was pressed in between.
  steps = page.evaluate('dream.page.steps')
  wait_for_steps(page, steps + 6)
  assert page.evaluate(ACTION) == [0, 0, 0]
  assert np.ptp(np.subtract(picture(page), before)) > 30
  # The arrows neither scroll the page nor, with a mouse, stay at a slider.
  assert page.evaluate('scrollY') == 0
  page.click('#pace')
  page.keyboard.down('ArrowLeft')
  page.wait_for_function('dream.page.controls.action[0] === -1')


def test_arrows_of_sliders_and_shortcuts_do_not_drive(html, show):
  page = show(html)
  page.focus('#temperature')
  page.keyboard.press('ArrowRight')
  assert page.inner_text('#temperature_value') == '0.55'
  assert page.evaluate('dream.page.temperature') == 0.55
  page.focus('#stage')
  page.keyboard.press('Control+ArrowUp')  # A shortcut of a browser.
  assert page.evaluate(STATE) == 'ready'


def test_all_controls_are_reached_by_the_tab_key(html, show):
  page = show(html)
  reached = []
  for _ in range(11):
    page.keyboard.press('Tab')
    reached.append(
      page.evaluate(
        'document.activeElement.id || document.activeElement.dataset.key'
        ' || document.activeElement.tagName'
      )
    )
    outline = 'getComputedStyle(document.activeElement).outlineStyle'
    assert page.evaluate(outline) != 'none', reached
  pedals = [f'Arrow{x}' for x in ('Left', 'Right', 'Down', 'Up')]
  buttons = ['drive', 'pause', 'restart', 'temperature', 'pace']
  assert reached == ['stage', *pedals, *buttons, 'SUMMARY']
  page.focus('[data-key=ArrowUp]')
  page.keyboard.down(' ')
  wait_for_steps(page, 6)
  assert page.evaluate(ACTION) == [0, 1, 0]


def test_c_drives(html, show):
  page = show(html, SEEDED)
  page.evaluate("document.getElementById('pace').value = 60")
  page.dispatch_event('#pace', 'input')
  page.click('#drive')
  assert page.get_attribute('#drive', 'aria-pressed') == 'true'
  # M may expect an earlier end.
  page.wait_for_function(f"dream.page.steps >= 200 || {STATE} === 'ended'")
  assert page.evaluate('[...dream.page.state.z].every(Number.isFinite)')
  assert page.evaluate('Number.isFinite(dream.page.return)')
  assert float(page.inner_text('#return')) > 0
  page.keyboard.press('r')
  page.keyboard.press('ArrowUp')  # Takes the wheel.
  assert page.get_attribute('#drive', 'aria-pressed') == 'false'


def test_another_start_and_pause(html, show):
  page = show(html)
  page.keyboard.press('ArrowUp')
  wait_for_steps(page, 3)
  page.keyboard.press(' ')
  assert page.evaluate(STATE) == 'paused'
  index, steps = page.evaluate('[dream.page.index, dream.page.steps]')
  page.evaluate('new Promise(requestAnimationFrame)')
  assert page.evaluate('dream.page.steps') == steps
  page.click('#restart')
  assert page.evaluate(STATE) == 'ready'
  assert page.evaluate('dream.page.index') != index
  assert page.inner_text('#steps') == '0'


@pytest.mark.parametrize(('width', 'height'), [(320, 640), (640, 320)])
def test_a_phone(width, height, html, show):
  page = show(
    html,
    viewport={'width': width, 'height': height},
    has_touch=True,
    is_mobile=True,
  )
  assert page.evaluate('document.documentElement.scrollWidth') == width
  # Driving takes no scrolling.
  for thing in page.locator('#stage, .pedal').all():
    box = thing.bounding_box()
    assert box['y'] >= 0 and box['y'] + box['height'] <= height
  touches = page.context.new_cdp_session(page)
  points = [
    {'x': box['x'] + 9, 'y': box['y'] + 9, 'id': i}
    for i, key in enumerate(['ArrowLeft', 'ArrowUp'])
    if (box := page.locator(f'[data-key={key}]').bounding_box())
  ]
  touches.send(
    'Input.dispatchTouchEvent', {'type': 'touchStart', 'touchPoints': points}
  )
  wait_for_steps(page, 8)
  assert page.evaluate(ACTION) == [-1, 1, 0]
  touches.send(
    'Input.dispatchTouchEvent', {'type': 'touchEnd', 'touchPoints': []}
  )
  page.wait_for_function(f'String({ACTION}) === "0,0,0"')


def test_dark_mode(html, show):
  colors = {
    scheme: show(html, color_scheme=scheme).evaluate(
      '[getComputedStyle(document.body).backgroundColor,'
      ' getComputedStyle(document.body).color]'
    )
    for scheme in ('light', 'dark')
  }
  assert colors['light'][0] != colors['dark'][0]
  assert colors['light'][1] != colors['dark'][1]


def test_a_browser_that_cannot_draw_is_told(browser, html):
  page = browser.new_page()
  page.add_init_script('HTMLCanvasElement.prototype.getContext = () => null')
  page.goto(html.as_uri())
  page.wait_for_function(f"{STATE} === 'failed'")
  assert 'cannot run the dream' in page.inner_text('#notice')
  assert 'cannot draw on a canvas' in page.inner_text('#notice')


@pytest.mark.parametrize('per_dimension', [False, True])
def test_agents_of_other_kinds(per_dimension, command, show, tmp_path):
  """C sees z alone, and M has no outcomes and maybe many mixtures."""
  folder = tmp_path / 'agent'
  config = {
    'latent_size': 32,
    'hidden_size': 24,
    'num_mixtures': 3,
    'per_dimension': per_dimension,
    'predict_outcomes': False,
  }
  rng = np.random.default_rng(0)
  choices = 32 if per_dimension else 1
  states = start_states.StartStates(
    *(np.tanh(rng.normal(size=(2, size))) for size in (32, 32, 24, 24))
  )
  shutil.copytree(agent.PRETRAINED / 'vae', folder / 'vae')
  sha256 = {'vae_sha256': weights.describe(folder / 'vae').weights_sha256}
  sha256['mdn_rnn_sha256'] = weights.save(
    folder / 'mdn_rnn',
    'mdn_rnn',
    config,
    {
      'lstm': dense(rng, 32 + 3 + 24, 4 * 24),
      'mixture': dense(rng, 24, 3 * (2 * 32 + choices)),
    },
    sha256,
    start_states.to_bytes(states),
  )
  weights.save(
    folder / 'controller',
    'controller',
    {'latent_size': 32, 'hidden_size': 0},
    {'linear': dense(rng, 32, 3)},
    sha256,
  )

  page = show(export(command, folder, tmp_path / 'dream.html'))
  assert_same_step(page, folder, temperature=1)
  assert page.inner_text('#return') == 'not predicted'
  page.click('#drive')
  wait_for_steps(page, 3)


def dense(rng, inputs, outputs):
  return {
    name: rng.normal(0, 0.3, shape).astype(np.float32)
    for name, shape in (('kernel', (inputs, outputs)), ('bias', (outputs,)))
  }


@pytest.mark.parametrize(
  ('weights_are', 'message'),
  [
    ('without their file', 'start_states.safetensors is missing; copy it'),
    (
      'of an earlier version',
      'has no start_states.safetensors.* they export M',
    ),
    ('too large', 'beyond float16'),
  ],
)
def test_an_agent_that_gives_no_page(weights_are, message, command, tmp_path):
  folder = shutil.copytree(agent.PRETRAINED, tmp_path / 'agent')
  m = folder / 'mdn_rnn'
  if weights_are == 'without their file':
    (m / weights.START_STATES).unlink()
  elif weights_are == 'of an earlier version':
    save_again(m, 'mdn_rnn', np.float16)
  else:
    save_again(folder / 'controller', 'controller', lambda x: x + 1e5)
  done = command(
    'tools.export_page', f'--agent={folder}', f'--output={tmp_path}/dream.html'
  )
  assert done.status == 1
  assert re.search(f'^Error: .*{message}', done.stderr, re.MULTILINE)
  assert [*tmp_path.iterdir()] == [folder]


def save_again(folder, name, change):
  """Saves changed weights, without start states."""
  loaded = weights.load(folder, name)
  params = jax.tree.map(change, loaded.variables['params'])
  config = weights.describe(folder).config
  weights.save(folder, name, config, params, loaded.training)
