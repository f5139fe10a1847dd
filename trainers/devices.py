"""Places arrays on the devices of all hosts, and makes the hosts agree.

Parameters are replicated on every device; batches are sharded across them.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from carracing_data import errors
import grain
import jax
from jax import sharding
from jax.experimental import multihost_utils
import numpy as np
from trainers.configs import base

Tree = TypeVar('Tree')

_FAILED = -1


def replicated() -> sharding.NamedSharding:
  """Returns the sharding that replicates an array on every device."""
  return sharding.NamedSharding(_mesh(), sharding.PartitionSpec())


def replicate(tree: Tree) -> Tree:
  """Replicates arrays, which are equal on all hosts, on every device."""
  copies = jax.tree.map(np.array, jax.device_get(tree))
  return jax.device_put(copies, replicated())


def shard_batch(batch: Tree) -> Tree:
  """Returns the batch of all hosts, sharded across all devices.

  Each host gives its part of it, a tree of arrays [B, ...].
  """
  divided = sharding.NamedSharding(_mesh(), sharding.PartitionSpec('batch'))
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(divided, x), batch
  )


def jit_evaluation(step: Callable[..., Tree]) -> Callable[..., Tree]:
  """Compiles a step of an evaluation, of which each host computes its share.

  Args:
    step: function (params, batch, ...) → tree of arrays. The batch, a tree of
      arrays [B, ...], is equal on all hosts. Where the devices do not divide
      B, each host computes all of it.

  Returns:
    The compiled step, which returns the same on every host.
  """
  if jax.process_count() == 1:
    return jax.jit(step)
  compiled = jax.jit(step, out_shardings=replicated())

  def call(params: Any, batch: Any, *others: Any) -> Tree:
    spec = sharding.PartitionSpec('batch')
    if len(jax.tree.leaves(batch)[0]) % jax.device_count():
      spec = sharding.PartitionSpec()
    placed = jax.tree.map(
      lambda x: jax.make_array_from_callback(
        x.shape, sharding.NamedSharding(_mesh(), spec), lambda part: x[part]
      ),
      batch,
    )
    return compiled(params, placed, *others)

  return call


def check_batch_size(batch_size: int) -> None:
  """Checks that all devices get an equal part of a batch.

  Raises:
    errors.UserError: they do not.
  """
  if batch_size % jax.device_count():
    raise errors.UserError(
      f'invalid config: batch_size: {batch_size} is not divisible by'
      f' {jax.device_count()} devices'
    )


def host_part(config: base.SupervisedConfig) -> dict[str, Any]:
  """Returns the arguments with which a loader reads this host's part.

  Args:
    config: config with `batch_size`, that of all hosts, and `seed`.
  """
  return {
    'batch_size': config.batch_size // jax.process_count(),
    'seed': config.seed,
    'shard_index': jax.process_index(),
    'shard_count': jax.process_count(),
  }


def send_ahead(dataset: grain.IterDataset[Tree]) -> grain.IterDataset[Tree]:
  """Transfers batches to the devices while they compute on earlier ones."""
  prefetch = grain.experimental.ThreadPrefetchIterDataset
  dataset = prefetch(dataset, prefetch_buffer_size=1).map(shard_batch)
  return prefetch(dataset, prefetch_buffer_size=1)


def first_decides(decide: Callable[[], int]) -> int:
  """Calls a function on the first host and sends its result to all hosts.

  The result is at least 0.

  Raises:
    errors.UserError: `decide` failed on the first host, which raises its own
      error.
  """
  if jax.process_count() == 1:
    return decide()
  error = decision = None
  if jax.process_index() == 0:
    try:
      decision = decide()
    except BaseException as raised:  # Otherwise the other hosts wait forever.
      error = raised
  code = np.int32(_FAILED if decision is None else decision)
  code = int(multihost_utils.broadcast_one_to_all(code))
  if error is not None:
    raise error
  if code == _FAILED:
    raise errors.UserError('the first process failed; see its error message')
  return code


def _mesh() -> sharding.Mesh:
  return jax.make_mesh(
    (jax.device_count(),), ('batch',), axis_types=(sharding.AxisType.Auto,)
  )
