"""Runs a program as if this project were installed without any extra.

  python tests/core_alone.py tools.drive --output_dir=drive

Hides the packages that are not among the dependencies of the project, or of
these in turn, whatever else is installed.
"""

from importlib import machinery
from importlib import metadata
from pathlib import Path
import runpy
import sys
import tomllib

from packaging import requirements
from packaging import utils

_PROJECT = Path(__file__).parents[1]


def packages() -> set[str]:
  """Returns the canonical names of the packages of the core."""
  document = tomllib.loads((_PROJECT / 'pyproject.toml').read_text())
  todo = [*document['project']['dependencies']]
  done = set()
  while todo:
    requirement = requirements.Requirement(todo.pop())
    name = utils.canonicalize_name(requirement.name)
    for extra in {'', *requirement.extras} - {x for n, x in done if n == name}:
      done.add((name, extra))
      for text in metadata.requires(name) or ():
        marker = requirements.Requirement(text).marker
        if marker is None or marker.evaluate({'extra': extra}):
          todo.append(text)
  return {name for name, _ in done}


CORE = packages()
HIDDEN = {
  module
  for module, owners in metadata.packages_distributions().items()
  if CORE.isdisjoint(map(utils.canonicalize_name, owners))
}


class Finder(machinery.PathFinder):
  """Finds what Python finds, but for the extras."""

  @classmethod
  def find_spec(cls, fullname, path=None, target=None):
    if fullname.partition('.')[0] in HIDDEN:
      return None
    return super().find_spec(fullname, path, target)

  @classmethod
  def find_distributions(cls, *args, **kwargs):
    for found in super().find_distributions(*args, **kwargs):
      if utils.canonicalize_name(found.name) in CORE:
        yield found


def main() -> None:
  sys.meta_path[sys.meta_path.index(machinery.PathFinder)] = Finder
  sys.path[0] = str(_PROJECT)
  del sys.argv[0]
  if sys.argv[0] == '-c':
    exec(sys.argv[1], {'__name__': '__main__'})
  else:
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
