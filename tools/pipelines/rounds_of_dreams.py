"""Makes an agent whose C has learnt in dreams alone, round by round."""

from pathlib import Path

from carracing_data import files
from carracing_data import json_documents
from carracing_data import processes
from carracing_rollouts import scores
from tools.driving import track_scores
from tools.pipelines import stages
from tools.showing import markdown
from trainers import run_documents

# Of the seeds of rounds, apart from those of random episodes.
_FIRST_SEED, _SEEDS_PER_CHAIN = 1_000_000, 1000


class Settings(json_documents.Document):
  """Sizes and lengths; see the flags of `tools.dream_rounds`."""

  rounds: int
  seed: int
  random_episodes: int
  driven_episodes: int
  noise: str
  noise_share: float
  max_steps: int
  vae_steps: int
  first_mdn_rnn_steps: int
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
  stages.claim(output_dir, 'dream_rounds.json', settings, growing='rounds')
  output_dir = output_dir.absolute()
  pipeline = stages.Pipeline(output_dir, 6 + 5 * settings.rounds, execute)
  weights = pipeline.train_world_model(
    [
      'Rollouts: random episodes',
      'V, on random episodes',
      'Latents of random episodes',
      'M, on random episodes',
    ],
    output_dir,
    rollouts={
      'name': 'random',
      'num_episodes': settings.random_episodes,
      'max_steps': settings.max_steps,
      'seed': settings.seed,
    },
    max_steps=settings.max_steps,
    vae_steps=settings.vae_steps,
    mdn_rnn_steps=settings.first_mdn_rnn_steps,
    seed=settings.seed,
  )
  datasets = ['random']
  for number in range(settings.rounds + 1):
    if number:
      datasets.append(f'round_{number}')
      _record(pipeline, output_dir, settings, number, weights['vae'])
      weights['mdn_rnn'] = _continue_m(
        pipeline, output_dir, settings, datasets, weights['mdn_rnn']
      )
    inputs = {**weights}
    if number:
      inputs['initial_weights'] = (
        _controller(output_dir, number - 1) / 'weights'
      )
    pipeline.train(
      f'C, in dreams of M {number}',
      'controller',
      _controller(output_dir, number),
      inputs,
      config_file='controller_dream',
      num_steps=settings.controller_steps,
      eval_every_steps=settings.controller_steps,
      # The same draws in every round would not average out.
      seed=_seed(settings, number) if number else settings.seed,
    )
  # A later C is not always a better one.
  best = max(
    range(settings.rounds + 1),
    key=lambda x: _validation(_controller(output_dir, x))['score'],
  )
  pipeline.score(
    f'Score: C {best}, the best on selection tracks, on test tracks',
    _controller(output_dir, best) / 'agent',
    _score(output_dir, best),
    settings.num_tracks,
  )
  summary = _summary(output_dir, settings.rounds, best, pipeline.seconds())
  with files.write_errors(output_dir):
    (output_dir / 'summary.txt').write_text(summary)
  return summary


def _controller(output_dir: Path, number: int) -> Path:
  return output_dir / f'controller_{number}'


def _validation(workdir: Path) -> dict[str, float]:
  """Returns what a finished run measured: of C, on selection tracks."""
  return run_documents.finished_metrics(workdir).validation


def _seed(settings: Settings, number: int) -> int:
  """Returns the seed of what is recorded in a round, and of its C."""
  return _FIRST_SEED + _SEEDS_PER_CHAIN * settings.seed + number


def _score(output_dir: Path, number: int) -> Path:
  return output_dir / f'score_{number}'


def _record(
  pipeline: stages.Pipeline,
  output_dir: Path,
  settings: Settings,
  number: int,
  vae: Path,
) -> None:
  """Records the newest C and makes a dataset of it, three stages."""
  log = output_dir / f'round_{number}.npz'
  pipeline.record(
    f'Record {number}: the last C drives, with and without noise',
    _controller(output_dir, number - 1) / 'agent',
    log,
    noise=settings.noise,
    noise_share=settings.noise_share,
    num_episodes=settings.driven_episodes,
    max_steps=settings.max_steps,
    seed=_seed(settings, number),
  )
  name = f'round_{number}'
  pipeline.build(
    f'Rollouts {number}: what was recorded',
    'carracing_rollouts',
    {
      'name': name,
      'policy': 'recorded',
      'num_episodes': 0,
      'max_steps': settings.max_steps,
      'actions': str(log),
    },
  )
  pipeline.build(
    f'Latents {number}',
    'carracing_latents',
    {'name': name, 'rollouts': f'carracing_rollouts/{name}', 'vae': str(vae)},
  )


def _continue_m(
  pipeline: stages.Pipeline,
  output_dir: Path,
  settings: Settings,
  datasets: list[str],
  initial_weights: Path,
) -> Path:
  """Trains M on, on all data so far; returns the folder of its weights."""
  number = len(datasets) - 1
  workdir = output_dir / f'mdn_rnn_{number}'
  pipeline.train(
    f'M {number}, trained on with all episodes so far',
    'mdn_rnn',
    workdir,
    {'data_dir': pipeline.data_dir, 'initial_weights': initial_weights},
    dataset='+'.join(f'carracing_latents/{name}' for name in datasets),
    window_steps=min(128, settings.max_steps),
    num_steps=settings.mdn_rnn_steps,
    seed=settings.seed,
  )
  return workdir / 'weights'


def _summary(
  output_dir: Path, rounds: int, best: int, seconds: dict[str, float]
) -> str:
  """Returns the scores by round, beside what was dreamt, and the times."""
  rows = []
  for number in range(rounds + 1):
    name = f'mdn_rnn_{number}' if number else 'mdn_rnn'
    m = _validation(output_dir / name)
    c = _validation(_controller(output_dir, number))
    rows.append(
      [
        str(number),
        f'{m["nll"] - m["nll_floor"]:.3f}',
        f'{c["dreamt_return"]:.0f}',
        f'{c["score"]:.1f} ± {c["standard_deviation"]:.0f}',
        f'{c["median"]:.1f}',
        f'{c["below_700"]:.0%}',
      ]
    )
  head = ['round', 'M above the floor, nats', 'dreamt return']
  head += ['score on selection tracks', 'median', 'below 700']
  score = _score(output_dir, best)
  result = track_scores.read(score / track_scores.FILE).summary
  lines = ['', markdown.table(head, rows), '']
  lines.append(
    f'The best C on selection tracks is {_controller(output_dir, best)};'
    f' on test tracks: {scores.describe(result)}'
  )
  lines += ['', f'Minutes, on {processes.num_cores()} cores:']
  lines += [f'{x / 60:6.1f}  {title}' for title, x in seconds.items()]
  lines.append(f'{sum(seconds.values()) / 60:6.1f}  altogether')
  return '\n'.join(lines) + '\n'
