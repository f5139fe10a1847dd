"""Runs the whole pipeline once at a small scale, from simulator to driver.

  python -m tools.demo --output_dir=demo

Builds rollouts, trains a VAE, builds latents, trains an MDN-RNN, saves pictures
and a dream to the output directory, trains a controller, and lets it drive
tracks that it has never seen. Prints each command that it runs.
The same command skips finished stages and continues an interrupted one.
"""

from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import shlex
import subprocess
import sys
import time

from absl import flags
from carracing_data import command_line
from carracing_data import documents
from carracing_data import errors
from carracing_data import places
from etils import epy
from trainers import run_documents

with epy.lazy_imports():
  from carracing_data import prepared  # Imports TFDS, which takes seconds.
  from tools import evaluation

_OUTPUT_DIR = command_line.output_dir_flag('demo')
_NUM_EPISODES = flags.DEFINE_integer(
  'num_episodes', 30, 'Number of episodes.', 2, 100_000
)
_MAX_STEPS = flags.DEFINE_integer(
  'max_steps', 400, 'Maximum steps per episode.', 4, 100_000
)
_VAE_STEPS = flags.DEFINE_integer(
  'vae_steps', 1500, 'Number of training steps of the VAE.', 1, 10_000_000
)
_MDN_RNN_STEPS = flags.DEFINE_integer(
  'mdn_rnn_steps',
  800,
  'Number of training steps of the MDN-RNN.',
  1,
  10_000_000,
)
_CONTROLLER_STEPS = flags.DEFINE_integer(
  'controller_steps',
  500,
  'Number of training steps of the controller.',
  1,
  10_000_000,
)
_NUM_TRACKS = flags.DEFINE_integer(
  'num_tracks',
  16,
  'Number of unseen tracks on which the controller is evaluated.',
  1,
  100_000,
)
_ROOT = Path(__file__).parents[1]


class Settings(documents.Document):
  """Sizes and lengths of a demo.

  Attributes:
    num_episodes: number of episodes; see `carracing_rollouts`.
    max_steps: maximum steps per episode; see `carracing_rollouts`.
    vae_steps: number of training steps of the VAE.
    mdn_rnn_steps: number of training steps of the MDN-RNN.
    controller_steps: number of training steps of the controller.
    num_tracks: number of unseen tracks on which it is evaluated.
  """

  num_episodes: int
  max_steps: int
  vae_steps: int
  mdn_rnn_steps: int
  controller_steps: int
  num_tracks: int


def demo(output_dir: Path, settings: Settings) -> str:
  """Runs every unfinished stage.

  Args:
    output_dir: directory of the datasets, runs and pictures.
    settings: sizes and lengths.

  Returns:
    A summary of the results.

  Raises:
    errors.UserError: a stage failed, or the folder holds a different demo.
  """
  _claim(output_dir, settings)
  started = time.monotonic()
  output_dir = output_dir.absolute()
  data_dir = output_dir / 'data'
  vae, mdn_rnn, controller = (
    output_dir / name for name in ('vae', 'mdn_rnn', 'controller')
  )
  pictures = output_dir / 'pictures'
  seen_steps = min(80, settings.max_steps // 2)

  _build(
    '1/7 Drive: record episodes of a random policy',
    data_dir,
    'carracing_rollouts',
    {
      'name': 'demo',
      'num_episodes': settings.num_episodes,
      'max_steps': settings.max_steps,
    },
  )
  _train(
    '2/7 V: learn to compress a frame to 32 numbers',
    'vae',
    vae,
    {'data_dir': data_dir},
    dataset='carracing_rollouts/demo',
    num_steps=settings.vae_steps,
  )
  _build(
    '3/7 Encode: turn the episodes into latent sequences',
    data_dir,
    'carracing_latents',
    {
      'name': 'demo',
      'rollouts': 'carracing_rollouts/demo',
      'vae': str(vae / 'weights'),
    },
  )
  _train(
    '4/7 M: learn to predict the next latent vector',
    'mdn_rnn',
    mdn_rnn,
    {'data_dir': data_dir},
    dataset='carracing_latents/demo',
    window_steps=min(128, settings.max_steps),
    num_steps=settings.mdn_rnn_steps,
  )

  look = [f'--data_dir={data_dir}', f'--output_dir={pictures}']
  _stage(
      '5/7 Look: show an episode, reconstructions and a dream',
      (pictures / 'dream.mp4').exists(),
      [
          *_python('tools.view_rollouts'), '--dataset=carracing_rollouts/demo',
          '--split=validation', *look,
      ],
      [
          *_python('tools.dream'), '--dataset=carracing_rollouts/demo',
          f'--vae={vae / "weights"}', f'--mdn_rnn={mdn_rnn / "weights"}',
          f'--seen_steps={seen_steps}', '--dream_steps=60', *look,
      ],
  )  # fmt: skip
  _train(
    '6/7 C: learn to drive',
    'controller',
    controller,
    {'vae': vae / 'weights', 'mdn_rnn': mdn_rnn / 'weights'},
    ('weights', 'agent'),
    num_steps=settings.controller_steps,
    eval_every_steps=100,
    selection_tracks=16,
  )
  agent = controller / 'agent'
  _stage(
      '7/7 Drive: unseen tracks, beside the random policy',
      all(
          path.exists()
          for path in (
              pictures / 'drive.mp4',
              output_dir / 'score' / evaluation.FILE,
              output_dir / 'score_of_random_policy' / evaluation.FILE,
          )
      ),
      [
          *_python('tools.evaluate'), f'--agent={agent}',
          f'--episodes={settings.num_tracks}',
          f'--output_dir={output_dir / "score"}',
      ],
      [
          *_python('tools.evaluate'), '--policy=random_policy',
          f'--episodes={settings.num_tracks}',
          f'--output_dir={output_dir / "score_of_random_policy"}',
      ],
      [
          *_python('tools.drive'), f'--agent={agent}',
          f'--output_dir={pictures}',
      ],
  )  # fmt: skip
  summary = _summary(output_dir, time.monotonic() - started)
  with places.write_errors(output_dir):
    (output_dir / 'summary.txt').write_text(summary)
  return summary


def _claim(output_dir: Path, settings: Settings) -> None:
  """Writes the settings to a new folder, or compares them with an old one's."""
  path = places.claim_folder(output_dir) / 'demo.json'
  try:
    found = documents.read(path, Settings)
  except FileNotFoundError:
    documents.write(path, settings.model_dump())
    return
  except errors.DocumentError as error:
    raise errors.UserError(
      f'{error}. If another version of this project wrote it, use that one;'
      ' if not, choose another --output_dir or delete that folder'
    ) from None
  if found != settings:
    raise errors.UserError(
      f'{output_dir} holds a demo with {found}, not with {settings}; choose'
      ' another --output_dir or delete that folder'
    )


def _build(
  title: str, data_dir: Path, dataset: str, config: dict[str, str | int]
) -> None:
  try:
    prepared.find(f'{dataset}/demo', data_dir)
    done = True
  except errors.DatasetError:  # Missing or incomplete.
    done = False
  _stage(
      title,
      done,
      [
          'tfds', 'build', f'datasets/{dataset}', f'--data_dir={data_dir}',
          f'--config={json.dumps(config)}',
      ],
  )  # fmt: skip


def _train(
  title: str,
  model: str,
  workdir: Path,
  inputs: Mapping[str, Path],
  results: Sequence[str] = ('weights',),
  **config: str | float,
) -> None:
  _stage(
      title,
      all((workdir / name).exists() for name in ('metrics.json', *results)),
      [
          *_python(f'trainers.train_{model}'),
          f'--config=trainers/configs/{model}.py',
          f'--workdir={workdir}',
          *(f'--{flag}={path}' for flag, path in inputs.items()),
          *(f'--config.{key}={value}' for key, value in config.items()),
      ],
  )  # fmt: skip


def _python(module: str) -> list[str]:
  return ['python', '-m', module]


def _stage(title: str, done: bool, *steps: list[str]) -> None:
  """Runs the commands of a stage unless it is done."""
  if done:
    print(f'\n{title}: already done', flush=True)
    return
  print(f'\n{title}', flush=True)
  started = time.monotonic()
  for command in steps:
    _run(command)
  print(f'({time.monotonic() - started:.0f} s)', flush=True)


def _run(command: list[str]) -> None:
  """Runs a command with the programs from the folder of this Python."""
  print(f'$ {shlex.join(command)}', flush=True)
  programs = Path(sys.executable).parent
  environment = {
    **os.environ,
    'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}',
    'TF_CPP_MIN_LOG_LEVEL': '3',  # Silences TensorFlow.
  }
  status = subprocess.run(command, cwd=_ROOT, env=environment).returncode
  if status:
    raise errors.UserError(
      f'the command above failed with exit status {status}; rerun the demo to'
      ' continue from there'
    )


def _summary(output_dir: Path, seconds: float) -> str:
  """Returns the validation metrics with their baselines."""
  v, m = (
    run_documents.finished_metrics(output_dir / name).validation
    for name in ('vae', 'mdn_rnn')
  )
  driven, random = (
    evaluation.read(output_dir / name / evaluation.FILE).summary
    for name in ('score', 'score_of_random_policy')
  )
  return f"""
On the validation split (this call took {seconds / 60:.1f} minutes):

V   squared error of a frame's reconstruction   {v['reconstruction']:8.2f}
      best constant frame                       {v['mean_frame_baseline']:8.2f}
    KL, nats                                    {v['kl']:8.2f}

M   NLL of the next z, nats per dimension       {m['nll']:8.3f}
      z does not change                         {m['nll_no_change']:8.3f}
      floor: entropy of the VAE's posterior     {m['nll_floor']:8.3f}

On {driven.episodes} tracks that it has never seen:

C   score, the mean return                      {driven.mean:8.1f}
      random policy                             {random.mean:8.1f}
    share of laps completed                     {driven.laps_completed:8.1%}

{output_dir}
  data/      the datasets carracing_rollouts/demo and carracing_latents/demo
  vae/       run of V: weights/, checkpoints, TensorBoard logs
  mdn_rnn/   run of M, with the same contents
  controller/  run of C, and agent/: V, M and C together
  score/     the return on every unseen track, histogram.png
  pictures/  drive.mp4: the agent at work; reconstructions.png, dream.png,
             dream.mp4, validation-0.png, .mp4

Logs: tensorboard --logdir={output_dir}
"""


def main(argv: Sequence[str]) -> None:
  del argv
  settings = Settings(
    num_episodes=_NUM_EPISODES.value,
    max_steps=_MAX_STEPS.value,
    vae_steps=_VAE_STEPS.value,
    mdn_rnn_steps=_MDN_RNN_STEPS.value,
    controller_steps=_CONTROLLER_STEPS.value,
    num_tracks=_NUM_TRACKS.value,
  )
  summary = demo(places.expand(_OUTPUT_DIR.value), settings)
  print(summary)


if __name__ == '__main__':
  command_line.run(main)
