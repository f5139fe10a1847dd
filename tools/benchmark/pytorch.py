"""The same models and training steps in PyTorch, if it is installed."""

from collections.abc import Iterator
import itertools
import math
from pathlib import Path
import tempfile
from typing import Any

from array_record.python import array_record_module
import numpy as np
import tensorflow_datasets as tfds
from tools.benchmark import contest
import torch
from torch import nn
from torch.nn import functional

Carry = tuple[torch.Tensor, torch.Tensor]


class VAE(nn.Module):
  """Same model as `models.vae.VAE`; frames are [B, 3, 64, 64]."""

  def __init__(self):
    super().__init__()
    sizes = 3, 32, 64, 128, 256
    self.convolutions = nn.ModuleList(
      nn.Conv2d(inputs, outputs, 4, 2)
      for inputs, outputs in itertools.pairwise(sizes)
    )
    self.mean = nn.Linear(1024, 32)
    self.logvar = nn.Linear(1024, 32)
    self.dense = nn.Linear(32, 1024)
    self.transposed = nn.ModuleList(
      [
        nn.ConvTranspose2d(1024, 128, 5, 2),
        nn.ConvTranspose2d(128, 64, 5, 2),
        nn.ConvTranspose2d(64, 32, 6, 2),
        nn.ConvTranspose2d(32, 3, 6, 2),
      ]
    )

  def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    for convolution in self.convolutions:
      x = functional.relu(convolution(x))
    x = x.flatten(1)
    return self.mean(x), self.logvar(x)

  def decode(self, z: torch.Tensor) -> torch.Tensor:
    x = self.dense(z)[:, :, None, None]
    for transposed in self.transposed[:-1]:
      x = functional.relu(transposed(x))
    return torch.sigmoid(self.transposed[-1](x))


def vae(memory_format: torch.memory_format = torch.channels_last) -> VAE:
  """Returns an untrained VAE with this order of the axes in memory."""
  model: Any = VAE()
  return model.to(memory_format=memory_format)


class MDNRNN(nn.Module):
  """Same model as `models.mdn_rnn.MDNRNN` with a shared mixture."""

  def __init__(self):
    super().__init__()
    self.lstm = nn.LSTM(35, 256, batch_first=True)
    self.mixture = nn.Linear(256, 5 * 65)

  def forward(
    self, inputs: torch.Tensor, carry: Carry | None = None
  ) -> tuple[tuple[torch.Tensor, ...], Carry]:
    hidden, next_carry = self.lstm(inputs, carry)
    logits, mean, log_std = self.mixture(hidden).split([5, 160, 160], -1)
    shape = (*mean.shape[:-1], 5, 32)
    return (
      logits.log_softmax(-1),
      mean.reshape(shape),
      log_std.reshape(shape),
    ), next_carry

  def nll(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    (logits, mean, log_std), _ = self(inputs)
    difference = (targets[..., None, :] - mean) * torch.exp(-log_std)
    log_prob = -0.5 * difference**2 - log_std - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(logits + log_prob.sum(-1), -1).mean() / 32


def vae_step(batch_size: int, channels_last: bool) -> contest.Work:
  """Prepares training steps of the VAE on random frames."""
  torch.manual_seed(0)
  memory_format = torch.contiguous_format
  if channels_last:
    memory_format = torch.channels_last
  model = vae(memory_format)
  optimizer = torch.optim.Adam(model.parameters(), 1e-4)
  observation = _frames(batch_size)

  def work() -> float:
    x = to_float(observation, memory_format)
    mean, logvar = model.encode(x)
    z = mean + torch.exp(logvar / 2) * torch.randn_like(mean)
    reconstruction = model.decode(z)
    kl = (torch.exp(logvar) + mean**2 - 1 - logvar).sum(1) / 2
    squared_error = ((reconstruction - x) ** 2).sum((1, 2, 3))
    loss = (squared_error + kl.clamp(min=16)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return batch_size

  return work


def vae_encoder(batch_size: int) -> contest.Work:
  """Prepares encoding of random frames."""
  torch.manual_seed(0)
  model = vae()
  observation = _frames(batch_size)

  @torch.inference_mode()
  def work() -> float:
    model.encode(to_float(observation, torch.channels_last))
    return batch_size

  return work


def latents(folder: Path, batch_size: int) -> contest.Work:
  """Prepares the encoding of a dataset of rollouts, read with TFDS.

  Args:
    folder: folder of the dataset.
    batch_size: number of frames that are encoded at once.

  Returns:
    Work that writes mean and logvar of all frames to one file, a record for
    each batch, and returns the number of frames.
  """
  torch.manual_seed(0)
  model = vae()
  sources: Any = tfds.builder_from_directory(folder).as_data_source()
  scratch = tempfile.TemporaryDirectory()

  def batches() -> Iterator[np.ndarray]:
    waiting = []
    for record in itertools.chain(*sources.values()):
      waiting += list(record['observation'][: record['length']])
      while len(waiting) >= batch_size:
        yield np.stack(waiting[:batch_size])
        del waiting[:batch_size]
    if waiting:
      yield np.stack(waiting)

  @torch.inference_mode()
  def work() -> float:
    path = f'{scratch.name}/latents.array_record'
    writer = array_record_module.ArrayRecordWriter(path, 'group_size:1')
    count = 0
    for batch in batches():
      x = to_float(torch.from_numpy(batch), torch.channels_last)
      mean, logvar = model.encode(x)
      writer.write(mean.numpy().tobytes() + logvar.numpy().tobytes())
      count += len(batch)
    writer.close()
    return count

  return work


def mdn_rnn_step(batch_size: int, window_steps: int) -> contest.Work:
  """Prepares training steps of the MDN-RNN on random windows."""
  torch.manual_seed(0)
  model = MDNRNN()
  optimizer = torch.optim.Adam(model.parameters(), 1e-3)
  inputs = torch.randn(batch_size, window_steps, 35)
  targets = torch.randn(batch_size, window_steps, 32)

  def work() -> float:
    optimizer.zero_grad()
    model.nll(inputs, targets).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return batch_size * window_steps

  return work


def control(batch_size: int) -> contest.Work:
  """Prepares control steps: encode a frame, act on [z, h], predict."""
  torch.manual_seed(0)
  encoder, mdn_rnn = vae(), MDNRNN()
  controller = nn.Linear(32 + 256, 3)
  observation = _frames(batch_size)
  zeros = torch.zeros(1, batch_size, 256)
  carry: Carry = zeros, zeros

  @torch.inference_mode()
  def work() -> float:
    nonlocal carry
    z, _ = encoder.encode(to_float(observation, torch.channels_last))
    action = torch.tanh(controller(torch.cat([z, carry[0][0]], -1)))
    _, carry = mdn_rnn(torch.cat([z, action], -1)[:, None], carry)
    action.numpy()
    return 1

  return work


def _frames(batch_size: int) -> torch.Tensor:
  rng = np.random.default_rng(0)
  shape = batch_size, 64, 64, 3
  return torch.from_numpy(rng.integers(0, 256, shape, np.uint8))


def to_float(
  observation: torch.Tensor, memory_format: torch.memory_format
) -> torch.Tensor:
  """Returns uint8 frames [B, 64, 64, 3] as float32 [B, 3, 64, 64] in 0..1."""
  x = observation.permute(0, 3, 1, 2).float() / 255
  return x.contiguous(memory_format=memory_format)
