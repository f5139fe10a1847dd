"""Runs commands in forks of a process that has already imported the libraries.

A command takes seconds to import JAX, TensorFlow and TFDS; a fork takes
milliseconds, so that tests can run hundreds of commands. Only libraries are
imported in advance: each fork imports the modules of this project itself, as
`python -m` does, and has its own flags, output and exit status.

Reads one request per line, JSON with `module`, `arguments`, `cwd` and
`seconds`; answers with `status`, `stdout` and `stderr`.
"""

import json
import os
from pathlib import Path
import runpy
import signal
import sys
import tempfile
import time


def import_libraries():
  # Imports only: nothing is computed before a fork.
  import apache_beam  # noqa: F401
  from clu import metric_writers  # noqa: F401
  import cv2  # noqa: F401
  from flax import linen  # noqa: F401
  import grain  # noqa: F401
  import gymnasium  # noqa: F401
  import imageio.v3  # noqa: F401
  import jax  # noqa: F401
  from matplotlib import figure  # noqa: F401
  import mlcroissant  # noqa: F401
  import optax  # noqa: F401
  from orbax.checkpoint import v1  # noqa: F401
  import tensorflow  # noqa: F401
  import tensorflow_datasets  # noqa: F401
  from tensorflow_datasets.scripts.cli import main  # noqa: F401


def run(module, arguments):
  """Runs a command and exits as the command would."""
  if module == 'tfds':
    from tensorflow_datasets.scripts.cli import main

    sys.argv = [str(Path(sys.executable).with_name('tfds')), *arguments]
    main.launch_cli()
  else:
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name='__main__', alter_sys=True)


def fork(request, stdout, stderr):
  child = os.fork()
  if child:
    return child
  status = 1
  try:
    os.setsid()  # So that its children can be killed with it.
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    os.chdir(request['cwd'])
    run(request['module'], request['arguments'])
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


def wait(child, seconds):
  """Returns the exit status; None if the child had to be killed."""
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.01)
  os.killpg(child, signal.SIGKILL)
  os.waitpid(child, 0)
  return None


def serve():
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # Keeps the output of libraries out of the answers.
  import_libraries()
  print('ready', file=answers, flush=True)
  for line in sys.stdin:
    request = json.loads(line)
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
      status = wait(fork(request, stdout, stderr), request['seconds'])
      output = {'status': status}
      for name, file in ('stdout', stdout), ('stderr', stderr):
        file.seek(0)
        output[name] = file.read().decode(errors='replace')
    print(json.dumps(output), file=answers, flush=True)


if __name__ == '__main__':
  serve()
