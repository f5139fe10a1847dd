"""Makes an agent in two rounds: random data, then what the first one drove."""

from collections.abc import Mapping
from pathlib import Path

from carracing_data import files
from carracing_data import json_documents
from carracing_data import processes
from carracing_rollouts import scores
from tools.driving import track_scores
from tools.pipelines import stages
from trainers import run_documents


class Settings(json_documents.Document):
  """Sizes and lengths; see the flags of `tools.two_rounds`."""

  random_episodes: int
  driven_episodes: int
  noise: str
  max_steps: int
  vae_steps: int
  mdn_rnn_steps: int
  controller_steps: int
  num_tracks: int


def make(output_dir: Path, settings: Settings, execute: stages.Execute) -> str:
  """Runs every unfinished stage.

  Args:
    output_dir: directory of the datasets, runs and scores.
    settings: sizes and lengths.
    execute: runs a command, see `stages.execute`.

  Returns:
    A summary of the results.

  Raises:
    errors.UserError: a stage failed, or the folder holds another pipeline.
  """
  stages.claim(output_dir, 'two_rounds.json', settings)
  output_dir = output_dir.absolute()
  pipeline = stages.Pipeline(output_dir, 13, execute)
  random = {
    'num_episodes': settings.random_episodes,
    'max_steps': settings.max_steps,
  }
  first = _train(pipeline, output_dir, settings, 'random', random)
  log = output_dir / 'driven.npz'
  pipeline.record(
    'Record: the agent drives, with and without noise',
    first,
    log,
    noise=settings.noise,
    num_episodes=settings.driven_episodes,
    max_steps=settings.max_steps,
    seed=2,  # Neither round has random episodes of this seed.
  )
  second = _train(
    pipeline,
    output_dir,
    settings,
    'driven',
    {**random, 'seed': 1, 'actions': str(log)},
  )
  for title, agent in ('random', first), ('driven', second):
    pipeline.score(
      f'Score: C of the round on {title} episodes',
      agent,
      _score(output_dir, title),
      settings.num_tracks,
    )
  summary = _summary(output_dir, pipeline.seconds())
  with files.write_errors(output_dir):
    (output_dir / 'summary.txt').write_text(summary)
  return summary


def _train(
  pipeline: stages.Pipeline,
  output_dir: Path,
  settings: Settings,
  name: str,
  rollouts: Mapping[str, str | int],
) -> Path:
  """Trains V, M and C on a dataset; returns the folder of the agent."""
  controller = output_dir / name / 'controller'
  weights = pipeline.train_world_model(
    [
      f'Rollouts: {name} episodes',
      f'V, on {name} episodes',
      f'Latents of {name} episodes',
      f'M, on {name} episodes',
    ],
    output_dir / name,
    rollouts={'name': name, **rollouts},
    max_steps=settings.max_steps,
    vae_steps=settings.vae_steps,
    mdn_rnn_steps=settings.mdn_rnn_steps,
  )
  pipeline.train(
    f'C, with V and M of {name} episodes',
    'controller',
    controller,
    weights,
    num_steps=settings.controller_steps,
  )
  return controller / 'agent'


def _score(output_dir: Path, name: str) -> Path:
  return output_dir / name / 'score'


def _summary(output_dir: Path, seconds: dict[str, float]) -> str:
  """Returns scores, metrics and times."""
  lines = ['']
  for name in 'random', 'driven':
    v, m = (
      run_documents.finished_metrics(output_dir / name / model).validation
      for model in ('vae', 'mdn_rnn')
    )
    of_round = track_scores.read(_score(output_dir, name) / track_scores.FILE)
    lines.append(
      f'{name} episodes: V: squared error {v["reconstruction"]:.1f} · M:'
      f' {m["nll"] - m["nll_floor"]:.3f} nats above the floor · C:'
      f' {scores.describe(of_round.summary)}'
    )
  lines += ['', f'Minutes, on {processes.num_cores()} cores:']
  lines += [f'{x / 60:6.1f}  {title}' for title, x in seconds.items()]
  lines.append(f'{sum(seconds.values()) / 60:6.1f}  altogether')
  return '\n'.join(lines) + '\n'
