import os

from carracing_data import errors
from carracing_data import files
import pytest


def test_what_is_no_file_is_not_replaced(tmp_path):
  pipe = tmp_path / 'pipe'
  os.mkfifo(pipe)
  with pytest.raises(errors.UserError, match='pipe: it is not a regular file'):
    files.claim_file(pipe)
  assert pipe.is_fifo()


@pytest.mark.parametrize('kind', ['pipe', 'device'])
def test_what_may_never_end_is_not_read(kind, tmp_path):
  path = tmp_path / 'file'
  if kind == 'pipe':
    os.mkfifo(path)
  else:
    path.symlink_to('/dev/zero')
  with pytest.raises(errors.UserError, match='cannot read .* no.* regular'):
    files.read_bytes(path)


@pytest.mark.parametrize('exists', [True, False])
def test_a_link_stands_for_its_file(exists, tmp_path):
  target, link = tmp_path / 'target', tmp_path / 'link'
  if exists:
    target.write_text('old')
  link.symlink_to(target)
  path = files.claim_file(link)
  files.replace(path, lambda file: file.write_text('new'))
  assert link.is_symlink() and target.read_text() == 'new'
