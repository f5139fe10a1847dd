"""Describes the start of a run: command, code, packages, machine."""

import datetime
import importlib.metadata
from pathlib import Path
import platform
import shlex
import shutil
import subprocess
import sys

import jax
from trainers import run_documents

_PACKAGES = (
  'flax',
  'grain',
  'jax',
  'jaxlib',
  'numpy',
  'optax',
  'orbax-checkpoint',
)


def describe() -> run_documents.Start:
  """Describes this process, its machine and its code."""
  device = jax.devices()[0]
  return run_documents.Start(
    time=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    command=shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
    git_revision=_git_revision(),
    host=platform.node(),
    platform=platform.platform(),
    python=platform.python_version(),
    packages={name: importlib.metadata.version(name) for name in _PACKAGES},
    device=device.device_kind,
    devices=jax.device_count(),
    processes=jax.process_count(),
  )


def _git_revision() -> str | None:
  """Returns the commit of the code, with `-dirty` if files differ from it."""
  if shutil.which('git') is None:
    return None
  done = subprocess.run(
    ['git', 'describe', '--always', '--dirty', '--abbrev=40'],
    cwd=Path(__file__).parent,
    capture_output=True,
    text=True,
    check=False,
  )
  return done.stdout.strip() or None
