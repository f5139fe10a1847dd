"""Which extra of this project brings a package that is not installed.

Reads `pyproject.toml`, since the project is only ever installed editable: the
metadata of an installation may be older.
"""

import importlib.metadata
from pathlib import Path
import re
import tomllib

from carracing_data import errors

_PROJECT = Path(__file__).parents[2] / 'pyproject.toml'


def check(*extras: str) -> None:
  """Checks that extras are installed.

  Raises:
    errors.UserError: a package of them is missing.
  """
  listed = _packages()
  missing = [x for x in extras if not all(map(_is_installed, listed[x]))]
  if missing:
    raise errors.UserError(_remedy(','.join(missing)))


def remedy(error: ImportError) -> str | None:
  """Returns what to install after an error; None if that is no missing extra.

  Besides `ModuleNotFoundError` there is `ImportError`: if the project's folder
  is on the path, its `datasets` is found in place of Hugging Face's.
  """
  module = (error.name or '').partition('.')[0]
  for extra, packages in _packages().items():
    for package in packages:
      # orbax-checkpoint is imported as orbax.checkpoint.
      names = package.replace('-', '_'), package.partition('-')[0]
      if module in names and not _is_installed(package):
        return _remedy(extra)
  return None


def _remedy(extras: str) -> str:
  plural = 's' if ',' in extras else ''
  return (
    f'this needs the extra{plural} {extras!r}: pip install -c constraints.txt'
    f" -e '.[{extras}]'"
  )


def _packages() -> dict[str, list[str]]:
  """Returns the packages that each extra lists itself."""
  project = tomllib.loads(_PROJECT.read_text(encoding='utf-8'))['project']
  return {
    extra: [
      match[0]
      for requirement in requirements
      if (match := re.match(r'[\w-]+', requirement))
      and match[0] != project['name']
    ]
    for extra, requirements in project['optional-dependencies'].items()
  }


def _is_installed(package: str) -> bool:
  # Which build of TensorFlow is installed depends on the platform.
  names = ('tensorflow', 'tensorflow-cpu')
  for name in names if package in names else (package,):
    try:
      importlib.metadata.version(name)
      return True
    except importlib.metadata.PackageNotFoundError:
      continue
  return False
