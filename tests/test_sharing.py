"""A team shares a version: digests in citations, read-only data directories."""

import hashlib
import json
from pathlib import Path
import re
import shlex
import shutil

from carracing_data import digests
from carracing_data import errors
from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_data import verification
from carracing_latents import (
  carracing_latents_dataset_builder as latents_builder,
)
from carracing_latents import loader as latents_loader
from carracing_rollouts import loader
from carracing_rollouts import schema
from conftest import PROJECT
from conftest import ROLLOUTS
from conftest import tiny_mdn_rnn_config
from conftest import tiny_vae_config
from conftest import VERSION
from models import agent
from models import weights
import pytest
from tools.export import rlds_datasets
from tools.lineage import artefacts
from tools.lineage import sources
from trainers import run_folder
from trainers import train_mdn_rnn
from trainers import train_vae

NAME = 'carracing_rollouts/tiny'
OTHER = '0' * 12


@pytest.fixture
def cited(data_dir):
  """The citation of carracing_rollouts/tiny, `NAME:VERSION@DIGEST`."""
  return prepared_dataset.find(NAME, data_dir).citation


@pytest.fixture
def copy(data_dir, tmp_path):
  """A copy of carracing_rollouts/tiny."""
  source = prepared_dataset.find(NAME, data_dir).folder
  return Path(shutil.copytree(source, tmp_path / 'copy'))


def test_anyone_can_compute_the_digest_from_the_metadata(data_dir, cited):
  # The formula that docs/SHARING.md gives to readers without this project.
  builder = prepared_dataset.find(NAME, data_dir)
  splits = json.loads((builder.folder / 'metadata.json').read_text())
  content = {k: v['content_sha256'] for k, v in splits['splits'].items()}
  text = json.dumps(content, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()
  assert builder.digest == digest
  assert cited == f'{builder.full_name}@{digest[:12]}'


def test_documents_cite_one_digest_of_each_config_of_this_version():
  found = {}
  for path in (
    *(PROJECT / 'datasets').glob('carracing_*/README.md'),
    *(PROJECT / 'datasets').glob('carracing_*/statistics/**/*.md'),
    PROJECT / 'docs/SHARING.md',
  ):
    for name, version, digest in re.findall(
      r'(carracing_rollouts/\w+):([\d.]+)@(\w+)', path.read_text()
    ):
      assert version == VERSION, path
      assert digest == found.setdefault(name, digest), path
  assert found.keys() >= {
    f'carracing_rollouts/{x}' for x in ('default', 'driven')
  }
  # The agent of this project was trained on what its card cites.
  sources = weights.describe(agent.PRETRAINED / 'vae').training['sources']
  card = (agent.PRETRAINED / 'README.md').read_text()
  cited = re.findall(r'carracing_rollouts/\w+:[\d.]+@(\w+)', card)
  trained_on = [digests.of_dataset(x['sha256'])[:12] for x in sources.values()]
  assert cited == trained_on


def test_build_prints_the_citation_and_the_command_that_proves_a_copy(
  command, copy, data_dir, cited
):
  config = json.dumps({'name': 'tiny', **ROLLOUTS})
  arguments = [f'--data_dir={data_dir}', f'--config={config}']
  built = command(
    'tfds', 'build', 'carracing_rollouts', *arguments, cwd=PROJECT / 'datasets'
  )
  said = built.stdout + built.stderr
  assert f'Cite it as: {cited}\n' in said
  [check] = re.findall(r'python -m (tools\.verify .*)', said)
  module, dataset, expect = shlex.split(check)
  assert dataset.startswith('--dataset=')
  done = command(module, f'--dataset={copy}', expect)
  assert done.status == 0, done.stderr
  assert f'intact and as expected: {cited}\n' in done.stderr


def test_every_reader_takes_a_citation_and_refuses_other_data(world, cited):
  latents = prepared_dataset.find('carracing_latents/tiny', world.data_dir)
  readers = [
    (cited, lambda name: loader.frames(name, batch_size=2, data_dir=root)),
    (cited, lambda name: loader.spread_frames(name, count=2, data_dir=root)),
    (cited, lambda name: loader.episodes(name, data_dir=root)),
    (cited, lambda name: next(rlds_datasets.episodes(name, data_dir=root))),
    (
      latents.citation,
      lambda name: latents_loader.windows(
        name, batch_size=2, window_steps=9, data_dir=root
      ),
    ),
    (
      latents.citation,
      lambda name: latents_loader.episodes(name, data_dir=root),
    ),
  ]
  root = world.data_dir
  for citation, read in readers:
    read(citation)
    name, _, digest = citation.partition('@')
    with pytest.raises(errors.DatasetError) as caught:
      read(f'{name}@{OTHER}')
    assert digest in str(caught.value) and OTHER in str(caught.value)


def test_citation_may_leave_out_what_a_name_may(data_dir, cited):
  wanted = prepared_dataset.find(NAME, data_dir).folder
  digest = prepared_dataset.find(NAME, data_dir).digest
  folder = f'{wanted}@{digest}'
  for name in f'{NAME}@{digest[:8]}', f'{NAME}@{digest}', cited, folder:
    assert prepared_dataset.find(name, data_dir).folder == wanted


def test_folder_may_have_an_at_sign_but_no_other_digest(copy, cited):
  digest = cited.partition('@')[2]
  for name in 'me@host', f'1.1.0@{digest}', f'x@{OTHER}':
    shutil.copytree(copy, copy.parent / name)
    shutil.copytree(copy, copy.parent / name / 'inside')
  for name in (
    'me@host',
    f'1.1.0@{digest}',
    f'me@host@{digest}',
    f'x@{OTHER}/inside',
  ):
    assert prepared_dataset.find(str(copy.parent / name)).full_name
  # Whoever named it meant another dataset than the one it holds.
  with pytest.raises(errors.DatasetError, match=f'{cited}, not @{OTHER}'):
    prepared_dataset.find(str(copy.parent / f'x@{OTHER}'))


def test_what_was_made_from_a_citation_is_what_is_made_from_a_name(
  world, cited
):
  # Refused if the identity were another one.
  config = latents_builder.LatentsConfig(
    name='tiny', rollouts=cited, vae=str(world.vae)
  )
  latents_builder.Builder(
    data_dir=world.data_dir, config=config
  ).download_and_prepare()
  plain, exact = (
    prepared_dataset.find(name, world.data_dir) for name in (NAME, cited)
  )
  assert run_folder.dataset_sources([exact]) == run_folder.dataset_sources(
    [plain]
  )
  finder = sources.Finder(str(world.data_dir), [])
  tree = finder.of(cited)
  assert tree == finder.of(NAME)
  assert next(artefacts.lines(tree)).startswith(cited.replace('@', ' @'))


def test_forged_metadata_do_not_pass_as_the_cited_dataset(
  copy, data_dir, cited
):
  """`find` compares what is recorded; `tools.verify` reads the records."""
  other = prepared_dataset.find('carracing_rollouts/straight_ahead', data_dir)
  shutil.rmtree(copy)
  shutil.copytree(other.folder, copy)
  path = copy / 'metadata.json'
  content = json.loads(path.read_text())
  for split, sha256 in prepared_dataset.find(
    NAME, data_dir
  ).content_digests.items():
    content['splits'][split]['content_sha256'] = sha256
  json_documents.write(path, json_documents.sealed(content, metadata.SEAL))
  forged = prepared_dataset.find(
    f'{copy}@{cited.partition("@")[2]}', None, schema.KIND
  )
  with pytest.raises(errors.DatasetError, match='content_sha256 of train does'):
    verification.verify(forged)


def state_of(folder):
  """Returns the entries of a folder, each with its time of change and bytes.

  A file that came and went shows in the time of its folder.
  """
  return {
    path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
    for path in [folder, *folder.rglob('*')]
  }


def test_nothing_writes_to_a_data_directory_that_is_read(
  command, world, tmp_path
):
  # For root, who ignores permissions, the comparison at the end counts.
  shared = Path(shutil.copytree(world.data_dir, tmp_path / 'shared'))
  for path in [shared, *shared.rglob('*')]:
    path.chmod(path.stat().st_mode & ~0o222)
  before = state_of(shared)
  out = tmp_path / 'out'
  latents = 'carracing_latents/tiny'
  rollouts = prepared_dataset.find(NAME, shared)
  encode = {
    'name': 'tiny',
    'rollouts': f'{rollouts.folder}@{rollouts.digest}',
    'vae': str(world.vae),
  }
  for line in (
    f'tools.verify --dataset={NAME}',
    f'tools.verify --dataset={latents}',
    f'tools.verify --dataset={NAME} --compare={rollouts.folder}',
    f'tools.view_rollouts --dataset={NAME} --output_dir={out}',
    f'tools.export --format=croissant --dataset={NAME} --output_dir={out}',
    f'tools.export --format=rlds --dataset={NAME} --output_dir={out}',
    f'tools.export --format=minari --dataset={NAME} --output_dir={out}',
    f'tools.export --format=parquet --dataset={NAME} --output_dir={out}',
    f'tools.browse_rollouts --dataset={NAME} --output_dir={out}/browser',
    f'tools.lineage {latents}',
  ):
    module, *arguments = line.split()
    done = command(module, f'--data_dir={shared}', *arguments)
    assert done.status == 0, done.stderr
  train_vae.train(tiny_vae_config(), out / 'vae', str(shared))
  train_mdn_rnn.train(tiny_mdn_rnn_config(), out / 'mdn_rnn', str(shared))
  # Built already: there is nothing to write.
  for dataset, root, config in (
    ('carracing_rollouts', shared, {'name': 'tiny', **ROLLOUTS}),
    ('carracing_latents', shared, {**encode, 'rollouts': NAME}),
    ('carracing_latents', tmp_path / 'mine', encode),
  ):
    done = command(
      'tfds',
      'build',
      PROJECT / 'datasets' / dataset,
      f'--data_dir={root}',
      f'--config={json.dumps(config)}',
    )
    assert done.status == 0, done.stderr
  # Encoded elsewhere, they are the same dataset.
  theirs, ours = (
    prepared_dataset.find(latents, x) for x in (shared, tmp_path / 'mine')
  )
  assert ours.citation == theirs.citation
  assert ours.metadata == theirs.metadata
  assert state_of(shared) == before
