"""Goes the whole way once at a small scale, from simulator to driver."""

from pathlib import Path

from carracing_data import files
from carracing_data import json_documents
from tools.driving import track_scores
from tools.pipelines import stages
from trainers import run_documents


class Settings(json_documents.Document):
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


def make(output_dir: Path, settings: Settings, execute: stages.Execute) -> str:
  """Runs every unfinished stage.

  Args:
    output_dir: directory of the datasets, runs and pictures.
    settings: sizes and lengths.
    execute: runs a command, see `stages.execute`.

  Returns:
    A summary of the results.

  Raises:
    errors.UserError: a stage failed, or the folder holds a different demo.
  """
  stages.claim(output_dir, 'demo.json', settings)
  output_dir = output_dir.absolute()
  pictures = output_dir / 'pictures'
  controller = output_dir / 'controller'
  seen_steps = min(80, settings.max_steps // 2)
  pipeline = stages.Pipeline(output_dir, 8, execute)
  weights = pipeline.train_world_model(
    [
      'Drive: record episodes of a random policy',
      'V: learn to compress a frame to 32 numbers',
      'Encode: turn the episodes into latent sequences',
      'M: learn to predict the next latent vector',
    ],
    output_dir,
    rollouts={
      'name': 'demo',
      'num_episodes': settings.num_episodes,
      'max_steps': settings.max_steps,
    },
    max_steps=settings.max_steps,
    vae_steps=settings.vae_steps,
    mdn_rnn_steps=settings.mdn_rnn_steps,
  )

  look = [f'--data_dir={pipeline.data_dir}', f'--output_dir={pictures}']
  look.append('--dataset=carracing_rollouts/demo')
  pipeline.run(
    'Look: show an episode, reconstructions and a dream',
    (pictures / 'dream.mp4').exists(),
    stages.python('tools.view_rollouts', '--split=validation', *look),
    stages.python(
      'tools.dream',
      *(f'--{flag}={path}' for flag, path in weights.items()),
      f'--seen_steps={seen_steps}',
      '--dream_steps=60',
      *look,
    ),
  )
  pipeline.train(
    'C: learn to drive',
    'controller',
    controller,
    weights,
    num_steps=settings.controller_steps,
    eval_every_steps=100,
    selection_tracks=16,
  )
  agent = f'--agent={controller / "agent"}'
  episodes = f'--episodes={settings.num_tracks}'
  score, random_score = (
    output_dir / name for name in ('score', 'score_of_random_policy')
  )
  pipeline.run(
    'Drive: unseen tracks, beside the random policy',
    (pictures / 'drive.mp4').exists()
    and stages.intact(
      lambda: track_scores.of_agent(
        score / track_scores.FILE, controller / 'agent'
      )
    )
    and stages.intact(
      lambda: track_scores.read(random_score / track_scores.FILE)
    ),
    stages.python('tools.evaluate', agent, episodes, f'--output_dir={score}'),
    stages.python(
      'tools.evaluate',
      '--policy=random_policy',
      episodes,
      f'--output_dir={random_score}',
    ),
    stages.python('tools.drive', agent, f'--output_dir={pictures}'),
  )
  report = output_dir / 'report.html'
  pipeline.run(
    'Report: all of this on one page',
    report.exists(),
    stages.python('tools.report', str(output_dir), f'--output={report}'),
  )
  summary = _summary(output_dir, sum(pipeline.seconds().values()))
  with files.write_errors(output_dir):
    (output_dir / 'summary.txt').write_text(summary)
  return summary


def _summary(output_dir: Path, seconds: float) -> str:
  """Returns the validation metrics with their baselines."""
  v, m = (
    run_documents.finished_metrics(output_dir / name).validation
    for name in ('vae', 'mdn_rnn')
  )
  driven, random = (
    track_scores.read(output_dir / name / track_scores.FILE).summary
    for name in ('score', 'score_of_random_policy')
  )
  return f"""
All of it took {seconds / 60:.1f} minutes. On the validation split:

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
  report.html  all of this on one page, for any browser
  data/      the datasets carracing_rollouts/demo and carracing_latents/demo
  vae/       run of V: weights/, checkpoints, TensorBoard logs
  mdn_rnn/   run of M, with the same contents
  controller/  run of C, and agent/: V, M and C together
  score/     the return on every unseen track, histogram.png
  pictures/  drive.mp4: the agent at work; reconstructions.png, dream.png,
             dream.mp4, validation-0.png, .mp4

Logs: tensorboard --logdir={output_dir}
"""
