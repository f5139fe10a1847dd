"""Training a controller: real V and M, real cars, few steps."""

import contextlib
import os
import shutil
import signal
import time

from conftest import interrupt
from conftest import logged_metrics
from conftest import made_once
from conftest import tiny_controller_config
from conftest import tiny_dream_config
from conftest import tiny_evolution_config
from models import agent
from models import controller
from models import start_states
from models import weights
from models import world_model
import numpy as np
import psutil
import pytest
from trainers import run_documents
from trainers import train_controller
from trainers.configs import controller as controller_config
from trainers.control import actor_critic
from trainers.control import actor_critic_learner
from trainers.control import evolution_learner

CONFIGS = {
  'actor_critic': tiny_controller_config,
  'dream': tiny_dream_config,
  'evolution': tiny_evolution_config,
}
FILES = {
  'actor_critic': 'controller',
  'dream': 'controller_dream',
  'evolution': 'controller_evolution',
}


def finished(method, world, tmp_path_factory):
  """Returns the folder of a finished run."""

  def make(workdir):
    config = CONFIGS[method]()
    train_controller.train(config, workdir, world.vae, world.mdn_rnn)

  return made_once(tmp_path_factory, f'run_of_{method}', make)


@pytest.fixture(scope='module', params=CONFIGS)
def run(request, world, tmp_path_factory):
  """Method, and the folder of a finished run."""
  return request.param, finished(request.param, world, tmp_path_factory)


@pytest.fixture
def run_in_dreams(world, tmp_path_factory, tmp_path):
  """A copy of the folder of a finished run in dreams."""
  folder = finished('dream', world, tmp_path_factory)
  return shutil.copytree(folder, tmp_path / 'finished')


def test_a_run_leaves_an_agent_and_its_scores(run, world):
  method, workdir = run
  driver = agent.load(workdir / 'agent')
  assert driver.c.hidden_size == 256
  metrics = run_documents.finished_metrics(workdir)
  assert metrics.validation['score'] < 1000
  if method != 'evolution':  # Their learning rates have fallen.
    assert metrics.step == metrics.num_steps
  assert (
    metrics.weights_sha256
    == weights.describe(workdir / 'weights').weights_sha256
  )
  run = run_documents.read_run(workdir)
  assert run is not None
  assert run.sources['vae'].sha256 == {
    'weights': weights.describe(world.vae).weights_sha256
  }
  tags = set(run_documents.read_curves(workdir))
  measured = 'dreamt_return' if method == 'dream' else 'environment_steps'
  for tag in f'train/{measured}', f'validation/{measured}', 'validation/score':
    assert tag in tags
  assert 'train/examples_per_second' in tags


def test_c_and_its_critics_may_see_z_alone(world, tmp_path):
  config = tiny_controller_config()
  config.update(features='z', privileged_critics=False, num_steps=3)
  train_controller.train(config, tmp_path, world.vae, world.mdn_rnn)
  driver = agent.load(tmp_path / 'agent')
  assert driver.c.hidden_size == 0
  # A finished run makes its agent again, should it be missing or damaged.
  file = tmp_path / 'agent' / 'mdn_rnn' / weights.FILE
  file.write_bytes(file.read_bytes()[:-1])
  train_controller.train(config, tmp_path, world.vae, world.mdn_rnn)
  assert (
    weights.describe(file.parent).weights_sha256
    == weights.describe(world.mdn_rnn).weights_sha256
  )


def test_another_average_of_the_actor_is_another_run(world, run_in_dreams):
  config = tiny_dream_config()
  config.ema_decay = 0.123
  with pytest.raises(run_documents.RunError, match='ema_decay is 0.* there'):
    train_controller.train(config, run_in_dreams, world.vae, world.mdn_rnn)


def start(command, method, world, workdir):
  return command.start(
    'trainers.train_controller',
    f'--workdir={workdir}',
    f'--config=trainers/configs/{FILES[method]}.py',
    *(f'--vae={world.vae}', f'--mdn_rnn={world.mdn_rnn}'),
    *(f'--config.{key}={value}' for key, value in CONFIGS[method]().items()),
  )


def test_killed_run_continues_bit_for_bit(run, command, world, tmp_path):
  method, expected = run
  process = start(command, method, world, tmp_path)
  # After an evaluation, so that the best parameters are restored, too.
  status, said = interrupt(process, signal.SIGKILL, tmp_path, step=6)
  assert status == -signal.SIGKILL, said
  assert not (tmp_path / 'agent').exists()
  train_controller.train(CONFIGS[method](), tmp_path, world.vae, world.mdn_rnn)
  assert logged_metrics(tmp_path) == logged_metrics(expected)
  for name in 'weights', 'agent/controller':
    assert (
      weights.describe(tmp_path / name).weights_sha256
      == weights.describe(expected / name).weights_sha256
    )
  assert run_documents.finished_metrics(
    tmp_path
  ) == run_documents.finished_metrics(expected)


def cars_of(process):
  """Returns the worker processes of a trainer."""
  cars = []
  for child in psutil.Process(process.pid).children(recursive=True):
    with contextlib.suppress(psutil.Error):  # It has just ended.
      if 'spawn_main' in ' '.join(child.cmdline()):
        cars.append(child)
  return cars


@pytest.mark.parametrize(
  ('method', 'number', 'status', 'send'),
  [
    # Terminals and clusters send signals to all processes at once.
    ('actor_critic', signal.SIGINT, 130, os.killpg),
    ('actor_critic', signal.SIGTERM, 143, os.killpg),
    ('dream', signal.SIGTERM, 143, os.killpg),
    ('evolution', signal.SIGINT, 130, os.killpg),
    ('actor_critic', signal.SIGKILL, -9, os.kill),
  ],
)
def test_a_signal_stops_the_run_and_its_cars(
  method, number, status, send, command, world, tmp_path
):
  process = start(command, method, world, tmp_path)
  record = tmp_path / 'checkpoints' / '3' / 'record.json'
  cars = []
  while not record.exists() or not cars:
    assert process.poll() is None
    time.sleep(0.01)
    cars = cars_of(process)
  send(process.pid, number)
  _, said = process.communicate()
  assert process.returncode == status, said
  assert 'Traceback' not in said and 'Error' not in said
  stopped = said.count(f'Stopped by {number.name} after step ')
  assert stopped == (number != signal.SIGKILL), said
  assert said.count('rerun the same command to continue from') == stopped, said
  _, alive = psutil.wait_procs(cars, timeout=30)
  assert not alive


def test_a_dying_car_is_reported(command, world, tmp_path):
  process = start(command, 'actor_critic', world, tmp_path)
  record = tmp_path / 'checkpoints' / '3' / 'record.json'
  while not record.exists():
    assert process.poll() is None
    time.sleep(0.01)
  cars_of(process)[0].kill()
  _, said = process.communicate()
  assert process.returncode == 1
  assert 'Error: a simulator process ended unexpectedly' in said
  assert 'Traceback' not in said


def test_some_cars_practise_without_noise(world):
  config = controller_config.Config(
    **{**tiny_controller_config(), 'deterministic_share': 0.6}
  )
  model = world_model.load(world.vae, world.mdn_rnn)
  learner = actor_critic_learner.ActorCriticLearner(
    config, model, controller.Controller()
  )
  buffer = learner.saved['learner']['buffer']
  with contextlib.closing(learner):
    learner.begin(0)
    for step in range(1, config.warmup_steps + 2):
      acting = actor_critic.acting(learner._state)
      learner.take_step(step)
      last = slice((step - 1) * config.drive_steps, step * config.drive_steps)
      without_noise = actor_critic.act(acting, buffer.features[last], 0.0)
      difference = np.abs(buffer.action[last] - without_noise).max((0, 2))
      learns = step > config.warmup_steps
      assert (difference < 0.01).tolist() == [learns, learns, False]


def test_evolution_follows_the_best_candidates(world):
  config = tiny_evolution_config()
  config.stuck_steps = 60  # Long enough for different returns.
  config.seed = 1
  model = world_model.load(world.vae, world.mdn_rnn)
  learner = evolution_learner.EvolutionLearner(
    config, model, controller.Controller()
  )
  learner.take_step(1)
  search = learner._new_search()
  before = search.mean
  candidates = search.ask()
  learner.take_step(2)
  learner.close()
  fitness = learner.saved['learner']['fitness'][1]
  assert len({*fitness.tolist()}) == 4
  # How far does the mean move towards each candidate?
  along = (np.array(candidates) - before) @ (learner._search.mean - before)
  assert np.argmax(along) in np.argsort(fitness)[-2:]
  assert np.argmin(along) in np.argsort(fitness)[:2]


def altered_m(source, folder, states=None, outcomes=True):
  """Copies M, with other start states or without outcomes."""
  m = weights.load(source, 'mdn_rnn')
  config = weights.describe(source).config
  params = dict(m.variables['params'])
  if not outcomes:
    del params['outcomes']
    config = {**config, 'predict_outcomes': False}
  weights.save(folder, 'mdn_rnn', config, params, m.training, states)
  return folder


def test_dreams_from_other_start_states_are_another_run(
  world, run_in_dreams, tmp_path
):
  config = tiny_dream_config()
  data = weights.load(world.mdn_rnn, 'mdn_rnn').start_states
  assert data is not None
  states = start_states.load(world.mdn_rnn)
  other = altered_m(
    world.mdn_rnn,
    tmp_path / 'm',
    start_states.to_bytes(start_states.StartStates(*(x[:1] for x in states))),
  )
  with pytest.raises(run_documents.RunError, match='start_states'):
    train_controller.train(config, run_in_dreams, world.vae, other)
  # The same file is the same run.
  altered_m(world.mdn_rnn, tmp_path / 'm', data)
  train_controller.train(config, run_in_dreams, world.vae, other)


def test_c_trains_on_from_exported_weights(world, run_in_dreams, tmp_path):
  def train(run, initial, config=None, **changes):
    config = config or tiny_dream_config()
    config.update(num_steps=1, **changes)
    inputs = world.vae, world.mdn_rnn, str(initial)
    train_controller.train(config, tmp_path / run, *inputs)

  folder = run_in_dreams / 'weights'
  # The grass network would be fitted for nothing.
  unchanged = {'learning_rate': 0.0, 'grass_penalty': 0.0}
  train('same', folder, **unchanged)
  first, same = (
    weights.load(x / 'weights', 'controller')
    for x in (run_in_dreams, tmp_path / 'same')
  )
  params, found = (x.variables['params']['linear'] for x in (first, same))
  assert np.abs(params['kernel']).max() > 1e-3
  for name in 'kernel', 'bias':
    np.testing.assert_allclose(found[name], params[name], atol=1e-5)
  run = run_documents.read_run(tmp_path / 'same')
  assert run is not None
  assert run.sources['initial_weights'].sha256 == {'weights': first.sha256}

  # From other weights it is another run.
  other = {**params, 'bias': params['bias'] + 1}
  weights.save(
    tmp_path / 'other',
    'controller',
    weights.describe(folder).config,
    {'linear': other},
    first.training,
  )
  with pytest.raises(run_documents.RunError, match='initial_weights'):
    train('same', tmp_path / 'other', **unchanged)
  with pytest.raises(run_documents.RunError, match='hidden_size is 256'):
    train('z', folder, features='z')
  with pytest.raises(run_documents.RunError, match='trained with another V'):
    train('v', agent.PRETRAINED / 'controller')
  with pytest.raises(run_documents.RunError, match='needs method=dream'):
    train('d', folder, tiny_controller_config())


@pytest.mark.parametrize(
  ('outcomes', 'message'),
  [(True, 'has no start_states'), (False, 'predicts no rewards')],
)
def test_m_without_what_dreams_need(outcomes, message, world, tmp_path):
  m = altered_m(world.mdn_rnn, tmp_path / 'm', outcomes=outcomes)
  with pytest.raises(weights.WeightsError, match=message):
    train_controller.train(tiny_dream_config(), tmp_path / 'r', world.vae, m)
  assert not (tmp_path / 'r').exists()
