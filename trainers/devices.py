"""How arrays lie on the devices of all hosts.

Parameters are whole on every device, batches are divided among them.
"""

from typing import Any, TypeVar

import grain
import jax
from jax import sharding
import numpy as np

Tree = TypeVar('Tree')


def everywhere() -> sharding.NamedSharding:
  """Returns how an array lies whole on every device."""
  return sharding.NamedSharding(_mesh(), sharding.PartitionSpec())


def put_everywhere(tree: Tree) -> Tree:
  """Puts copies of arrays, the same on all hosts, whole onto every device."""
  copies = jax.tree.map(np.array, jax.device_get(tree))
  return jax.device_put(copies, everywhere())


def send(batch: Tree) -> Tree:
  """Divides a batch among all devices.

  Args:
    batch: this host's part of it, a tree of arrays [B, ...].

  Returns:
    The batch of all hosts.
  """
  divided = sharding.NamedSharding(_mesh(), sharding.PartitionSpec('batch'))
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(divided, x), batch
  )


def send_ahead(dataset: grain.IterDataset[Tree]) -> grain.IterDataset[Tree]:
  """Sends batches to the devices while they work on those before."""
  prefetch = grain.experimental.ThreadPrefetchIterDataset
  dataset = prefetch(dataset, prefetch_buffer_size=1).map(send)
  return prefetch(dataset, prefetch_buffer_size=1)


def local_part(tree: Any) -> Any:
  """Returns the part of divided arrays that lies on this host."""
  return jax.tree.map(
    lambda x: np.concatenate([shard.data for shard in x.addressable_shards]),
    tree,
  )


def _mesh() -> sharding.Mesh:
  return jax.make_mesh(
    (jax.device_count(),), ('batch',), axis_types=(sharding.AxisType.Auto,)
  )
