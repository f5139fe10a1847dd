"""Exports an agent as one HTML file that dreams in the browser.

  python -m tools.export_page --output=dream.html
  python -m tools.export_page --output=dream.html --agent=runs/controller/agent

Open the file from disk: it needs no server and no network. V's decoder, M and C
run in it, with their weights rounded to float16; V's encoder is left out. You
drive, or C does. The sources of the page lie beside this file.
"""

import base64
from collections.abc import Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  import jax.numpy as jnp
  from models import agent
  from models import mdn_rnn
  from models import start_states
  from models import weights
  from models import world_model
  import numpy as np
  from tools.export import float16
  from tools.showing import webpages

_AGENT = command_line.agent_flag()
_OUTPUT = flags.DEFINE_string('output', 'dream.html', 'Output file.')
_SOURCES = Path(__file__).parent
_FILES = (
  'page.html',
  'page.css',
  'products.js',
  'network.js',
  'controls.js',
  'page.js',
)
_MAX_STARTS = 64  # More of them would only make the file larger.


def export(folder: Path, output: Path) -> None:
  """Writes the page; the same agent gives the same bytes.

  Args:
    folder: folder of the agent.
    output: HTML file to write; replaced if it exists.

  Raises:
    weights.WeightsError: the agent is missing or damaged, M has no start
      states, or its numbers are beyond float16.
    errors.UserError: the file cannot be written.
  """
  model = json.dumps(_model(folder))
  output = files.claim_file(output, webpages.BEGINS)
  sources = {
    name: (_SOURCES / name).read_text(encoding='utf-8') for name in _FILES
  }
  sources['model.js'] = f'const MODEL = {model};\n'
  html = sources.pop('page.html')
  for name, source in sources.items():
    if name.endswith('.css'):
      reference = f'<link rel="stylesheet" href="{name}">'
      element = f'<style>\n{source}</style>'
    else:
      reference = f'<script src="{name}"></script>'
      element = f'<script>\n{source}</script>'
    before, found, after = html.partition(reference)
    assert found, reference
    html = before + element + after
  files.replace(output, lambda file: file.write_bytes(html.encode()))


def _model(folder: Path) -> dict[str, Any]:
  """Returns what `network.js` makes a network of."""
  loaded = agent.load(folder)
  for part in agent.PARTS:
    found = weights.describe(folder / part).architecture
    if found != 'paper':
      raise errors.UserError(
        f'{folder / part} has the architecture {found!r}; the page has the'
        " layers of 'paper' alone"
      )
  v, m = loaded.model.v_variables['params'], loaded.model.m_variables['params']
  layers = {'decoder_dense': _dense(folder / 'vae', v['decoder']['Dense_0'])}
  height = 1
  for i in range(4):
    params = v['decoder'][f'ConvTranspose_{i}']
    layers[f'decoder_{i}'] = _layer(folder / 'vae', **params, height=height)
    height = 2 * height + len(params['kernel']) - 2
  for name, params in m.items():
    layers[name] = _dense(folder / 'mdn_rnn', params)
  layers['controller'] = _dense(
    folder / 'controller', loaded.c_variables['params']['linear']
  )
  config = loaded.model.m
  assert config is not None
  bins = np.zeros(0)
  if config.predict_outcomes:
    # A distribution that is certain of a bin has its reward as the mean.
    certain = 1e9 * np.eye(m['outcomes']['bias'].size - 1)
    bins = np.asarray(mdn_rnn.RewardDistribution(jnp.asarray(certain)).mean())
  states = start_states.load(folder / 'mdn_rnn')
  states = start_states.thinned(states, _MAX_STARTS)
  return {
    'digests': agent.digests(folder),
    'latent_size': config.latent_size,
    'hidden_size': config.hidden_size,
    'num_mixtures': config.num_mixtures,
    'per_dimension': config.per_dimension,
    'likely_termination': world_model.LIKELY_TERMINATION,
    'controller_hidden_size': loaded.c.hidden_size,
    'reward_bins': bins.tolist(),
    'start_states': {
      name: _to_base64(folder / 'mdn_rnn', x)
      for name, x in states._asdict().items()
      if name != 'logvar'  # z is the mean.
    },
    'layers': layers,
  }


def _dense(source: Path, params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a dense layer as a transposed convolution of one pixel."""
  kernel = np.asarray(params['kernel']).T[None, None]
  return _layer(source, kernel, params['bias'])


def _layer(
  source: Path, kernel: Any, bias: Any, height: int = 1
) -> dict[str, Any]:
  """Returns a layer in the order in which the page reads it.

  The numbers of inputs and outputs are rounded up to multiples of 4.

  Args:
    source: folder of the weights, for the error message.
    kernel: float32 [K, K, O, C], with output y[2p + t] += kernel[t] · x[p].
    bias: float32 [O].
    height: height and width of the input.
  """
  missing = [(0, -n % 4) for n in kernel.shape[2:]]
  kernel = np.pad(kernel, ((0, 0), (0, 0), *missing))
  bias = np.pad(bias, missing[:1])
  size, _, outputs, inputs = kernel.shape
  parts = []
  for row in range(2):
    for column in range(2):
      # A window of the input meets the columns of the kernel in reverse.
      part = kernel[row::2, column::2][:, ::-1]
      part = part.reshape(*part.shape[:2], outputs // 4, 4, inputs)
      parts.append(part.transpose(2, 0, 1, 4, 3).ravel())
  return {
    'size': size,
    'height': height,
    'inputs': inputs,
    'outputs': outputs,
    'kernel': _to_base64(source, np.concatenate(parts)),
    'bias': _to_base64(source, bias),
  }


def _to_base64(source: Path, x: Any) -> str:
  """Rounds to float16, little-endian."""
  content = float16.rounded(x, source).astype('<f2').tobytes()
  return base64.b64encode(content).decode()


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info('Exporting %s as a page.', command_line.agent_name(_AGENT.value))
  output = files.expand(_OUTPUT.value)
  export(agent.folder_of(_AGENT.value), output)
  print(f'{output}: {output.stat().st_size / 1e6:.1f} MB; open it in a browser')


if __name__ == '__main__':
  command_line.run(main)
