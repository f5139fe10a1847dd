"""Entry point, error reporting and common flags of this project's binaries.

It imports nothing heavy, so `--help` is instant; binaries import heavy
libraries lazily, with `etils.epy.lazy_imports`.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import errno
import io
import logging as python_logging
import os
from pathlib import Path
import re
import signal
import sys
import threading
import types
from typing import Any, NoReturn, TextIO
import unicodedata

from absl import app
from absl import flags
from absl import logging
from carracing_data import errors
from carracing_data import extras

# A flag belongs to the module that calls one of the functions below.
flags.disclaim_key_flags()

CONTINUE = 'run the same command again to continue'
_PROJECT = Path(__file__).parents[2]
_ROOMS = ('datasets', 'models', 'tools', 'trainers')
# They turn the direction of writing.
_BIDIRECTIONAL = 'LRE', 'RLE', 'LRO', 'RLO', 'PDF', 'LRI', 'RLI', 'FSI', 'PDI'
CLEAR = '\r\x1b[K'  # Erases the current line of a terminal.
# What absl says.
_REQUIRED = re.compile(r'flag (--\w+)=None: .* must have a value .*')
_DEVICES = 'JAX_PLATFORMS', 'JAX_NUM_CPU_DEVICES'
# What JAX says when it is imported.
_OF_JAX = re.compile(r" for (?:JAX flag|environment '?JAX)")
TIME = '%H:%M:%S'  # In front of a line in a log.
_ADVICE = {
  errno.EACCES: 'check its permissions',
  errno.ENAMETOOLONG: 'choose a shorter name',
  errno.EMFILE: 'raise the limit of open files (ulimit -n)',
  errno.ENOSPC: 'free space on its disk',
  errno.EROFS: 'choose another folder',
}


def data_dir_flag() -> flags.FlagHolder[str | None]:
  """Defines `--data_dir`."""
  return _folder_flag(
    'data_dir',
    None,
    'Data directory of the datasets; defaults to $TFDS_DATA_DIR or'
    ' ~/tensorflow_datasets.',
  )


def dataset_flag() -> flags.FlagHolder[str]:
  """Defines `--dataset`, which defaults to the rollouts."""
  return flags.DEFINE_string(
    'dataset',
    'carracing_rollouts',
    'Dataset to read: dataset/config:version or a folder; @DIGEST at its end'
    ' refuses other data.',
  )


def output_dir_flag(default: str) -> flags.FlagHolder[str]:
  """Defines `--output_dir`."""
  return _folder_flag('output_dir', default, 'Output directory.')


def agent_flag() -> flags.FlagHolder[str | None]:
  """Defines `--agent`, without which the pretrained agent is meant."""
  return _folder_flag(
    'agent',
    None,
    'Folder of an agent, with vae/, mdn_rnn/ and controller/; defaults to the'
    ' one that comes with this project.',
  )


def num_workers_flag() -> flags.FlagHolder[int | None]:
  """Defines `--num_workers`, without which there is one for each core."""
  return flags.DEFINE_integer(
    'num_workers',
    None,
    'Number of processes; defaults to the number of cores.',
    lower_bound=1,
  )


def _folder_flag(
  name: str, default: str | None, text: str
) -> flags.FlagHolder[Any]:
  flag = flags.DEFINE_string(name, default, text)
  flags.register_validator(
    flag, lambda value: value != '', 'leave it out, or name a folder'
  )
  return flag


def agent_name(flag: str | None) -> str:
  """Returns what `--agent` names, for people."""
  return flag or 'the pretrained agent'


def weights_flags() -> tuple[flags.FlagHolder[str], flags.FlagHolder[str]]:
  """Defines `--vae` and `--mdn_rnn`."""
  return (
    flags.DEFINE_string(
      'vae', 'runs/vae/weights', 'Folder with the exported weights of V.'
    ),
    flags.DEFINE_string(
      'mdn_rnn',
      'runs/mdn_rnn/weights',
      'Folder with the exported weights of M.',
    ),
  )


def run(
  main: Callable[[Sequence[str]], None], takes_arguments: bool = False
) -> None:
  """Runs a binary and prints an error that a user can fix as a single line.

  `main` takes the program name and, if it takes any, positional arguments.
  """
  open_streams()
  say_in_any_encoding()
  stop_in_callbacks()
  threading.excepthook = _show_in_thread

  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1 and not takes_arguments:
      exit_with_usage(errors.UserError(f'unexpected argument {argv[1]!r}'))
    set_up_logging()
    handle_signals(_interrupt)
    try:
      with _reader_may_leave():
        _check_folder()
        main(argv)
        sys.stdout.flush()  # Fails here rather than at the exit.
    except Exception as error:
      if line := line_of(error):
        sys.exit(line)
      raise
    except KeyboardInterrupt as error:
      sys.exit(_say_stopped(*error.args))
    finally:
      handle_signals(end_at_once)

  def parse(argv: Sequence[str]) -> list[str]:
    with _reader_may_leave():
      try:
        arguments = flags.FLAGS(argv)
        _check_values()
        return arguments
      except flags.Error as error:
        exit_with_usage(error)
      except SystemExit:  # absl shows help and exits with 1.
        sys.stdout.flush()
        sys.exit(0)

  app.run(guarded, flags_parser=parse)


def _check_folder() -> None:
  """Raises UserError if the folder that the program runs in was deleted."""
  try:
    os.getcwd()
  except FileNotFoundError:
    raise errors.UserError(
      'the folder that this runs in was deleted; go to another one'
    ) from None


def _show_in_thread(arguments: threading.ExceptHookArgs) -> None:
  """Shows what ends a thread, such as TensorBoard's on a full disk."""
  error = arguments.exc_value
  if error is not None and (line := line_of(error)):
    print(line.replace('Error', 'Warning', 1), file=sys.stderr)
  else:
    threading.__excepthook__(arguments)


def handle_signals(handler: Callable[[int, Any], None]) -> None:
  """Sets what stops this process, but for what it ignores, as after `&`."""
  for number in signal.SIGINT, signal.SIGTERM:
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, handler)


def end_at_once(number: int = signal.SIGINT, _: Any = None) -> NoReturn:
  """Handles a signal where an exception would show a stack, or be lost."""
  os._exit(_say_stopped(number))


def _interrupt(number: int, frame: types.FrameType | None) -> NoReturn:
  """Handles a signal so that what is open is closed and removed."""
  while frame is not None:
    if frame.f_code.co_filename == '<frozen importlib._bootstrap>':
      end_at_once(number)  # Libraries of C crash while they are imported.
    frame = frame.f_back
  # A pipeline, and whoever stops both, may send another one.
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  raise KeyboardInterrupt(number)


def _say_stopped(number: int = signal.SIGINT) -> int:
  """Says which signal has stopped the process; returns the exit status."""
  clear = CLEAR if on_terminal(sys.stderr) else ''
  line = f'Stopped by {signal.Signals(number).name}; {CONTINUE}.'
  with contextlib.suppress(OSError):  # `print` may be at work already.
    os.write(sys.stderr.fileno(), f'{clear}{line}\n'.encode())
  return 128 + number


def line_of(error: BaseException) -> str | None:
  """Returns the line for an error that a user can fix; None for any other.

  An `OSError` without the name of a file is no such error, unless the disk of
  the output is full.
  """
  text = str(error)
  if isinstance(error, errors.UserError):
    reason = text
  elif isinstance(error, ImportError) and (remedy := extras.remedy(error)):
    reason = remedy
  elif isinstance(error, MemoryError) or text.startswith('RESOURCE_EXHAUSTED:'):
    reason = f'there is too little memory: {text.partition(chr(10))[0]}'
  elif isinstance(error, OSError) and error.filename is not None:
    name, code = os.fsdecode(error.filename), error.errno or 0
    advice = _ADVICE.get(code, 'check that it is there and accessible')
    reason = f'cannot use {name}: {error.strerror}; {advice}'
  elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
    reason = f'cannot write: {error.strerror}'
  elif isinstance(error, UnicodeEncodeError) and 'surrogates' in text:
    near = error.object[max(0, error.start - 40) : error.end + 40]
    reason = f'the name in {near!r} is not in UTF-8; rename it'
  elif isinstance(error, ValueError) and _OF_JAX.search(text):
    reason = f'{text}; unset the variable'
  elif isinstance(error, RuntimeError | AssertionError) and (
    problem := _problem_of_jax()
  ):
    reason = problem
  else:
    return None
  return f'Error: {printable(" ".join(reason.splitlines()))}'


def _problem_of_jax() -> str | None:
  """Returns why JAX cannot start, which it tells in many ways; or None."""
  names = [x for x in _DEVICES if x in os.environ]
  if not names or 'jax' not in sys.modules:
    return None
  try:
    sys.modules['jax'].devices()
  except Exception as error:
    reason = (str(error).splitlines() or ['it is not there'])[0]
    return (
      f'JAX cannot use {" ".join(f"{x}={os.environ[x]}" for x in names)}'
      f' ({reason}); unset it, or install JAX for it (docs/SCALE.md)'
    )
  return None


def printable(text: str) -> str:
  """Replaces what foreign files may hold to control a terminal."""
  return ''.join(
    '\N{REPLACEMENT CHARACTER}'
    if unicodedata.category(x) in ('Cc', 'Cs')
    or unicodedata.bidirectional(x) in _BIDIRECTIONAL
    else x
    for x in text
  )


def open_streams() -> None:
  """Opens those standard streams that the caller closed, as job runners do.

  Or else files would take their numbers, into which libraries write.
  """
  while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
    os.set_inheritable(number, True)
  os.close(number)
  sys.stdout = sys.stdout or open(os.devnull, 'w', encoding='utf-8')
  sys.stderr = sys.stderr or open(os.devnull, 'w', encoding='utf-8')


def say_in_any_encoding() -> None:
  """Prints ? for what the encoding of the output lacks, such as ±."""
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='replace')


def _check_values() -> None:
  """Raises flags.Error if a flag has taken the next one as its value."""
  for name, value in flags.FLAGS.flag_values_dict().items():
    if isinstance(value, str) and value.startswith('--'):
      raise flags.IllegalFlagValueError(
        f'--{name} has no value, for {value} is a flag; pass --{name}=VALUE'
      )


def stop_in_callbacks(message: str = '') -> None:
  """Ends the process when Ctrl-C meets a callback, which would swallow it.

  JAX has one in the garbage collector. The end is that of SIGKILL, but for the
  message, if any: what is written so far can be continued.
  """
  previous = sys.unraisablehook

  def hook(unraisable: 'sys.UnraisableHookArgs') -> None:
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
      previous(unraisable)
      return
    if not message:
      end_at_once(*unraisable.exc_value.args)
    print(message, file=sys.stderr, flush=True)
    os._exit(130)

  sys.unraisablehook = hook


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
  """Exits silently if nobody reads the output to its end, as with `head`.

  If the disk of the output is full, exits with an error.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in (errno.EPIPE, errno.ENOSPC):
      raise
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
      sys.exit(141)
    sys.exit(f'Error: cannot write: {error.strerror}')


def exit_with_usage(error: Exception) -> NoReturn:
  """Exits with a usage error and a pointer to `--help`."""
  spec = sys.modules['__main__'].__spec__
  name = None if spec is None else spec.name.removesuffix('.__main__')
  command = sys.argv[0] if name is None else f'python -m {name}'
  text = str(error).replace('\n', ' ').removeprefix('ERROR:: ')
  message = _REQUIRED.sub(r'\1 is required', text)
  sys.exit(f'Error: {message}\nSee {command} --help')


def set_up_logging() -> None:
  """Shows this project's messages and other packages' warnings."""
  # No window of Matplotlib is opened, so an odd choice of one does no harm.
  os.environ.pop('MPLBACKEND', None)
  # Silences the banner of TensorFlow, which `tfds` and exports to RLDS import.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  format_logs(sys.stderr)
  logging.get_absl_handler().addFilter(is_wanted)


def format_logs(stream: TextIO) -> None:
  """Shows messages in a stream as lines with a time, below updated lines."""
  clear = CLEAR if on_terminal(stream) else ''
  logging.get_absl_handler().setFormatter(_Lines(clear))


class _Lines(python_logging.Formatter):
  """Formats messages; names of foreign files cannot control the terminal."""

  def __init__(self, clear: str):
    super().__init__('%(asctime)s %(message)s', TIME)
    self._clear = clear

  def format(self, record: python_logging.LogRecord) -> str:
    lines = super().format(record).split('\n')
    return self._clear + '\n'.join(map(printable, lines))


def on_terminal(stream: TextIO) -> bool:
  """Returns whether a stream understands escape codes."""
  return stream.isatty() and os.environ.get('TERM') != 'dumb'


def is_wanted(record: python_logging.LogRecord) -> bool:
  """Filters log records: messages of this project, warnings of others."""
  path = Path(record.pathname)
  if 'orbax' in path.parts and record.exc_info:
    return False  # Orbax also raises the error.
  if 'tensorflow_datasets' in path.parts:  # Warns in every correct build.
    return record.levelno >= python_logging.ERROR
  ours = any(path.is_relative_to(_PROJECT / room) for room in _ROOMS)
  return ours or record.levelno > python_logging.INFO


# While a program of this project imports the rest.
_main = getattr(sys.modules['__main__'], '__spec__', None)
if (
  _main is not None
  and threading.current_thread() is threading.main_thread()
  and any(
    Path(_main.origin or '').is_relative_to(_PROJECT / room)
    for room in ('tools', 'trainers')
  )
):
  handle_signals(end_at_once)
