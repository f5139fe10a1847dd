"""V, M and C combined: an agent that drives, frames → actions.

  driver = agent.load()  # Or the folder of another one.
  carry = driver.initial_carry(seeds)
  action, carry = driver(observation, carry)

An agent has the interface of a policy (see `carracing_rollouts.policies`). It
draws nothing at random: z is the mean of the posterior. On one kind of CPU, the
actions of an episode depend neither on the other episodes of its batch nor on
the size of the batch.
"""

from collections.abc import Callable, Mapping, Sequence
import os
from pathlib import Path
from typing import Any

from carracing_data import errors
from carracing_data import files
from carracing_data import rlds_steps
from flax import struct
import jax
from models import controller
from models import weights
from models import world_model
import numpy as np

PRETRAINED = Path(__file__).parent / 'pretrained'
NAMES = {'vae': 'V', 'mdn_rnn': 'M', 'controller': 'C'}
PARTS = tuple(NAMES)
# Within these limits XLA gives each row the same bits in a batch of any size.
# It multiplies a single row, and large batches, with programs that round
# differently. So larger batches are cut; both are powers of two, see `_padded`.
_MIN_BATCH, _MAX_BATCH = 2, 32
Carry = tuple[np.ndarray, np.ndarray]


@struct.dataclass
class Agent:
  """A world model and a controller with their weights, a pytree.

  Attributes:
    model: V and M.
    c: C.
    c_variables: weights of C, `{'params': ...}`.
  """

  model: world_model.WorldModel
  c: controller.Controller = struct.field(pytree_node=False)
  c_variables: Mapping[str, Any]

  def initial_carry(self, seeds: Sequence[Any]) -> Carry:
    """Returns M's carry of new episodes: (cell, hidden), float32 [B, H] each.

    Args:
      seeds: B seeds, which are not used.
    """
    assert self.model.m is not None
    cell, hidden = jax.device_get(self.model.m.initial_carry(len(seeds)))
    return cell, hidden

  def __call__(
    self,
    observation: np.ndarray,
    carry: Carry,
    imposed: np.ndarray | None = None,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
  ) -> tuple[np.ndarray, Carry]:
    """Chooses one action for each episode.

    Args:
      observation: uint8 [B, 64, 64, 3], 0..255.
      carry: carry from `initial_carry` or the previous call.
      imposed: what is done instead, float32 [B, 3], NaN where nothing is.
      change: changes the actions, float32 [B, 3], before M sees them. What it
        returns, and what is imposed, is clipped to the range of the actions.

    Returns:
      The actions, float32 [B, 3] (steering −1..1, gas 0..1, brake 0..1), and
      the next carry, in which M has seen them.

    Raises:
      ValueError: the observation, the carry or the actions have another shape
        or dtype, or changed actions are NaN.
      errors.UserError: actions are NaN.
    """
    rlds_steps.check_frames(observation)
    size = len(observation)
    assert self.model.m is not None
    parts = [
      x.astype(np.float32, copy=False) if x.dtype.kind == 'f' else x
      for x in map(np.asarray, carry)
    ]
    found = [f'{x.dtype}{list(x.shape)}' for x in parts]
    expected = f'float32[{size}, {self.model.m.hidden_size}]'
    if found != [expected] * 2:
      raise ValueError(
        f'the carry is {" and ".join(found)}, not twice {expected}; begin with'
        ' initial_carry'
      )
    carry = parts[0], parts[1]
    chosen = [_choose(self, *part) for part in _parts((observation, carry))]
    action, z = _joined(chosen, size)
    if np.isnan(action).any():
      raise errors.UserError(
        'the agent chose actions that are NaN: its weights are too large, or'
        ' the carry is NaN; copy the agent again from its source'
      )
    if change is not None:
      action = _actions(change(action), size)
      if np.isnan(action).any():
        raise ValueError('the changed actions are NaN')
    if imposed is not None:
      imposed = _actions(imposed, size)
      action = np.where(np.isnan(imposed), action, imposed)
    state: Any = (z, carry)
    moved = [_move(self, *part) for part in _parts((state, action))]
    return action, _joined(moved, size)


def _actions(given: Any, size: int) -> np.ndarray:
  """Returns actions within their range, float32 [B, 3]; NaN stays."""
  actions = np.asarray(given, np.float32)
  if actions.shape != (size, controller.ACTION_SIZE):
    raise ValueError(f'actions are {list(actions.shape)}, not [{size}, 3]')
  return np.clip(actions, rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH)


def _parts(arrays: Any) -> list[Any]:
  """Cuts arrays [B, ...] into batches of few sizes."""
  size = len(jax.tree.leaves(arrays)[0])
  return [
    jax.tree.map(lambda x, i=i: _padded(x[i : i + _MAX_BATCH]), arrays)
    for i in range(0, max(size, 1), _MAX_BATCH)
  ]


def _joined(parts: Sequence[Any], size: int) -> Any:
  """Joins batches to NumPy arrays [size, ...]."""
  parts = jax.device_get(parts)
  return jax.tree.map(lambda *x: np.concatenate(x)[:size], *parts)


def _padded(x: np.ndarray) -> np.ndarray:
  """Pads a batch to a power of two, so that few programs are compiled."""
  size = max(_MIN_BATCH, 1 << (len(x) - 1).bit_length())
  return np.pad(x, ((0, size - len(x)), *[(0, 0)] * (x.ndim - 1)))


def act(agent: Agent, state: world_model.State) -> jax.Array:
  """Returns C's actions in states [B, ...], float32 [B, 3]; pure."""
  action: Any = agent.c.apply(agent.c_variables, state.z, state.carry[1])
  return action


@jax.jit
def _choose(
  agent: Agent, observation: jax.Array, carry: Any
) -> tuple[jax.Array, jax.Array]:
  z = world_model.encode(agent.model, observation).mean
  return act(agent, world_model.State(z, carry)), z


@jax.jit
def _move(agent: Agent, state: Any, action: jax.Array) -> Any:
  state = world_model.State(*state)
  _, carry = world_model.predict(agent.model, state, action)
  return carry


def folder_of(flag: str | None) -> Path:
  """Returns the folder that `--agent` names, or else the pretrained agent."""
  return PRETRAINED if flag is None else files.expand(flag)


def load(folder: str | os.PathLike[str] = PRETRAINED) -> Agent:
  """Loads an agent.

  Args:
    folder: folder with the exported weights of its parts: `vae/`, `mdn_rnn/`
      and `controller/`; by default the one that comes with this project.

  Raises:
    weights.WeightsError: a part is missing or damaged, or was trained with
      other parts.
  """
  try:
    return _load(folder)
  except weights.WeightsError as error:
    if Path(folder) != PRETRAINED or isinstance(
      error, weights.ArchitectureError
    ):
      raise
    reason = str(error).partition(';')[0]
    raise weights.WeightsError(
      f'{reason}; restore the agent of this project with: git checkout --'
      f' {PRETRAINED}'
    ) from None


def _load(folder: str | os.PathLike[str]) -> Agent:
  paths = {name: os.path.join(folder, name) for name in PARTS}
  inside = os.path.join(folder, 'agent')
  if not os.path.exists(paths['controller']) and os.path.exists(inside):
    raise weights.WeightsError(
      f'{folder} holds no agent; did you mean {inside}?'
    )
  c, v, m = (
    weights.load(paths[name], name) for name in ('controller', 'vae', 'mdn_rnn')
  )
  model = world_model.combined(v, m)
  for name, part, fits in (
    ('vae', v, c.model.latent_size == v.model.latent_size),
    ('mdn_rnn', m, c.model.hidden_size in (0, m.model.hidden_size)),
  ):
    if c.training.get(f'{name}_sha256') != part.sha256 or not fits:
      raise weights.WeightsError(
        f'{c.folder} was trained with another {name} than {part.folder}; copy'
        ' the whole folder of the agent again, or train a controller with:'
        ' python -m trainers.train_controller --workdir=RUN'
        f' --vae={v.folder} --mdn_rnn={m.folder}'
      )
  return Agent(model, c.model, jax.device_put(c.variables))


def digests(folder: str | os.PathLike[str]) -> dict[str, str]:
  """Returns the SHA-256 of the weights of each part, by name.

  Raises:
    weights.WeightsError: a part is missing or damaged.
  """
  return {
    name: weights.describe(os.path.join(folder, name)).weights_sha256
    for name in PARTS
  }
