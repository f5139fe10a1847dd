"""The report of a line of work, read as text and looked at in a browser."""

import functools
import html
import re
import shutil

from carracing_data import errors
from carracing_data import json_documents
from carracing_data import processes
from conftest import VERSION
from models import agent
from models import weights
import numpy as np
import pytest
from tools.dream_fidelity import comparison
from tools.dream_fidelity import documents
from tools.driving import drivers
from tools.driving import track_scores
from tools.lineage import find
from tools.lineage import sources
from tools.report import page


def make(folder, output, data_dir=None, search=()):
  page.make(folder, data_dir, search, output)
  return read(output)


def read(output):
  text = re.sub('src="data:[^"]+"', 'src=""', output.read_text())
  return html.unescape(text)


def fidelity(mdn_rnn):
  subject = documents.Subject(
    drivers='held_out',
    agent={'mdn_rnn': mdn_rnn},
    mdn_rnn=mdn_rnn,
    temperature=1.0,
    noise=0.0,
    seed=0,
    dreams_per_track=1,
    max_steps=70,
  )
  game = {
    name: comparison.Rewards(np.array([total, total + 1]), np.full(2, 10.0))
    for name, total in (('nothing', -1.0), ('gas', 2.0), ('agent', 9.0))
  }
  return comparison.compare(subject, game, game)


def test_report_of_an_agent_shows_its_whole_line_of_work(
  world, agent_folder, command, check_page, tmp_path
):
  folder = shutil.copytree(agent_folder, tmp_path / 'a' / '<b>agent')
  run = functools.partial(processes.run_locally, num_workers=1)
  # Where `tools.evaluate` writes by default, and where trainers are told to.
  score = tmp_path / 'evaluation'
  found = track_scores.evaluate(
    drivers.of_agent(folder), folder, 'development', 2, score, run, 9
  )
  m = weights.describe(world.mdn_rnn).weights_sha256
  for name, digest in ('fidelity', m), ('fidelity/of_another', 'e' * 64):
    (tmp_path / name).mkdir()
    json_documents.write(
      tmp_path / name / documents.FILE, fidelity(digest).model_dump()
    )
  (tmp_path / 'runs').symlink_to(world.vae.parents[1])
  done = command(
    'tools.report', 'a/<b>agent', f'--data_dir={world.data_dir}', cwd=tmp_path
  )
  assert done.status == 0, done.stderr
  output = folder / 'report.html'
  text = read(output)
  check_page(output)
  assert '<h1>Report of &lt;b&gt;agent</h1>' in output.read_text()
  assert f'{found.summary.mean:.1f} ± ' in text
  assert 'alt="histogram of returns on 2 development tracks' in text
  assert '<td class="short">tiny:' in text  # The dataset's statistics.
  assert text.count('alt="frames of random_policy') == 4  # All episodes.
  assert 'alt="curve of reconstruction by training step"' in text  # V's log.
  assert 'alt="curve of nll by training step"' in text  # M's log.
  assert 'The run that trained C is not found here' in text
  assert 'alt="Validation frames of carracing_rollouts/tiny:' in text
  nats = [float(x) for x in re.findall(r'>z\[\d+\] · ([\d.]+) nats<', text)]
  assert len(nats) == 32 and nats == sorted(nats, reverse=True)
  assert text.count('alt="strip of frames: ') == 4  # A dream, in four rows.
  assert 'has 130 transitions or more' in text  # Else there were its errors.
  assert text.count('Over 3 drivers and 2 tracks: rank correlation 1.00') == 1
  assert 'Drivers of the set held out, temperature 1, noise 0.' in text
  assert text.count('alt="frames of dream ') == 4  # In which C drives.
  digests = agent.digests(folder)
  for digest in digests.values():
    assert f'id="artefact-{digest[:12]}"' in text
  assert '$ tfds build datasets/carracing_latents' in text
  assert '<th scope="col">config of V</th>' in text
  assert 'orbax-checkpoint' in text


def test_what_is_missing_is_said_and_the_rest_is_the_same_each_time(
  agent_folder, check_page, tmp_path
):
  folder = shutil.copytree(agent_folder, tmp_path / 'a' / 'b' / 'agent')
  (folder / 'evaluation.json').write_text('{')
  (folder / 'fidelity.json').write_text('{')
  (folder / 'run.json').write_text('{')
  (folder / 'metrics.json').write_text('{')
  nothing = tmp_path / 'nothing'
  text = make(folder, tmp_path / 'report.html', str(nothing), [nothing])
  check_page(tmp_path / 'report.html')
  for sentence in (
    f'carracing_rollouts/tiny:{VERSION} is not found here',
    'There are no frames here to reconstruct.',
    'The run that trained M is not found here',
    'More cannot be shown: none of the rollouts are found here.',
    'No score of this agent is found here',
    'No comparison is found here; python -m tools.dream_fidelity --agent=DIR',
    'No run is found here.',
  ):
    assert sentence in text
  # Of the start states of dreams, which are stored with M.
  assert 'sorted by KL; the others stay as they are in the most usual' in text
  again = tmp_path / 'again.html'
  make(folder, again, str(nothing), [])
  assert again.read_bytes() == (tmp_path / 'report.html').read_bytes()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'sources': {}}, None),  # Digests of V and M are not enough.
    ({'validation': {'score': '5'}}, 'training: validation.score: .*number'),
    (
      {'sources': {'vae': {'name': 'vae', 'sha256': {}}}},
      'training: sources.vae.sha256: .*at least 1 item',
    ),
  ],
)
def test_c_that_does_not_name_its_sources(
  change, message, agent_folder, tmp_path
):
  folder = shutil.copytree(agent_folder, tmp_path / 'agent')
  c = weights.load(folder / 'controller', 'controller')
  weights.save(
    folder / 'controller',
    'controller',
    c.config,
    c.variables['params'],
    {**c.training, **change},
  )
  if message is None:
    text = make(folder, tmp_path / 'report.html')
    assert 'The weights of an unknown vae are not found here.' in text
  else:
    with pytest.raises(errors.UserError, match=message):
      make(folder, tmp_path / 'report.html')


def unfinished(source, folder):
  """Copies a run as it would be if it had been killed while it trained."""
  shutil.copytree(source, folder)
  (folder / 'metrics.json').unlink()
  shutil.rmtree(folder / 'weights')
  log = folder / 'metrics.jsonl'
  log.write_bytes(log.read_bytes()[:-20])
  return folder


def test_unfinished_run_has_its_curves(world, check_page, tmp_path):
  folder = unfinished(world.mdn_rnn.parent, tmp_path / 'mdn_rnn')
  output = tmp_path / 'report.html'
  text = make(folder, output, str(world.data_dir), [world.vae.parent])
  check_page(output)
  assert 'alt="curve of nll by training step"' in text
  assert 'M (mdn_rnn) is not finished: there are no weights yet' in text
  assert '>z[31] · ' in text  # V is there.
  tree = sources.Finder(None, []).of(str(folder))
  assert (tree.kind, tree.facts) == ('mdn_rnn', ['not finished'])
  assert tree.sources[0].name.startswith('carracing_latents/tiny:')


def test_newest_work_of_a_pipeline_is_shown(world, tmp_path):
  def add(name, source, time, copy=shutil.copytree):
    folder = tmp_path / name
    copy(source.parent, folder)
    content = (folder / 'run.json').read_text()
    content = re.sub('"time": "[^"]+"', f'"time": "{time}"', content)
    (folder / 'run.json').write_text(content)
    found = find.lineage(tmp_path, str(world.data_dir), [])
    return found.newest.relative_to(tmp_path).as_posix()

  assert add('2/vae', world.vae, '2026-01-02') == '2/vae'
  assert add('1/vae', world.vae, '2026-01-01') == '2/vae'
  assert add('mdn_rnn', world.mdn_rnn, '2025-01-01') == 'mdn_rnn'
  # What is finished can be shown.
  assert add('later', world.mdn_rnn, '2027-01-01', unfinished) == 'mdn_rnn'
  assert add('last', world.mdn_rnn, '2027-01-01') == 'last'
  (tmp_path / 'last' / 'run.json').write_text('[')
  assert find.lineage(tmp_path, None, []).newest.name == 'mdn_rnn'
