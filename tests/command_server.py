"""Starts commands in forks of a process that has imported all libraries.

A command takes seconds to import JAX, TensorFlow, TFDS and this project; a fork
takes milliseconds, so that tests can run hundreds of commands. Only libraries
are imported in advance: each fork runs its program anew, as `python -m` does,
with its own flags, environment, output, signals and exit status.

Reads one request per line, in JSON, and answers each with a line:

  {"start": [MODULE, ARGUMENTS...], "cwd": ..., "environment": {...},
   "file_bytes": limit or null, "stdout": FILE, "stderr": FILE}
    → process id
  {"poll": process id}
    → exit status, negative for a signal; null while it runs
"""

import gc
import importlib
import json
import os
from pathlib import Path
import resource
import runpy
import signal
import sys
import threading

PROJECT = Path(__file__).parents[1]
SOURCES = PROJECT / 'datasets', PROJECT
PACKAGES = 'carracing_*', 'models', 'trainers', 'tools'


def import_libraries():
  # Imports only: nothing is computed before a fork.
  import apache_beam  # noqa: F401
  from clu import metrics  # noqa: F401
  import cv2  # noqa: F401
  from flax import linen  # noqa: F401
  import grain  # noqa: F401
  import gymnasium  # noqa: F401
  import imageio.v3  # noqa: F401
  import jax  # noqa: F401
  from jax._src import xla_bridge
  from matplotlib import figure  # noqa: F401
  import mlcroissant  # noqa: F401
  import optax  # noqa: F401
  from orbax.checkpoint import v1  # noqa: F401
  import tensorboardX  # noqa: F401
  import tensorflow  # noqa: F401
  import tensorflow_datasets  # noqa: F401
  from tensorflow_datasets.scripts.cli import main  # noqa: F401

  for name in libraries_of_this_project():
    importlib.import_module(name)
  # It adapts the `tfds` command when that imports it.
  assert 'carracing_data.sharded_builder' not in sys.modules
  # Neither would work in a fork.
  assert not xla_bridge.backends_are_initialized()
  assert threading.active_count() == 1


def libraries_of_this_project():
  """Yields the names of modules that are neither programs nor builders."""
  for source in SOURCES:
    for package in PACKAGES:
      for path in sorted(source.glob(f'{package}/**/*.py')):
        *folders, name = path.relative_to(source).with_suffix('').parts
        if (
          "\nif __name__ == '__main__':" not in path.read_text()
          and not name.endswith('_builder')
          and 'benchmark' not in folders  # Some need PyTorch,
          and name != 'dream_vec_env'  # as does this one.
          and 'configs' not in folders  # Read by their paths.
        ):
          yield '.'.join(folders if name == '__init__' else [*folders, name])


def run(module, arguments):
  """Runs a command and exits as the command would."""
  if module == 'tfds':
    from tensorflow_datasets.scripts.cli import main

    sys.argv = [str(Path(sys.executable).with_name('tfds')), *arguments]
    main.launch_cli()
  else:
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name='__main__', alter_sys=True)


def become(request):
  """Gives a fork what a process of its own would have."""
  os.setsid()  # So that its children can be killed with it.
  # A shell lets programs in the background ignore Ctrl-C, and so this server.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  flags = os.O_WRONLY | os.O_CREAT
  for number, path, how in (
    (0, os.devnull, os.O_RDONLY),
    (1, request['stdout'], flags),
    (2, request['stderr'], flags),
  ):
    file = os.open(path, how)
    os.dup2(file, number)
    os.close(file)
  os.chdir(request['cwd'])
  os.environ.update(request['environment'])
  if request['file_bytes'] is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (request['file_bytes'],) * 2)


def fork(request):
  child = os.fork()
  if child:
    return child
  status = 1
  try:
    become(request)
    module, *arguments = request['start']
    run(module, arguments)
    status = 0
  except SystemExit as exit:
    if isinstance(exit.code, str):
      print(exit.code, file=sys.stderr)
    status = exit.code if isinstance(exit.code, int) else int(bool(exit.code))
  except BaseException as error:
    sys.excepthook(type(error), error, error.__traceback__)
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def poll(child):
  pid, status = os.waitpid(child, os.WNOHANG)
  return os.waitstatus_to_exitcode(status) if pid else None


def serve():
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # Keeps the output of libraries out of the answers.
  import_libraries()
  gc.freeze()  # Collections of a fork would copy all of this.
  print('ready', file=answers, flush=True)
  for line in sys.stdin:
    request = json.loads(line)
    answer = fork(request) if 'start' in request else poll(request['poll'])
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  serve()
