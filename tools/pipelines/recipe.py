"""Makes an agent in rounds: data → V → latents → M → C, which drives anew.

Round 0 lies at the top of the folder, each later one in `round_1/`, ...: `vae/`
(unless V is kept), `mdn_rnn/`, `controller/`, and `score/` if its C is the best
one. The datasets of all rounds are in `data/`.
"""

from pathlib import Path
from typing import Any

from carracing_data import processes
from carracing_rollouts import scores
from tools.driving import track_scores
from tools.pipelines import settings as settings_lib
from tools.pipelines import stages
from tools.showing import markdown
from trainers import run_documents

# Of the seeds of rounds, apart from those of random episodes.
_FIRST_SEED, _SEEDS_PER_CHAIN = 1_000_000, 1000


def make(pipeline: stages.Pipeline, settings: settings_lib.Settings) -> str:
  """Runs every unfinished stage; returns a summary.

  Raises:
    errors.UserError: a stage failed.
  """
  best = train_and_score(pipeline, settings)
  return summary(pipeline, settings, best)


def train_and_score(
  pipeline: stages.Pipeline, settings: settings_lib.Settings
) -> Path:
  """Runs every unfinished stage; returns the folder of the best round."""
  s = settings
  rollouts, latents, suffix = [], [], ''  # Names; latents of the newest V.
  vae = mdn_rnn = agent = Path()  # Folders of the newest ones.
  method: dict[str, Any] = {'config_file': 'controller_dream'}  # How C learns.
  if not s.dreams:
    method = {'config_file': 'controller', 'speed_penalty': s.speed_penalty}
  for number in range(s.rounds + 1):
    here = _here(number)
    train_on = s.dreams and number > 0
    initial_c = {'initial_weights': agent / 'controller'} if train_on else {}
    rollouts.append(_rollouts(pipeline, s, number, agent))
    if not train_on:
      vae = pipeline.train(
        f'{here}vae',
        'V learns to compress a frame to 32 numbers',
        {},
        dataset='+'.join(rollouts),
        num_steps=s.vae_steps,
        seed=s.seed,
      )
      latents, suffix = [], f'_v{number}' if number else ''
    for dataset in rollouts[len(latents) :]:
      name = dataset.partition('/')[2]
      encoded = pipeline.build(
        f'{here}latents_of_{name}',
        'V turns the episodes into latent sequences',
        'carracing_latents',
        {'name': f'{name}{suffix}', 'rollouts': dataset, 'vae': vae},
      )
      latents.append(encoded)
    mdn_rnn = pipeline.train(
      f'{here}mdn_rnn',
      'M learns to predict the next latent vector',
      {'initial_weights': mdn_rnn} if train_on else {},
      dataset='+'.join(latents),
      window_steps=min(128, s.max_steps),
      num_steps=s.later_mdn_rnn_steps if number else s.mdn_rnn_steps,
      seed=s.seed,
    )
    agent = pipeline.train(
      f'{here}controller',
      f'C learns to drive in {"dreams" if s.dreams else "the simulator"}',
      {'vae': vae, 'mdn_rnn': mdn_rnn, **initial_c},
      num_steps=s.controller_steps,
      selection_tracks=s.selection_tracks,
      seed=_seed(s, number),
      **method,
    )
  # A later C is not always a better one.
  best = max(
    range(s.rounds + 1), key=lambda x: _selection(pipeline, x)['score']
  )
  here = _here(best)
  score(
    pipeline,
    f'{here}score',
    f'C of round {best}, the best on selection tracks, drives other tracks',
    s.num_tracks,
    pipeline.folder / here / 'controller' / 'agent',
  )
  return pipeline.folder / here


def score(
  pipeline: stages.Pipeline,
  name: str,
  title: str,
  num_tracks: int,
  agent: Path | None,
) -> None:
  """Scores an agent, or else the random policy, on development tracks."""
  output_dir = pipeline.folder / name
  driver = '--policy=random_policy' if agent is None else f'--agent={agent}'
  tracks = '--tracks=development', f'--episodes={num_tracks}'
  command = stages.python('tools.evaluate', driver, *tracks)
  pipeline.run(
    name,
    title,
    [*command, f'--output_dir={output_dir}'],
    [] if agent is None else [agent],
    [output_dir / track_scores.FILE, output_dir / track_scores.HISTOGRAM],
  )


def summary(
  pipeline: stages.Pipeline, settings: settings_lib.Settings, best: Path
) -> str:
  """Returns a row for each round, the score of the best and the times.

  All stages must be finished; `best` is the folder of the best round.
  """
  head = ['round', 'V: squared error of a frame', 'M: nats above the floor']
  head += ['dreamt return'] if settings.dreams else []
  head += ['C: score on selection tracks', 'median', 'below 700']
  rows = []
  for number in range(settings.rounds + 1):
    folder = pipeline.folder / _here(number)
    vae = folder / 'vae'
    v = run_documents.finished_metrics(vae) if vae.exists() else None
    m = run_documents.finished_metrics(folder / 'mdn_rnn').validation
    c = _selection(pipeline, number)
    rows.append(
      [
        number,
        'kept' if v is None else f'{v.validation["reconstruction"]:.2f}',
        f'{m["nll"] - m["nll_floor"]:.3f}',
        *([f'{c["dreamt_return"]:.0f}'] if settings.dreams else []),
        f'{c["score"]:.1f} ± {c["standard_deviation"]:.0f}',
        f'{c["median"]:.1f}',
        f'{c["below_700"]:.0%}',
      ]
    )
  result = track_scores.read(best / 'score' / track_scores.FILE).summary
  lines = [
    '',
    markdown.table(head, rows),
    '',
    f'The best C on selection tracks is {best / "controller"};'
    f' on development tracks: {scores.describe(result)}',
    '',
    f'Minutes, on {processes.num_cores()} cores:',
    *pipeline.minutes(),
  ]
  return '\n'.join(lines) + '\n'


def _rollouts(
  pipeline: stages.Pipeline,
  settings: settings_lib.Settings,
  number: int,
  agent: Path,
) -> str:
  """Makes the rollouts of a round: of the random policy, then of an agent."""
  here = _here(number)
  config: dict[str, Any] = {'max_steps': settings.max_steps}
  if not number:
    config |= {
      'num_episodes': settings.random_episodes,
      'interventions': settings.random_interventions,
      'seed': settings.seed,
    }
  else:
    log = pipeline.folder / here / 'driven.npz'
    pipeline.run(
      f'{here}driven',
      'the last C drives, with and without noise and interventions',
      stages.python(
        'tools.record',
        f'--agent={agent}',
        f'--noise={settings.noise}',
        f'--noise_share={settings.noise_share}',
        f'--interventions={settings.interventions}',
        f'--episodes={settings.driven_episodes}',
        f'--max_steps={settings.max_steps}',
        f'--seed={_seed(settings, number)}',
        f'--output={log}',
      ),
      [agent],
      [log],
    )
    config |= {'policy': 'recorded', 'num_episodes': 0, 'actions': log}
  return pipeline.build(
    f'{here}rollouts',
    f'episodes of {"the last C" if number else "a random policy"}',
    'carracing_rollouts',
    {'name': f'round_{number}' if number else 'random', **config},
  )


def _here(number: int) -> str:
  """Returns where a round lies in the folder of the pipeline."""
  return f'round_{number}/' if number else ''


def _seed(settings: settings_lib.Settings, number: int) -> int:
  """Returns the seed of what is recorded in a round, and of its C.

  The same draws in every round would not average out.
  """
  if not number:
    return settings.seed
  return _FIRST_SEED + _SEEDS_PER_CHAIN * settings.seed + number


def _selection(pipeline: stages.Pipeline, number: int) -> dict[str, float]:
  """Returns what the C of a round scored on selection tracks."""
  workdir = pipeline.folder / _here(number) / 'controller'
  return run_documents.finished_metrics(workdir).validation
