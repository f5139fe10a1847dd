"""Trains C, the controller, with V and M, and exports the whole agent.

  python -m trainers.train_controller --workdir=runs/controller

Reads the exported weights of V and M, and with --initial_weights of C. Drives
many cars, in the simulator or, with `controller_dream.py`, in dreams. Writes
checkpoints, TensorBoard logs, the exported weights of C and the whole agent to
the workdir. The same command continues an interrupted run.
"""

from __future__ import annotations  # Types of modules that load lazily.

from pathlib import Path

from absl import flags
from carracing_data import command_line
from carracing_data import files
from etils import epy
import ml_collections
from trainers import common_flags
from trainers import run_documents
from trainers.configs import controller as controller_config
from trainers.configs import controller_dream
from trainers.configs import controller_evolution

with epy.lazy_imports():
  from carracing_data import digests
  from models import controller
  from models import start_states
  from models import weights
  from models import world_model
  from trainers import loop
  from trainers import run_folder
  from trainers import training_log
  from trainers.configs import base
  from trainers.control import actor_critic_learner
  from trainers.control import dream_learner
  from trainers.control import evolution_learner


_CONFIGS = {
  'controller.py': controller_config.Config,
  'controller_dream.py': controller_dream.Config,
  'controller_evolution.py': controller_evolution.Config,
}
_METHODS = {x.model_fields['method'].default: x for x in _CONFIGS.values()}


def train(
  config: ml_collections.ConfigDict | controller_config.ControllerConfig,
  workdir: Path,
  vae: str,
  mdn_rnn: str,
  initial_weights: str | None = None,
  options: training_log.Options | None = None,
) -> None:
  """Trains a controller and exports the agent to `workdir/agent`.

  Args:
    config: see `trainers/configs/controller*.py`.
    workdir: folder of the run.
    vae: folder of the exported weights of V.
    mdn_rnn: folder of the exported weights of M.
    initial_weights: folder of exported weights of C from which to train on, in
      dreams; None: it begins untrained.
    options: profiling and logging options.

  Raises:
    errors.UserError: weights are missing or do not belong together, the config
      is invalid, the folder holds a run with a different config or cannot be
      written, or the run cannot continue.
  """
  config = _validated(config)
  v, m = weights.load(vae, 'vae'), weights.load(mdn_rnn, 'mdn_rnn')
  model = world_model.combined(v, m)
  sources = {x.name: run_folder.weights_source(x) for x in (v, m)}
  sizes = {
    'latent_size': v.model.latent_size,
    'hidden_size': m.model.hidden_size if config.features == 'z,h' else 0,
  }
  c = controller.Controller(**sizes)
  params = starts = None
  if isinstance(config, controller_dream.Config):
    world_model.check_dreams(model, mdn_rnn)
    starts = start_states.load(mdn_rnn)
    assert m.start_states is not None
    sources[m.name].sha256['start_states'] = digests.of_bytes(m.start_states)
    if initial_weights is not None:
      initial = run_folder.initial_weights(
        initial_weights, 'controller', v.sha256, sizes
      )
      params = initial.variables['params']
      sources['initial_weights'] = run_folder.weights_source(initial)
  elif initial_weights is not None:
    raise run_documents.RunError(
      f'--initial_weights needs method=dream, not {config.method}; pass'
      ' --config=trainers/configs/controller_dream.py'
    )

  def make_learner() -> loop.Learner:
    match config:
      case controller_config.Config():
        return actor_critic_learner.ActorCriticLearner(config, model, c)
      case controller_evolution.Config():
        return evolution_learner.EvolutionLearner(config, model, c)
    assert starts is not None
    return dream_learner.DreamLearner(config, model, c, starts, params)

  loop.train_and_evaluate(
    config,
    workdir,
    sources,
    run_folder.Export(
      'controller',
      sizes,
      {f'{x.name}_sha256': x.sha256 for x in (v, m)},
    ),
    make_learner,
    options or training_log.Options(),
  )
  parts = {'vae': vae, 'mdn_rnn': mdn_rnn, 'controller': workdir / 'weights'}
  with files.locked(workdir):
    weights.gather(workdir / 'agent', parts)


def _validated(
  config: ml_collections.ConfigDict | controller_config.ControllerConfig,
) -> controller_config.ControllerConfig:
  """Validates a config by the class of its method."""
  method = getattr(config, 'method', None)
  if not isinstance(method, str) or method not in _METHODS:
    raise run_documents.RunError(
      f'invalid config: method: it is one of {", ".join(_METHODS)}, not'
      f' {method!r}; is --config=FILE a config of this trainer?'
    )
  return base.validated(config, _METHODS[method])


def _input_flags() -> list[flags.FlagHolder]:
  return [
    *command_line.weights_flags(),
    flags.DEFINE_string(
      'initial_weights',
      None,
      'Folder of exported weights of C from which to train on, in dreams; M may'
      ' have been trained on since. By default, C begins untrained.',
    ),
  ]


def _inputs(
  config: ml_collections.ConfigDict,
  vae: str,
  mdn_rnn: str,
  initial_weights: str | None,
) -> str:
  """Returns what a run reads, for people."""
  where = ' in dreams' if config.get('method') == 'dream' else ''
  begun = '' if initial_weights is None else f', from {initial_weights}'
  return f'{vae} and {mdn_rnn}{where}{begun}'


if __name__ == '__main__':
  # The second device learns while the first one drives; dreamers need only one.
  common_flags.run(
    train,
    'C',
    _CONFIGS,
    _input_flags,
    _inputs,
    cpu_devices=lambda config: 1 if config.get('method') == 'dream' else 2,
    distributed=False,
  )
