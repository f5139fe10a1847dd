"""The page that dreams, in Chromium."""

import atexit
import contextlib
from pathlib import Path
import shutil

from models import agent
from tools.benchmark import contest
from tools.export_page import __main__ as export_page

_STEPS = 20  # In a call of the page.
_NO_WEB_ASSEMBLY = 'delete globalThis.WebAssembly'


def stages(data_dir: Path) -> list[contest.Stage]:
  """Returns the stage of the page."""
  return [
    contest.Stage(
      'page',
      'dreaming with C in the browser, each step shown',
      'frames',
      [
        contest.Contender('ours', show, (data_dir, None)),
        contest.Contender(
          'its plain JavaScript', show, (data_dir, _NO_WEB_ASSEMBLY)
        ),
      ],
    )
  ]


def show(data_dir: Path, script: str | None) -> contest.Work:
  """Opens the page of the pretrained agent.

  Args:
    data_dir: folder for the page.
    script: JavaScript that runs before the page's own; None: there is none.

  Raises:
    ImportError: Playwright or Chromium is not installed.
  """
  from playwright import sync_api  # Only tests need it.

  chromium = shutil.which('chromium')
  if chromium is None:
    raise ImportError('there is no Chromium')
  path = data_dir / 'dream.html'
  export_page.export(agent.PRETRAINED, path)
  with contextlib.ExitStack() as stack:
    browser = stack.enter_context(sync_api.sync_playwright()).chromium.launch(
      executable_path=chromium, args=['--no-sandbox']
    )
    atexit.register(stack.pop_all().close)
  page = browser.new_page()
  if script is not None:
    page.add_init_script(script)
  page.goto(path.absolute().as_uri())

  def work() -> float:
    page.evaluate(
      f'for (let i = 0; i < {_STEPS}; i++) dream.page.show(dream.page.step())'
    )
    return _STEPS

  return work
