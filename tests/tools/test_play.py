"""A person's keys, posted to a window that no display shows."""

from carracing_data import errors
from carracing_rollouts import environment
from carracing_rollouts import tracks
import jax
from models import agent
from models import start_states
from models import vae
from models import world_model
import numpy as np
import pygame
import pytest
from tools.drive import filming
from tools.play import window
from tools.play import worlds

STEPS = 6
LEFT = np.array([-1, 0, 0], np.float32)


@pytest.fixture(scope='module')
def driver(agent_folder):
  return agent.load(agent_folder)


@pytest.fixture(scope='module')
def starts(agent_folder):
  return start_states.load(agent_folder / 'mdn_rnn')


@pytest.fixture(params=['game', 'dream'])
def either(request, driver, starts):
  if request.param == 'game':
    world = worlds.Game(driver)
  else:
    world = worlds.Dream(endless(driver), starts)
  yield world
  world.close()


def endless(driver):
  """Returns an agent whose M, trained for a few steps, ends no dream."""
  params = driver.model.m_variables['params']
  bias = params['outcomes']['bias'].at[-1].set(-100.0)
  outcomes = {**params['outcomes'], 'bias': bias}
  variables = {'params': {**params, 'outcomes': outcomes}}
  return driver.replace(model=driver.model.replace(m_variables=variables))


@pytest.fixture
def open_window(monkeypatch):
  """Opens windows for worlds; the last one receives the events."""
  monkeypatch.setenv('SDL_VIDEODRIVER', 'dummy')
  pygame.display.quit()

  def make(world, seed=0, agent_drives=False, temperature=1.0):
    return window.Window(world, seed, agent_drives, temperature)

  yield make
  pygame.display.quit()


def press(*names, mod=0):
  for name in names:
    key = getattr(pygame, f'K_{name}')
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key, mod=mod))


def release(name):
  key = getattr(pygame, f'K_{name}')
  pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))


def pixels(opened):
  return pygame.surfarray.array3d(opened.surface)


@pytest.mark.parametrize('fallback', [True, False])
def test_window_that_nobody_would_see(
  fallback, driver, starts, open_window, monkeypatch
):
  if fallback:  # What SDL does without a display.
    monkeypatch.setattr(pygame.display, 'get_driver', lambda: 'offscreen')
  else:
    monkeypatch.setenv('SDL_VIDEODRIVER', 'none')
  with pytest.raises(errors.UserError, match='cannot open a window .*=dummy'):
    open_window(worlds.Dream(driver, starts))


def test_arrow_keys_drive(either, open_window):
  opened = open_window(either)

  def action():
    opened.advance()
    return opened.view.action.tolist()

  assert action() == [0, 0, 0]
  press('LEFT', 'w')
  assert action() == [-1, 1, 0]
  assert action() == [-1, 1, 0]  # Still held.
  release('w')
  press('s')
  assert action() == [-1, 0, np.float32(0.8)]
  press('RIGHT')
  assert action() == [0, 0, np.float32(0.8)]
  release('LEFT')
  assert action() == [1, 0, np.float32(0.8)]
  # Another window gets the events of the keys' release.
  pygame.event.post(pygame.event.Event(pygame.WINDOWFOCUSLOST))
  assert action() == [0, 0, 0]
  assert opened.view.step == 7


def test_restart_takes_the_next_track_or_start_state(either, open_window):
  opened = open_window(either)
  first = pixels(opened)
  opened.advance()
  press('r', 'SPACE')
  opened.advance()
  assert opened.view.step == 0 and opened.view.total == 0
  assert opened.seed == 1
  title, picture = next(iter(opened.view.pictures.items()))
  assert title.endswith('1')
  again = either.reset(0)
  assert (picture != next(iter(again.pictures.values()))).any()
  assert (pixels(opened) != first).any()


def test_last_track_is_followed_by_the_first(driver):
  world = worlds.Game(driver)
  view = world.reset(len(tracks.DEVELOPMENT))
  world.close()
  assert 'The game: track 0' in view.pictures


def test_t_changes_the_temperature_shown(either, open_window):
  opened = open_window(either, temperature=1.0)
  press('SPACE')  # Pauses, so that nothing but the temperature changes.
  opened.advance()
  shown = pixels(opened)
  seen = []
  for mod in 0, 0, 0, pygame.KMOD_LSHIFT, 0, 0:
    press('t', mod=mod)
    opened.advance()
    seen.append(opened.temperature)
    assert (pixels(opened) != shown).any()
    shown = pixels(opened)
  assert seen == [1.15, 1.5, 0.1, 1.5, 0.1, 0.5]
  press('t')
  opened.advance()
  assert opened.temperature == 1.0 and opened.view.step == 0


def test_own_temperature_lies_between_the_others(open_window, driver, starts):
  world = worlds.Dream(driver, starts)
  for mod, expected in (0, 1.15), (pygame.KMOD_RSHIFT, 1.0):
    opened = open_window(world, temperature=1.1)
    press('t', mod=mod)
    opened.advance()
    assert opened.temperature == expected


def test_dreams_depend_on_the_temperature(driver, starts):
  world = worlds.Dream(driver, starts)
  frames = []
  for temperature in 0.1, 0.1, 1.5:
    world.reset(0)
    view = world.step(LEFT, temperature)
    frames.append(next(iter(view.pictures.values())))
  np.testing.assert_array_equal(frames[0], frames[1])
  assert (frames[0] != frames[2]).any()


def test_window_shows_every_step(either, open_window):
  opened = open_window(either)
  press('UP')
  shown = pixels(opened)
  for _ in range(3):
    opened.advance()
    assert (pixels(opened) != shown).any()
    shown = pixels(opened)


@pytest.mark.parametrize('event', ['Esc', 'close'])
def test_leaves(event, either, open_window):
  opened = open_window(either)
  if event == 'Esc':
    press('ESCAPE')
  else:
    pygame.event.post(pygame.event.Event(pygame.QUIT))
  opened.run()  # Returns.
  assert opened.view.step == 0


def test_leaves_after_the_last_frame(either, open_window):
  opened = open_window(either)
  opened.run(max_frames=3)
  assert opened.view.step == 3


def test_same_seed_and_keys_show_the_same(either, open_window):
  shown = []
  for _ in range(2):
    opened = open_window(either, seed=4)
    opened.advance()
    press('UP', 'LEFT')
    opened.advance()
    press('c')
    opened.advance()
    shown.append(pixels(opened))
  np.testing.assert_array_equal(*shown)


def test_agent_drives_the_game_as_always(driver, open_window):
  _, driven = filming.drive(driver, tracks.DEVELOPMENT[3], STEPS)
  world = worlds.Game(driver)
  opened = open_window(world, seed=3, agent_drives=True)
  actions = []
  for _ in range(STEPS):
    opened.advance()
    actions.append(opened.view.action)
  np.testing.assert_array_equal(actions, driven.action)
  assert opened.view.total == pytest.approx(driven.scores()[-1], abs=1e-4)
  world.close()


def test_agent_takes_over_with_the_memory_of_what_a_person_did(
  driver, open_window
):
  world = worlds.Game(driver)
  opened = open_window(world)
  press('LEFT', 'UP')
  for _ in range(STEPS):
    opened.advance()
  press('c')
  actions = []
  for _ in range(2):
    opened.advance()
    actions.append(opened.view.action)
  assert opened.agent_drives
  press('c')
  opened.advance()
  assert opened.view.action.tolist() == [-1, 1, 0]  # The keys are still held.
  world.close()

  by_person = np.repeat(np.array([[-1, 1, 0]], np.float32), STEPS, axis=0)
  taken = np.concatenate([by_person, actions])
  environments = environment.Environments([tracks.DEVELOPMENT[0]], len(taken))
  observation = [environment.resize(environments.reset())]
  for action in taken:
    frame = environments.step(np.array([0]), action[None]).frame
    observation.append(environment.resize(frame))
  environments.close()
  z = world_model.encode_episode(driver.model, np.concatenate(observation)).mean
  watch, predict = jax.jit(world_model.watch), jax.jit(world_model.predict)
  state = watch(driver.model, z[None, :STEPS], by_person[None, :-1])
  _, carry = predict(driver.model, state, by_person[-1:])
  for frame, action in zip(observation[STEPS:], actions):
    chosen, carry = driver(frame, jax.device_get(carry))
    np.testing.assert_allclose(action, chosen[0], atol=1e-4)


def test_game_tells_speed_and_what_v_and_m_make_of_it(driver):
  world = worlds.Game(driver)
  view = world.reset(0)
  assert view.speed == 0
  gas = np.array([0, 1, 0], np.float32)
  speeds = []
  for _ in range(STEPS):
    view = world.step(gas, 0.1)
    speeds.append(view.speed)
  assert speeds == sorted(speeds) and speeds[-1] > 1
  game = world._game
  assert view.speed == pytest.approx(game.car.hull.linearVelocity.length)
  picture, reconstruction, branch = view.pictures.values()

  # The large picture is the observation in more detail.
  assert picture.shape == (448, 640, 3)
  observation = environment.resize(game._render('state_pixels')[None])
  small = environment.cv2.resize(
    picture, (64, 64), interpolation=environment.cv2.INTER_AREA
  )
  assert np.abs(small.astype(float) - observation[0]).mean() < 3

  z = world_model.encode_episode(driver.model, observation).mean
  decoded = vae.to_uint8(jax.jit(world_model.decode)(driver.model, z))[0]
  assert np.abs(reconstruction - np.asarray(decoded, float)).max() <= 1
  assert (branch != reconstruction).any()
  world.close()


def test_dreamt_return_is_the_sum_of_expected_rewards(driver, starts):
  world = worlds.Dream(driver, starts)
  world.reset(2)
  predict = jax.jit(world_model.predict)
  total = 0
  for _ in range(STEPS):
    state = jax.tree.map(lambda x: x[:1], world._states)
    view = world.step(LEFT, 1.0)
    prediction, _ = predict(driver.model, state, LEFT[None])
    total += float(prediction.reward.mean()[0])
    # The next state is drawn from M's prediction and not from elsewhere.
    drawn = prediction.mixture.log_prob(world._states.z[:1])
    assert drawn > prediction.mixture.log_prob(world._states.z[:1] + 9)
  assert view.total == pytest.approx(total, abs=1e-4)
  assert view.speed is None and view.step == STEPS


def test_agent_acts_on_dreamt_states(driver, starts):
  world = worlds.Dream(driver, starts)
  world.reset(0)
  for _ in range(STEPS):
    z, (_, hidden) = world._states
    view = world.step(None, 1.0)
    chosen = driver.c.apply(driver.c_variables, z[:1], hidden[:1])
    np.testing.assert_allclose(view.action, chosen[0], atol=1e-5)


def test_branch_restarts_every_two_seconds(either):
  either.reset(0)
  distances = []
  for _ in range(worlds.BRANCH_STEPS + 1):
    view = either.step(LEFT, 1.0)
    if isinstance(either, worlds.Game):
      hidden = [x.carry[1][0] for x in (either._state, either._branch)]
    else:
      hidden = either._states.carry[1]
    distances.append(float(np.abs(hidden[0] - hidden[1]).max()))
  # M has seen the same until after the first step of a branch.
  first, *apart, again = np.array(distances) > 1e-6
  assert not first and all(apart) and not again
  assert any(title.endswith('for 0.0 s') for title in view.pictures)


def test_dream_ends_when_m_takes_the_episode_for_over(
  driver, starts, open_window, monkeypatch
):
  opened = open_window(worlds.Dream(driver, starts))
  opened.advance()
  assert not opened.view.ending
  # As if M held the next probability, whatever it is, for high.
  monkeypatch.setattr(world_model, 'LIKELY_TERMINATION', 0)
  for _ in range(3):
    opened.advance()
  assert opened.view.step == 2
  assert opened.view.ending.startswith('M ends the dream: termination ')
  press('r')
  opened.advance()
  assert opened.view.step == 1 and opened.seed == 1


def test_binary(agent_folder, command):
  for flags, said in (
    (['--where=dream', '--seed=3'], 'Dreamt return '),
    (['--driver=agent', '--track=3'], 'Return '),
  ):
    done = command(
      'tools.play',
      f'--agent={agent_folder}',
      '--max_frames=3',
      *flags,
      environment={'SDL_VIDEODRIVER': 'dummy'},
    )
    assert done.status == 0, done.stderr
    assert done.stdout.startswith(said)
    assert done.stdout.endswith(' after 3 steps\n')
