"""Small shared fixtures: real episodes, a real VAE and real latents."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import fcntl
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from typing import Any

from carracing_data import runtime
from carracing_latents import (
  carracing_latents_dataset_builder as latents_builder,
)
from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from gymnasium.envs.box2d import car_racing
import jax
import ml_collections
from models import weights
import numpy as np
from playwright import sync_api
import pytest
from trainers import run_documents
from trainers import train_mdn_rnn
from trainers import train_vae
from trainers.configs import controller as controller_config
from trainers.configs import controller_dream
from trainers.configs import controller_evolution
from trainers.configs import mdn_rnn as mdn_rnn_config
from trainers.configs import vae as vae_config

jax.config.update('jax_numpy_rank_promotion', 'raise')
runtime.prepare()  # Caches compiled steps: many tests share them.
# Windows open without a display; SDL's own choices crash beside TensorFlow.
os.environ['SDL_VIDEODRIVER'] = 'dummy'

PROJECT = Path(__file__).parents[1]
VERSION = str(rollouts_builder.Builder.VERSION)
LATENTS_VERSION = str(latents_builder.Builder.VERSION)
ROLLOUTS = {'num_episodes': 4, 'max_steps': 70, 'seed': 1}
# Leaves the playing field after 285 steps: the only data with terminations.
STRAIGHT_AHEAD = {
  'num_episodes': 2,
  'max_steps': 400,
  'policy': 'straight_ahead',
}


@dataclasses.dataclass(frozen=True)
class World:
  """Artefacts of the fixtures below.

  Attributes:
    data_dir: data directory with `tiny` and `straight_ahead` of both datasets.
    vae: folder with exported weights.
    mdn_rnn: folder with exported weights.
  """

  data_dir: Path
  vae: Path
  mdn_rnn: Path


@dataclasses.dataclass(frozen=True)
class Done:
  """The result of a command.

  Attributes:
    status: exit status; None after a timeout.
    stdout: standard output.
    stderr: standard error.
  """

  status: int | None
  stdout: str
  stderr: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts modules first that need no shared artefacts.

  One test process makes these artefacts; the others need not wait for it.
  """
  waiting = {x.path for x in items if 'data_dir' in x.fixturenames}
  items.sort(key=lambda x: x.path in waiting)


def made_once(
  tmp_path_factory: pytest.TempPathFactory,
  name: str,
  make: Callable[[Path], None],
) -> Path:
  """Returns a folder that one test process makes for all of them."""
  root = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    root = root.parent
  folder = root / name
  with (root / f'{name}.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (root / f'{name}.done').exists():
      make(folder)
      (root / f'{name}.done').touch()
  return folder


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Data directory with carracing_rollouts/tiny: 3 + 1 episodes of 71 steps."""

  def make(folder: Path) -> None:
    for name, config in ('tiny', ROLLOUTS), ('straight_ahead', STRAIGHT_AHEAD):
      rollouts_builder.Builder(
        data_dir=folder,
        config=rollouts_builder.RolloutsConfig(name=name, **config),
        num_workers=1,
      ).download_and_prepare()

  return made_once(tmp_path_factory, 'data', make)


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
  """Data directory with carracing_rollouts/kept:1.1.0@0830f6da9908.

  Two episodes of 5 steps, which the code of that version has built.
  """
  archive = Path(__file__).with_name('rollouts_of_version_1.zip')
  shutil.unpack_archive(archive, tmp_path / 'version_1')
  return tmp_path / 'version_1'


@pytest.fixture(scope='session')
def world(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
  """Artefacts of all later stages, with a few training steps each."""

  def make(runs: Path) -> None:
    train_vae.train(tiny_vae_config(), runs / 'vae', str(data_dir))
    for name in 'tiny', 'straight_ahead':
      config = latents_builder.LatentsConfig(
        name=name,
        rollouts=f'carracing_rollouts/{name}',
        vae=str(runs / 'vae' / 'weights'),
      )
      latents_builder.Builder(
        data_dir=data_dir, config=config
      ).download_and_prepare()
    train_mdn_rnn.train(tiny_mdn_rnn_config(), runs / 'mdn_rnn', str(data_dir))

  runs = made_once(tmp_path_factory, 'runs', make)
  return World(data_dir, runs / 'vae' / 'weights', runs / 'mdn_rnn' / 'weights')


def save_agent(folder: Path, world: World, hidden_size: int) -> None:
  """Saves an agent with V and M of a world and random weights of C."""
  training = {'sources': {}}
  for name in 'vae', 'mdn_rnn':
    shutil.copytree(getattr(world, name), folder / name)
    sha256 = weights.describe(folder / name).weights_sha256
    training[f'{name}_sha256'] = sha256
    training['sources'][name] = {'name': name, 'sha256': {'weights': sha256}}
  kernel = np.random.default_rng(0).normal(0, 0.5, (32 + hidden_size, 3))
  bias = np.array([0, 0, -1], np.float32)
  weights.save(
    folder / 'controller',
    'controller',
    {'latent_size': 32, 'hidden_size': hidden_size},
    {'linear': {'kernel': kernel.astype(np.float32), 'bias': bias}},
    training,
  )


@pytest.fixture(scope='session')
def agent_folder(
  world: World, tmp_path_factory: pytest.TempPathFactory
) -> Path:
  """Folder of an agent whose actions depend on z and h."""
  return made_once(
    tmp_path_factory, 'agent', lambda folder: save_agent(folder, world, 256)
  )


class Process:
  """A command that runs, with the methods of `subprocess.Popen`.

  Attributes:
    pid: its process id.
    returncode: exit status, negative for a signal; None while it runs.
  """

  def __init__(self, pid: int, folder: Path, ask: Callable[..., Any]):
    self.pid = pid
    self.returncode: int | None = None
    self._folder = folder
    self._ask = ask

  def poll(self) -> int | None:
    if self.returncode is None:
      self.returncode = self._ask(poll=self.pid)
    return self.returncode

  def wait(self, timeout: float = 600) -> int:
    """Returns the exit status.

    Raises:
      subprocess.TimeoutExpired: it still runs.
    """
    deadline = time.monotonic() + timeout
    while self.poll() is None:
      if time.monotonic() > deadline:
        raise subprocess.TimeoutExpired('command', timeout)
      time.sleep(0.01)
    assert self.returncode is not None
    return self.returncode

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self.pid, number)

  def stderr(self) -> str:
    """Returns the standard error so far."""
    return (self._folder / 'stderr').read_text(errors='replace')

  def communicate(self) -> tuple[str, str]:
    """Waits, and returns the standard output and the standard error."""
    self.wait()
    stdout = (self._folder / 'stdout').read_text(errors='replace')
    return stdout, self.stderr()


class Commands:
  """Runs `python -m MODULE ARGUMENTS...`, or `tfds`, as a user would."""

  def __init__(self, ask: Callable[..., Any], folder: Path):
    self._ask = ask
    self._folder = folder
    self._started: list[Process] = []

  def start(
    self,
    module: str,
    *arguments: object,
    cwd: Path = PROJECT,
    environment: Mapping[str, str] = types.MappingProxyType({}),
    file_bytes: int | None = None,
  ) -> Process:
    """Starts a command, as `subprocess.Popen` does.

    Args:
      module: what runs; or `tfds`.
      *arguments: its command line.
      cwd: where it runs.
      environment: variables that the tests do not have.
      file_bytes: how large files may become; the disk is full from there on.
    """
    folder = Path(tempfile.mkdtemp(dir=self._folder))
    said = {name: folder / name for name in ('stdout', 'stderr')}
    for path in said.values():
      path.touch()
    pid = self._ask(
      start=[module, *map(str, arguments)],
      cwd=str(cwd),
      environment={**environment},
      file_bytes=file_bytes,
      **{name: str(path) for name, path in said.items()},
    )
    process = Process(pid, folder, self._ask)
    self._started.append(process)
    return process

  def kill(self) -> None:
    """Ends what tests that failed have left running."""
    for process in self._started:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)

  def __call__(
    self, module: str, *arguments: object, seconds: float = 300, **kwargs: Any
  ) -> Done:
    """Runs a command to its end, or kills it after some seconds."""
    process = self.start(module, *arguments, **kwargs)
    status = None
    with contextlib.suppress(subprocess.TimeoutExpired):
      status = process.wait(seconds)
    if status is None:
      os.killpg(process.pid, signal.SIGKILL)
    return Done(status, *process.communicate())


@pytest.fixture(scope='session')
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
  server = subprocess.Popen(
    [sys.executable, str(Path(__file__).with_name('command_server.py'))],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    env={
      **os.environ,
      'TF_CPP_MIN_LOG_LEVEL': '3',
      'PYTHONPATH': os.pathsep.join([str(PROJECT), str(PROJECT / 'datasets')]),
    },
    text=True,
  )
  assert server.stdin and server.stdout
  assert server.stdout.readline() == 'ready\n'

  def ask(**request: Any) -> Any:
    print(json.dumps(request), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())

  commands = Commands(ask, tmp_path_factory.mktemp('commands'))
  yield commands
  commands.kill()
  server.stdin.close()
  server.wait()


def interrupt(process, number, workdir, step):
  """Sends a signal as soon as the checkpoint of a step is complete."""
  record = workdir / 'checkpoints' / str(step) / 'record.json'
  while process.poll() is None and not record.exists():
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(0.01)
  process.send_signal(number)
  _, said = process.communicate()
  return process.returncode, said


def logged_metrics(workdir):
  """Returns the lines of `metrics.jsonl` without what depends on the time."""
  timed = 'train/examples_per_second', 'train/input_wait_share', 'train/share_'
  return [
    {tag: value for tag, value in line.items() if not tag.startswith(timed)}
    for line in run_documents.read_lines(workdir)
  ]


def drive_from_poses(stock, ours):
  """Steps two games from the same poses, on the track and at the field's edge.

  Yields:
    What `step` returned without `info`, of the stock game and of ours.
  """
  stock.reset(seed=3)
  ours.reset(seed=3)
  rng = np.random.default_rng(3)
  on_track = np.array(stock.track)[::8, 2:]
  at_the_edge = rng.uniform(0.8, 1, (30, 2)) * rng.choice([-1, 1], (30, 2))
  for place in [*on_track, *(car_racing.PLAYFIELD * at_the_edge)]:
    angle = rng.uniform(-9, 9)
    for game in stock, ours:
      game.t = 1.0  # The view has zoomed in.
      offset = np.subtract(place, game.car.hull.position)
      for body in game.car.hull, *game.car.wheels:
        body.position += offset
        body.angle = angle
    action = rng.uniform(0, 1, 3).astype(np.float32)
    yield stock.step(action)[:-1], ours.step(action)[:-1]


# With it trainings of any length share one compiled step.
CONSTANT_LEARNING_RATE = {'cosine_decay': False, 'warmup_steps': 0}


def tiny_vae_config() -> ml_collections.ConfigDict:
  config = vae_config.get_config()
  config.update(
    dataset='carracing_rollouts/tiny',
    batch_size=16,
    num_steps=6,
    log_every_steps=2,
    eval_every_steps=3,
    eval_frames=40,
    checkpoint_every_steps=3,
    **CONSTANT_LEARNING_RATE,
  )
  return config


def tiny_mdn_rnn_config() -> ml_collections.ConfigDict:
  config = mdn_rnn_config.get_config()
  config.update(
    dataset='carracing_latents/tiny',
    batch_size=4,
    window_steps=24,
    num_steps=6,
    log_every_steps=2,
    eval_every_steps=3,
    checkpoint_every_steps=3,
    **CONSTANT_LEARNING_RATE,
  )
  return config


def tiny_controller_config() -> ml_collections.ConfigDict:
  config = controller_config.get_config()
  config.update(
    num_cars=3,
    drive_steps=8,
    warmup_steps=2,
    stuck_steps=20,
    critic_size=16,
    batch_size=8,
    updates_per_step=3,
    replay_steps=90,
    num_steps=8,
    log_every_steps=2,
    eval_every_steps=4,
    selection_tracks=3,
    checkpoint_every_steps=3,
  )
  return config


def tiny_dream_config() -> ml_collections.ConfigDict:
  config = controller_dream.get_config()
  config.update(
    num_dreams=4,
    dream_steps=5,
    critic_size=16,
    updates_per_step=3,
    num_cars=3,
    num_steps=8,
    log_every_steps=2,
    eval_every_steps=4,
    selection_tracks=3,
    checkpoint_every_steps=3,
  )
  return config


def tiny_evolution_config() -> ml_collections.ConfigDict:
  config = controller_evolution.get_config()
  config.update(
    num_cars=4,
    stuck_steps=5,
    num_steps=8,
    log_every_steps=2,
    eval_every_steps=4,
    selection_tracks=4,
    checkpoint_every_steps=3,
  )
  return config


@pytest.fixture(scope='module')
def browser():
  chromium = shutil.which('chromium')
  if chromium is None:
    pytest.skip('there is no Chromium; run: apt-get install chromium')
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=chromium, args=['--no-sandbox']
    )
    yield browser
    browser.close()


@pytest.fixture
def check_page(browser):
  """Returns a function that looks at an HTML file on a phone and a screen.

  It opens the file without scripts and fails if the browser complains, if it
  asks for anything but files and data, if the page is wider than the window,
  or if a picture cannot be shown or has no text that stands for it.
  """
  complaints = []

  def complain(x):
    complaints.append(str(x))

  def check(path):
    for width in 360, 1280:
      page = browser.new_page(
        viewport={'width': width, 'height': 800}, java_script_enabled=False
      )
      page.on('console', lambda message: complain(message.text))
      page.on('requestfailed', lambda x: complain(f'failed: {x.url[:200]}'))
      page.on(
        'request',
        lambda x: x.url.startswith(('file:', 'data:')) or complain(x.url),
      )
      page.goto(path.as_uri())
      assert not complaints
      root = 'document.documentElement'
      assert page.evaluate(f'{root}.scrollWidth') <= width
      pictures = page.evaluate(
        '[...document.images].map((x) => [x.alt, x.naturalWidth])'
      )
      assert all(alt and shown for alt, shown in pictures), pictures
      page.close()

  return check
