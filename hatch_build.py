"""Refuses to build a wheel of this project."""

from hatchling.builders.hooks.plugin import interface


class CustomBuildHook(interface.BuildHookInterface):
  """Lets editable installations pass, and nothing else."""

  def initialize(self, version: str, build_data: dict) -> None:
    del build_data
    if version != 'editable':
      raise SystemExit(
        'there is no wheel of this project: its top-level packages (models,'
        ' tools, trainers) would collide with those of other projects. Clone'
        ' the repository and install it editable: pip install -c'
        " constraints.txt -e '.[dev]'"
      )
