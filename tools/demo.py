"""Runs the whole pipeline once at a small scale, from simulator to driver.

  python -m tools.demo --output_dir=demo

Builds rollouts, trains V, builds latents, trains M, trains C, and lets it drive
tracks that it has never seen, beside the random policy. Saves pictures and
films of an episode, a dream and a drive, and a report of it all. Prints each
command that it runs. The same command skips finished stages and continues an
interrupted one.
"""

from __future__ import annotations  # Types of modules that load lazily.

from pathlib import Path

from etils import epy
from tools.pipelines import settings as settings_lib

with epy.lazy_imports():
  from tools.driving import track_scores
  from tools.pipelines import recipe
  from tools.pipelines import stages
  from trainers import run_documents

SETTINGS = settings_lib.Settings(
  rounds=0,
  max_steps=400,
  vae_steps=1500,
  mdn_rnn_steps=800,
  controller_steps=650,
  speed_penalty=1.2,
  selection_tracks=16,
  num_tracks=16,
)
_RANDOM = 'score_of_random_policy'


def make(pipeline: stages.Pipeline, settings: settings_lib.Settings) -> str:
  """Runs every unfinished stage; returns a summary.

  Raises:
    errors.UserError: a stage failed.
  """
  best = recipe.train_and_score(pipeline, settings)
  agent, dataset = best / 'controller' / 'agent', 'carracing_rollouts/random'
  recipe.score(
    pipeline,
    _RANDOM,
    'the random policy drives the same development tracks',
    settings.num_tracks,
    None,
  )
  pictures = pipeline.folder / 'pictures'
  output_dir = f'--output_dir={pictures}'
  data = [f'--data_dir={pipeline.data_dir}', f'--dataset={dataset}']
  pipeline.run(
    'pictures_of_an_episode',
    'as the simulator shows it and as the dataset keeps it',
    stages.python(
      'tools.view_rollouts', '--split=validation', *data, output_dir
    ),
    [dataset],
    [pictures / f'validation-0.{x}' for x in ('png', 'mp4')],
  )
  pipeline.run(
    'pictures_of_a_dream',
    'V reconstructs frames, M watches an episode and dreams on',
    stages.python(
      'tools.dream',
      f'--vae={agent / "vae"}',
      f'--mdn_rnn={agent / "mdn_rnn"}',
      f'--seen_steps={min(80, settings.max_steps // 2)}',
      '--dream_steps=60',
      *data,
      output_dir,
    ),
    [agent, dataset],
    [pictures / x for x in ('reconstructions.png', 'dream.png', 'dream.mp4')],
  )
  pipeline.run(
    'pictures_of_a_drive',
    'what the agent sees and expects on a development track',
    stages.python('tools.drive', f'--agent={agent}', output_dir),
    [agent],
    [pictures / f'drive.{x}' for x in ('png', 'mp4')],
  )
  report = pipeline.folder / 'report.html'
  scored = best / 'score', pipeline.folder / _RANDOM
  pipeline.run(
    'report',
    'all of this on one page',
    stages.python('tools.report', str(pipeline.folder), f'--output={report}'),
    [
      agent,
      *sorted(pipeline.folder.rglob('run.json')),
      *(x / track_scores.FILE for x in scored),
    ],
    [report],
  )
  return recipe.summary(pipeline, settings, best) + _legend(pipeline, best)


def _legend(pipeline: stages.Pipeline, best: Path) -> str:
  """Returns what the best round compares with, and what lies where."""
  folder = pipeline.folder
  vae = best / 'vae' if (best / 'vae').exists() else folder / 'vae'
  v, m = (
    run_documents.finished_metrics(workdir).validation
    for workdir in (vae, best / 'mdn_rnn')
  )
  random = track_scores.read(folder / _RANDOM / track_scores.FILE).summary
  constant = v['mean_frame_baseline']
  no_change = m['nll_no_change'] - m['nll_floor']
  return f"""
To compare with:

V   squared error of the best constant frame       {constant:8.2f}
M   nats above the floor if z does not change      {no_change:8.3f}
C   mean return of the random policy, development tracks {random.mean:3.1f}

In {folder}:
  report.html  all of this on one page, for any browser
  pictures/    drive.mp4, the agent at work; dream.mp4, validation-0.mp4, PNG
  controller/  run of the first C; agent/: V, M and C together
  vae/, mdn_rnn/, data/  runs of V and M, and the datasets

Logs: tensorboard --logdir={folder}
"""


if __name__ == '__main__':
  settings_lib.run('demo', SETTINGS, make)
