"""A policy on one track → its frames, and what V and M make of them."""

import functools
from pathlib import Path

from carracing_data import rlds_steps
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
import cv2
import jax
from models import world_model
import numpy as np
from tools.driving import jobs
from tools.showing import films
from tools.showing import pictures

_COLUMNS = 10
_CHUNK = 50  # Number of frames that are decoded at once.


def drive(
  policy: policies.Policy, track: int, max_steps: int
) -> tuple[np.ndarray, jobs.Driven]:
  """Drives one track in the exact simulator, as it is scored.

  Args:
    policy: policy that chooses the actions.
    track: seed of the track, see `tracks`.
    max_steps: steps after which the episode ends, at least 1.

  Returns:
    The simulator's frames, uint8 [N + 1, 96, 96, 3], 0..255, and what was
    driven.
  """
  environments = environment.Environments([track], max_steps)
  seeds = [jobs.policy_seed(track)]
  steps = list(rollout.play(environments, policy, seeds))
  [driven] = jobs.collect(steps)
  frames = [step.frame for step in steps] + [steps[-1].next_frame]
  return np.concatenate(frames), driven


def show(
  model: world_model.WorldModel, frame: np.ndarray, action: np.ndarray
) -> dict[str, np.ndarray]:
  """Shows a drive as the agent sees it.

  Args:
    model: the agent's world model.
    frame: the simulator's frames, uint8 [N + 1, 96, 96, 3], 0..255.
    action: float32 [N, 3]: steering −1..1, gas 0..1, brake 0..1.

  Returns:
    Three versions of the frames by title, uint8 [N + 1, S, S, 3], 0..255: the
    simulator's, cropped and stretched as the observations are; V's
    reconstructions of the observations; and the frames that M expected one
    step before, from the true past and the action. Nothing precedes the first
    frame, so its expectation is its reconstruction.
  """
  z = world_model.encode_episode(model, environment.resize(frame)).mean
  predicted = jax.jit(world_model.predict_sequence)(
    model, z[None, :-1], action[None]
  )
  [expected] = predicted.mixture.expectation()
  return {
    'simulator': np.stack(
      [cv2.resize(x[: rlds_steps.FRAME_ROWS], x.shape[:2]) for x in frame]
    ),
    'V: reconstruction': np.asarray(_decode(model, z)),
    'M: expectation': np.asarray(
      _decode(model, np.concatenate([z[:1], expected]))
    ),
  }


@jax.jit
def _decode(model: world_model.WorldModel, z: jax.Array) -> jax.Array:
  """Decodes float32 [N, Z] to uint8 [N, 64, 64, 3].

  A thousand frames at once would take half a gigabyte.
  """
  decode = functools.partial(world_model.decode_uint8, model)
  return jax.lax.map(decode, z, batch_size=_CHUNK)


def captions(driven: jobs.Driven) -> list[str]:
  """Returns a caption for each of the N + 1 frames."""
  # Digits have the same width, spaces do not: the actions stay in place if what
  # grows comes after them.
  texts = [
    f'steering {steering:+.2f}  gas {gas:.2f}  brake {brake:.2f}'
    for steering, gas, brake in driven.action
  ]
  return [
    f'{text}  step {i}  score {score:.1f}'
    for i, (text, score) in enumerate(
      zip([*texts, driven.ending()], driven.scores(), strict=True)
    )
  ]


def save(
  driven: jobs.Driven,
  panels: dict[str, np.ndarray],
  heading: str,
  output_dir: Path,
) -> list[Path]:
  """Saves a drive as a strip of moments (PNG) and in real time (MP4).

  `panels` is what `show` returned; the folder must exist. Returns the files.
  """
  strip, video = output_dir / 'drive.png', output_dir / 'drive.mp4'
  moments = np.linspace(0, len(driven.action), _COLUMNS).round().astype(int)
  scores = driven.scores()
  pictures.save_strip(
    strip,
    {title: frames[moments] for title, frames in panels.items()},
    [f'step {i}\nscore {scores[i]:.1f}' for i in moments],
    heading,
  )
  films.save_panels(video, panels, captions(driven))
  return [strip, video]
