import contextlib
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys

from carracing_data import command_line
from carracing_data import errors
from carracing_rollouts import action_log
from carracing_rollouts import rollout
from conftest import CONSTANT_LEARNING_RATE
import imageio.v3 as imageio
from models import weights
import pytest
from tools import demo
from tools import dream_rounds
from tools.lineage import find
from tools.lineage import sources
from tools.pipelines import recipe
from tools.pipelines import settings as settings_lib
from tools.pipelines import stages
from trainers import run_documents

TINY = {
  'random_episodes': 2,
  'driven_episodes': 2,
  'max_steps': 20,
  'vae_steps': 2,
  'mdn_rnn_steps': 2,
  'later_mdn_rnn_steps': 2,
  'selection_tracks': 16,
  'num_tracks': 1,
}
# Flags that are added to the commands of pipelines: V shares its compiled step
# with other tests, and fewer laps are driven.
SMALL = {
  'trainers.train_vae': {
    'batch_size': 16,
    'eval_frames': 40,
    **CONSTANT_LEARNING_RATE,
  },
  'trainers.train_mdn_rnn': {'batch_size': 4},
  'trainers.train_controller': {'num_cars': 2, 'selection_tracks': 2},
}


@pytest.fixture
def execute(command):
  """Runs a command of a pipeline as `stages.execute` does, but faster."""

  def run_command(arguments):
    program, *rest = arguments
    line = [program, *rest] if program == 'tfds' else rest[1:]
    line += [f'--config.{x}={y}' for x, y in SMALL.get(line[0], {}).items()]
    done = command(*line)
    assert done.status == 0, done.stdout + done.stderr

  return run_command


def config_flags_of(settings):
  return [f'--config.{x}={y}' for x, y in settings.model_dump().items()]


def stamp_of(folder, name):
  return json.loads((folder / 'stages' / f'{name}.json').read_text())


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


def test_a_stage_is_done_while_its_stamp_matches(tmp_path, capsys, caplog):
  source, copy = tmp_path / 'source', tmp_path / 'copy'
  stamp = tmp_path / 'stages' / 'a' / 'copying.json'
  source.write_text('one')
  pipeline = stages.Pipeline(tmp_path, stages.execute)

  def runs(*options):
    pipeline.run(
      'a/copying',
      'copies',
      ['cp', *options, str(source), str(copy)],
      [source],
      [copy],
    )
    return 'already done' not in capsys.readouterr().out

  assert runs()
  assert not runs()
  assert runs('-f')  # Another command.
  source.write_text('two')
  assert runs('-f') and copy.read_text() == 'two'
  copy.write_text('damaged')
  assert runs('-f') and copy.read_text() == 'two'
  copy.unlink()
  assert runs('-f')
  stamp.unlink()
  assert runs('-f')  # And leaves its stamp again.
  assert not runs('-f')
  stamp.write_text('{')
  assert runs('-f')
  assert 'Earlier times of a stage are lost: ' in caplog.text
  assert not runs('-f')


def test_times_of_a_stage_add_up_over_its_attempts(tmp_path):
  pipeline = stages.Pipeline(tmp_path, stages.execute)
  made = tmp_path / 'made'

  def run():
    # Fails until the file is there.
    pipeline.run('looking', 'looks', ['test', '-e', str(made)], [], [made])

  with pytest.raises(errors.UserError, match='failed with exit status 1'):
    run()
  content = stamp_of(tmp_path, 'looking')
  assert content['outputs'] == {}
  content['seconds'] = 600.0
  (tmp_path / 'stages' / 'looking.json').write_text(json.dumps(content))
  made.touch()
  run()
  assert stamp_of(tmp_path, 'looking')['seconds'] >= 600
  run()
  assert pipeline.minutes()[0].split() == ['10.0', 'looking']


def test_a_folder_of_earlier_code_is_refused_and_left_as_it_is(tmp_path):
  settings = settings_lib.Settings()
  path = tmp_path / settings_lib.FILE
  settings_lib.claim(tmp_path, settings)
  written = path.stat().st_mtime_ns
  settings_lib.claim(tmp_path, settings)
  assert path.stat().st_mtime_ns == written
  earlier = settings.model_dump(exclude={'interventions', 'seed'})
  path.write_text(json.dumps(earlier))
  with pytest.raises(
    errors.UserError, match='earlier version .*, without interventions, seed;'
  ):
    settings_lib.claim(tmp_path, settings)
  assert json.loads(path.read_text()) == earlier


def test_a_folder_keeps_its_settings_but_for_more_rounds(tmp_path):
  settings = settings_lib.Settings(rounds=1)
  settings_lib.claim(tmp_path, settings)
  more = settings.model_copy(update={'rounds': 2})
  settings_lib.claim(tmp_path, more)
  for other, message in (
    (settings, 'was begun with rounds=2, not 1; pass what'),
    (more.model_copy(update={'seed': 4}), 'begun with seed=0, not 4; pass wh'),
  ):
    with pytest.raises(errors.UserError, match=message):
      settings_lib.claim(tmp_path, other)


def test_demo_goes_the_whole_way_and_its_agent_drives_what_a_round_learns(
  tmp_path, command, execute
):
  """The stages of the demo, with one round more, as in `tools.two_rounds`."""
  settings = demo.SETTINGS.model_copy(
    update={**TINY, 'rounds': 1, 'max_steps': 40, 'controller_steps': 2}
  )
  summary = settings_lib.make_in(tmp_path, settings, demo.make, execute)
  assert re.search(r'^\| 1 \| \d+\.\d.* ± ', summary, re.MULTILINE)
  assert ' on development tracks: ' in summary and ' over 1 track ' in summary
  assert re.search(r'random policy, development tracks +-\d', summary)
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

  # V and M are trained on what was driven beside random episodes.
  for name, dataset, suffix in (
    ('vae', 'carracing_rollouts', ''),
    ('mdn_rnn', 'carracing_latents', '_v1'),
  ):
    run = run_documents.read_run(tmp_path / 'round_1' / name)
    assert run is not None
    names = [x.name.partition(':')[0] for x in run.sources.values()]
    assert names == [f'{dataset}/{x}{suffix}' for x in ('random', 'round_1')]
  family = sources.Finder(
    str(tmp_path / 'data'), [tmp_path, tmp_path / 'round_1']
  )
  [log] = family.of('carracing_rollouts/round_1').sources
  assert log.sources[0].path == str(tmp_path / 'controller' / 'weights')
  seeds = [
    *(
      x.track_seed
      for x in action_log.read(
        tmp_path / 'round_1' / 'driven.npz'
      ).header.episodes
    ),
    *(rollout.episode_seeds(0, x, 0)[0] for x in ('train', 'validation')),
  ]
  assert len(set(seeds)) == 4  # All on tracks of their own.

  flags = [f'--output_dir={tmp_path}', *config_flags_of(settings)]
  again = command('tools.demo', *flags)
  assert again.status == 0, again.stderr
  assert again.stdout.count('already done') == 18
  assert '$' not in again.stdout
  assert summary in again.stdout  # With the minutes that it really took.

  # A new C has a new score, and they have a new report.
  report = (tmp_path / 'report.html').read_bytes()
  stages_folder = tmp_path / 'stages'
  [score] = tmp_path.rglob('score')
  best = score.relative_to(tmp_path).parent
  shutil.rmtree(tmp_path / best / 'controller')
  shutil.rmtree(score)
  before = {x: x.read_bytes() for x in stages_folder.rglob('*.json')}
  settings_lib.make_in(tmp_path, settings, demo.make, execute)
  anew = {
    path.relative_to(stages_folder)
    for path in stages_folder.rglob('*.json')
    if path.read_bytes() != before.get(path)
  }
  assert anew == {
    best / 'controller.json',
    best / 'score.json',
    Path('report.json'),
  }
  assert (tmp_path / 'report.html').read_bytes() != report

  # What was made with other settings is not overwritten; the same is accepted.
  (tmp_path / 'pipeline.json').unlink()
  other = settings.model_copy(update={'speed_penalty': 0.25})
  with pytest.raises(AssertionError, match='speed_penalty is 1.2 there and'):
    settings_lib.make_in(tmp_path, other, demo.make, execute)
  assert stamp_of(tmp_path, 'controller')['outputs'] == {}
  (tmp_path / 'pipeline.json').unlink()
  (tmp_path / 'stages' / 'controller.json').unlink()
  settings_lib.make_in(tmp_path, settings, demo.make, execute)
  assert stamp_of(tmp_path, 'controller')['outputs']


def test_rounds_of_dreams_train_on_what_the_last_c_drives(
  tmp_path, command, execute, monkeypatch
):
  first = dream_rounds.SETTINGS.model_copy(
    update={**TINY, 'rounds': 0, 'seed': 3, 'controller_steps': 1}
  )
  settings = first.model_copy(update={'rounds': 1})

  def make(settings):
    return settings_lib.make_in(tmp_path, settings, recipe.make, execute)

  summary = make(first)
  assert f'is {tmp_path}/controller; on development tracks: ' in summary

  # It is the best C on selection tracks that drives the development tracks.
  selection = recipe._selection
  for best, folder in (1, tmp_path / 'round_1'), (0, tmp_path):
    monkeypatch.setattr(
      recipe,
      '_selection',
      lambda *x, best=best: {**selection(*x), 'score': float(x[1] == best)},
    )
    summary = make(settings)
    assert re.search(r'^\| 1 \| kept \| .* ± ', summary, re.MULTILINE)
    assert f'is {folder}/controller; on development tracks: ' in summary
    assert ' over 1 track ' in summary and (folder / 'score').exists()
  found = find.lineage(tmp_path, str(tmp_path / 'data'), [])
  assert found.newest == tmp_path / 'round_1' / 'controller'
  assert len(found.evaluations) == 1  # That of its own C.

  # From the last C to the data of the first round: nothing is left out.
  family = sources.Finder(
    str(tmp_path / 'data'), [tmp_path, tmp_path / 'round_1']
  )
  tree = str(family.of(str(tmp_path / 'round_1' / 'controller' / 'agent')))
  for name in 'carracing_rollouts/round_1', 'carracing_rollouts/random':
    assert name in tree
  trained = {
    name: weights.describe(tmp_path / name / 'weights').weights_sha256
    for name in ('mdn_rnn', 'round_1/mdn_rnn', 'controller')
  }
  assert all(digest in tree for digest in trained.values())
  # M and C are trained on.
  for name in 'mdn_rnn', 'controller':
    run = run_documents.read_run(tmp_path / 'round_1' / name)
    assert run is not None
    initial = run.sources['initial_weights'].sha256['weights']
    assert initial == trained[name]
  run = run_documents.read_run(tmp_path / 'round_1' / 'mdn_rnn')
  assert run is not None and len(run.sources) == 3  # Two datasets and M.

  # Damaged results are not taken for done.
  log = tmp_path / 'round_1' / 'driven.npz'
  recorded = log.read_bytes()
  log.write_bytes(b'garbage')
  with pytest.raises(AssertionError, match='driven.npz is no action log'):
    make(settings)
  # Nor is a dataset of another log.
  driven = action_log.parse(recorded, str(log))
  driven.actions[0][0] = 0.125
  action_log.write(log, driven)
  with pytest.raises(AssertionError, match='round_1.* was built with'):
    make(settings)
  log.write_bytes(recorded)

  make(settings)
  flags = [f'--output_dir={tmp_path}', *config_flags_of(settings)]
  again = command('tools.dream_rounds', *flags)
  assert again.stdout.count('already done') == 11, again.stderr


def test_interrupted_stage_saves_before_the_pipeline_ends(command, tmp_path):
  last = 0
  for number, send in (
    (signal.SIGINT, os.killpg),  # As a terminal does, to the whole group.
    (signal.SIGTERM, os.kill),  # As Docker does.
  ):
    process = command.start(
      'tools.demo', f'--output_dir={tmp_path}',
      '--config.random_episodes=2', '--config.max_steps=40',
      '--config.vae_steps=1000000',
    )  # fmt: skip
    while process.poll() is None and not re.search(
      r'step [1-9]\d*/1000000', process.stderr()
    ):
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.1)
    assert process.poll() is None, process.stderr()
    send(process.pid, number)
    _, said = process.communicate()
    assert process.returncode == 128 + number, said
    # A stage that was sent no signal is sent SIGTERM.
    [step] = re.findall(r'Stopped by \w+ after step (\d+)', said)
    assert last == 0 or f'Continuing from step {last}' in said
    assert int(step) > last
    last = int(step)
    assert said.endswith(
      f'Stopped by {number.name}; {command_line.CONTINUE}.\n'
    )
    assert (tmp_path / 'vae' / 'checkpoints' / step).exists()
    assert stamp_of(tmp_path, 'vae')['outputs'] == {}


_STAGE = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""
_PIPELINE = f"""
import sys
from carracing_data import command_line
from tools.pipelines import stages
command_line.run(lambda _: stages.execute([sys.executable, '-c', {_STAGE!r}]))
"""


def test_stopped_pipeline_leaves_no_stage_behind():
  process = subprocess.Popen(
    [sys.executable, '-c', _PIPELINE],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  stage = int(process.stdout.readline())
  for _ in range(2):  # The stage ignores the first.
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(0.3)
  _, said = process.communicate()
  assert process.returncode == 130, said
  assert said == f'Stopped by SIGINT; {command_line.CONTINUE}.\n'
  with pytest.raises(ProcessLookupError):
    os.kill(stage, 0)
