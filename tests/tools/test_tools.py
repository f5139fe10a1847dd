import json
import os
import re
import shutil
import signal
import subprocess
import sys

from carracing_rollouts import action_log
from carracing_rollouts import rollout
import imageio.v3 as imageio
from models import agent
from models import weights
import pytest
from tools.lineage import find
from tools.lineage import sources
from tools.pipelines import demonstration
from tools.pipelines import rounds
from tools.pipelines import rounds_of_dreams
from tools.pipelines import stages


@pytest.fixture
def execute(command):
  """Runs a command of a pipeline as `stages.execute` does, but faster."""

  def run_command(arguments):
    program, *rest = arguments
    line = [program, *rest] if program == 'tfds' else rest[1:]
    done = command(*line)
    assert done.status == 0, done.stdout + done.stderr

  return run_command


def test_commands_of_pipelines_are_the_same_everywhere():
  root = str(stages.ROOT)
  for argument, expected in (
    (f'--workdir={root}/runs/vae', '--workdir=runs/vae'),
    (f'{root}/runs', 'runs'),
    (f'--config={{"vae": "{root}/vae"}}', '--config={"vae": "vae"}'),
    (f'--workdir=/mnt{root}/runs', f'--workdir=/mnt{root}/runs'),
    (f'--workdir={root}2/runs', f'--workdir={root}2/runs'),
  ):
    assert stages.relative(argument) == expected


def test_demo_goes_the_whole_way_and_skips_what_is_done(
  tmp_path, command, execute
):
  settings = demonstration.Settings(
    num_episodes=2,
    max_steps=40,
    vae_steps=2,
    mdn_rnn_steps=2,
    controller_steps=2,
    num_tracks=1,
  )
  summary = demonstration.make(tmp_path, settings, execute)
  assert 'squared error' in summary
  assert re.search(r'random policy +-\d', summary)
  assert (tmp_path / 'summary.txt').read_text() == summary
  pictures = tmp_path / 'pictures'
  assert sorted(path.name for path in pictures.iterdir()) == [
    'dream.mp4',
    'dream.png',
    'drive.mp4',
    'drive.png',
    'reconstructions.png',
    'validation-0.mp4',
    'validation-0.png',
  ]
  dream = imageio.imread(pictures / 'dream.mp4', plugin='pyav')
  assert len(dream) == 41

  flags = [f'--output_dir={tmp_path}']
  for name, value in settings.model_dump().items():
    flags.append(f'--{name}={value}')
  again = command('tools.demo', *flags)
  assert again.status == 0
  assert again.stdout.count('already done') == 8
  assert '$' not in again.stdout

  other = command('tools.demo', *flags[:-1], '--num_tracks=3')
  assert other.status == 1
  assert 'choose another --output_dir' in other.stderr


def test_two_rounds_train_on_what_the_first_agent_drives(
  tmp_path, command, execute
):
  settings = rounds.Settings(
    random_episodes=2,
    driven_episodes=2,
    noise='0,0.5',
    max_steps=20,
    vae_steps=2,
    mdn_rnn_steps=2,
    controller_steps=2,
    num_tracks=1,
  )
  summary = rounds.make(tmp_path, settings, execute)
  assert len(re.findall(r'V: squared error .* over 1 track ', summary)) == 2
  log = (tmp_path / 'driven.npz').read_bytes()
  assert re.search(r'\d\.\d  Record: the agent drives', summary)

  # Damaged results are not taken for done.
  (tmp_path / 'driven.npz').write_bytes(b'garbage')
  with pytest.raises(AssertionError, match='driven.npz is no action log'):
    rounds.make(tmp_path, settings, execute)
  (tmp_path / 'driven.npz').write_bytes(log)

  family = sources.Finder(str(tmp_path / 'data'), [tmp_path / 'random'])
  policy, log = family.of('carracing_rollouts/driven').sources
  assert policy.name == 'random_policy'
  assert log.sources[0].path == str(tmp_path / 'random/controller/weights')
  assert agent.load(tmp_path / 'driven' / 'controller' / 'agent')
  seeds = [
    action_log.read(tmp_path / 'driven.npz').header.episodes[0].track_seed,
    *(rollout.episode_seeds(seed, 'train', 0)[0] for seed in (0, 1)),
  ]
  assert len(set(seeds)) == 3  # All on tracks of their own.

  again = command(
    'tools.two_rounds',
    f'--output_dir={tmp_path}',
    *(f'--{name}={value}' for name, value in settings.model_dump().items()),
  )
  assert again.stdout.count('already done') == 13
  results, _ = summary.split('\nMinutes')  # The failure took some time, too.
  assert results in again.stdout


def of_another_c(log):
  episodes = []
  for episode in log.header.episodes:
    sha256 = episode.driver.weights_sha256.model_copy(
      update={'controller': 'c' * 64}
    )
    driver = episode.driver.model_copy(update={'weights_sha256': sha256})
    episodes.append(episode.model_copy(update={'driver': driver}))
  header = log.header.model_copy(update={'episodes': episodes})
  return log._replace(header=header)


def test_rounds_of_dreams_train_on_what_the_last_c_drives(
  tmp_path, command, execute
):
  settings = rounds_of_dreams.Settings(
    rounds=1,
    seed=3,
    random_episodes=2,
    driven_episodes=2,
    noise='0,0.5',
    noise_share=0.5,
    max_steps=20,
    vae_steps=2,
    first_mdn_rnn_steps=2,
    mdn_rnn_steps=2,
    controller_steps=1,
    num_tracks=1,
  )
  summary = rounds_of_dreams.make(tmp_path, settings, execute)
  assert re.search(r'^\| 1 \| .* ± ', summary, re.MULTILINE)
  assert ' on test tracks: ' in summary and ' over 1 track ' in summary

  # It is the best C on selection tracks that drives the test tracks.
  path = tmp_path / 'controller_0' / 'metrics.json'
  content = json.loads(path.read_text())
  for score, best in (1e6, 0), (-1e6, 1):
    for folder in tmp_path.glob('score_*'):
      shutil.rmtree(folder)
    content['validation']['score'] = score
    path.write_text(json.dumps(content))
    summary = rounds_of_dreams.make(tmp_path, settings, execute)
    assert f'is {tmp_path}/controller_{best}; on test tracks: ' in summary
    assert [x.name for x in tmp_path.glob('score_*')] == [f'score_{best}']
    found = find.lineage(tmp_path, str(tmp_path / 'data'), [])
    assert found.newest == tmp_path / f'controller_{best}'
    assert len(found.evaluations) == 1

  # From the last C to the data of the first round: nothing is left out.
  family = sources.Finder(str(tmp_path / 'data'), [tmp_path])
  node = family.of(str(tmp_path / 'controller_1' / 'agent'))
  tree = str(node)
  for name in 'carracing_rollouts/round_1', 'carracing_rollouts/random':
    assert name in tree
  assert str(tmp_path / 'controller_0') in tree  # Who drove.
  digests = [
    weights.describe(tmp_path / x / 'weights').weights_sha256
    for x in ('mdn_rnn', 'mdn_rnn_1')
  ]
  assert all(digest in tree for digest in digests)

  # C is trained on; one that began from zero is not taken for it.
  path = tmp_path / 'controller_1' / 'run.json'
  trained_on = path.read_text()
  content = json.loads(trained_on)
  initial = content['sources'].pop('initial_weights')
  before = weights.describe(tmp_path / 'controller_0' / 'weights')
  assert initial['sha256']['weights'] == before.weights_sha256
  path.write_text(json.dumps(content))
  with pytest.raises(AssertionError, match='initial_weights .*absent there'):
    rounds_of_dreams.make(tmp_path, settings, execute)
  path.write_text(trained_on)

  # Another agent in the place of the best one has another score.
  agent_folder = tmp_path / 'controller_1' / 'agent'
  agent_folder.rename(tmp_path / 'kept')
  shutil.copytree(tmp_path / 'controller_0' / 'agent', agent_folder)
  with pytest.raises(
    AssertionError, match='score_1 holds an evaluation of some'
  ):
    rounds_of_dreams.make(tmp_path, settings, execute)
  shutil.rmtree(agent_folder)
  (tmp_path / 'kept').rename(agent_folder)

  # A log of another C is not taken for the one of the last C.
  log = tmp_path / 'round_1.npz'
  recorded = log.read_bytes()
  action_log.write(log, of_another_c(action_log.read(log)))
  with pytest.raises(AssertionError, match='round_1.npz holds another log'):
    rounds_of_dreams.make(tmp_path, settings, execute)
  # Nor is a dataset of another log.
  driven = action_log.parse(recorded, str(log))
  driven.actions[0][0] = 0.125
  action_log.write(log, driven)
  with pytest.raises(AssertionError, match='round_1.* was built with'):
    rounds_of_dreams.make(tmp_path, settings, execute)
  log.write_bytes(recorded)

  flags = [f'--output_dir={tmp_path}']
  for name, value in settings.model_dump().items():
    flags.append(f'--{name}={value}')
  again = command('tools.dream_rounds', *flags)
  assert again.stdout.count('already done') == 11
  table, _, _ = summary.partition('Minutes')
  assert table in again.stdout
  fewer = command('tools.dream_rounds', *flags, '--rounds=0')
  assert 'was begun with rounds=1, not 0' in fewer.stderr
  settings = settings.model_copy(update={'rounds': 2})
  summary = rounds_of_dreams.make(tmp_path, settings, execute)
  assert re.search(r'^\| 2 \| .* ± ', summary, re.MULTILINE)

  # The C that was trained on is found, with the one it came from.
  family = sources.Finder(str(tmp_path / 'data'), [tmp_path])
  [log] = family.of('carracing_rollouts/round_2').sources
  for driver in log.sources:
    assert driver.path is not None and 'controller_1' in driver.path
    assert [x.kind for x in driver.sources] == ['controller', 'mdn_rnn', 'vae']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted_stage_saves_before_the_pipeline_ends(number, tmp_path):
  process = subprocess.Popen(
    [
      sys.executable, '-m', 'tools.demo', f'--output_dir={tmp_path}',
      '--num_episodes=2', '--max_steps=40', '--vae_steps=1000000',
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )  # fmt: skip
  assert process.stderr
  for line in process.stderr:
    if re.search(r'step [1-9]\d*/1000000', line):
      break
  if number == signal.SIGINT:  # As a terminal does, to the whole group.
    os.killpg(process.pid, number)
  else:
    process.send_signal(number)
  process.communicate()
  assert process.returncode == 128 + number
  assert list((tmp_path / 'vae' / 'checkpoints').glob('[0-9]*'))
