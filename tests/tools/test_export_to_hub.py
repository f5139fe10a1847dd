"""Folders for the Hub: datasets as Parquet, and agents, maybe in float16."""

import shutil

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import who_drove
import datasets
import huggingface_hub
import imageio.v3 as imageio
import jax
from models import agent
from models import start_states
from models import weights
import numpy as np
from pyarrow import parquet
import pytest
from tools.driving import drivers
from tools.driving import track_scores
from tools.export import float16
from tools.export import hub_datasets
from tools.export import hub_models
from tools.lineage import sources

TINY = 'carracing_rollouts/tiny'


def content(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.fixture(scope='module')
def hub_dataset(data_dir, tmp_path_factory):
  return hub_datasets.export(
    TINY, tmp_path_factory.mktemp('hub'), str(data_dir), steps_per_file=80
  )


@pytest.mark.parametrize('streaming', [False, True])
def test_hugging_face_reads_the_same_steps(
  streaming, hub_dataset, data_dir, tmp_path
):
  loaded = datasets.load_dataset(
    str(hub_dataset), streaming=streaming, cache_dir=str(tmp_path)
  )
  source = prepared_dataset.find(TINY, data_dir)
  for split in schema.SPLITS:
    episodes = loader.episodes(TINY, split=split, data_dir=data_dir)
    of_split = who_drove.of_split(source, split)
    rows = iter(loaded[split])
    for episode_id, (ours, origin) in enumerate(zip(episodes, of_split)):
      theirs = [next(rows) for _ in range(len(ours))]
      for name, values in vars(ours).items():
        column = np.stack([np.asarray(row[name]) for row in theirs])
        np.testing.assert_array_equal(column, values)
      for step, row in enumerate(theirs):
        assert (row['episode_id'], row['step']) == (episode_id, step)
        assert row['track_seed'] == origin.track_seed
        assert row['driver'] == origin.driver.title
    assert next(rows, None) is None


def test_a_row_group_is_an_episode(hub_dataset):
  files = sorted((hub_dataset / 'data').glob('train-*'))
  assert [x.name for x in files][1:] == [
    'train-00001-of-00003.parquet',
    'train-00002-of-00003.parquet',
  ]
  for episode_id, path in enumerate(files):
    table = parquet.ParquetFile(path).read_row_group(0)
    assert set(table['episode_id'].to_pylist()) == {episode_id}
    assert len(table) == 71


def check_card(card, folder, *absent):
  """Checks what both kinds of card promise."""
  assert card.data.license == 'apache-2.0'
  links = [x.partition(')')[0] for x in card.text.split('](')[1:]]
  for link in links:
    assert link.startswith('https://') or (folder / link).exists(), link
  for path in absent:
    assert str(path) not in card.content
  assert '{{' not in card.content and '{%' not in card.content


def test_the_card_describes_the_dataset(hub_dataset, data_dir):
  card = huggingface_hub.DatasetCard.load(hub_dataset / 'README.md')
  check_card(card, hub_dataset, data_dir, hub_dataset)
  assert card.data.size_categories == ['n<1K']
  source = prepared_dataset.find(TINY, data_dir)
  assert source.citation in card.text
  for digest in source.content_digests.values():
    assert digest in card.text
  assert '| random_policy | 3 | 1 |' in card.text
  builder = datasets.load_dataset_builder(str(hub_dataset))
  counts = {k: v.num_examples for k, v in builder.info.splits.items()}
  assert counts == {'train': 213, 'validation': 71}
  assert builder.info.features['observation'] == datasets.Image()


@pytest.mark.parametrize(
  ('num_rows', 'name'),
  [
    (999, 'n<1K'),
    (1000, '1K<n<10K'),
    (99_999, '10K<n<100K'),
    (10**6, '1M<n<10M'),
    (10**9, '1B<n<10B'),
  ],
)
def test_sizes_have_the_names_of_the_hub(num_rows, name):
  assert hub_datasets.size_category(num_rows) == name


@pytest.fixture(scope='module')
def score(agent_folder, tmp_path_factory):
  """Returns a function that scores an agent, or a policy, on two tracks."""

  def make(folder=agent_folder, policy=None, tracks='development'):
    driver = drivers.of_policy(policy) if policy else drivers.of_agent(folder)
    agent_folder = None if policy else folder
    folder = tmp_path_factory.mktemp('score')
    track_scores.evaluate(
      driver,
      agent_folder,
      tracks,
      2,
      folder,
      lambda jobs: [job() for job in jobs],
      max_steps=4,
    )
    return folder / track_scores.FILE

  return make


@pytest.fixture(scope='module')
def hub_model(agent_folder, score, tmp_path_factory):
  folder = tmp_path_factory.mktemp('hub')
  film = folder / 'drive.mp4'
  frames = np.zeros((2, 16, 16, 3), np.uint8)
  imageio.imwrite(film, frames, plugin='pyav', codec='libx264')
  return hub_models.export(agent_folder, folder, score(), film=film)


def test_an_exported_agent_is_loaded_and_drives_alike(hub_model, agent_folder):
  assert agent.digests(hub_model) == agent.digests(agent_folder)
  frames = np.random.default_rng(0).integers(
    0, 256, (2, 64, 64, 3), dtype=np.uint8
  )
  ours, theirs = map(agent.load, (agent_folder, hub_model))
  carry = ours.initial_carry(range(2))
  np.testing.assert_array_equal(
    ours(frames, carry)[0], theirs(frames, carry)[0]
  )


def test_the_card_of_an_agent_has_its_score(hub_model, agent_folder, data_dir):
  card = huggingface_hub.ModelCard.load(hub_model / 'README.md')
  check_card(card, hub_model, agent_folder, hub_model, data_dir)
  assert card.data.pipeline_tag == 'reinforcement-learning'
  found = track_scores.of_agent(hub_model / track_scores.FILE, hub_model)
  summary = found.summary
  [result] = card.data.eval_results
  assert (result.dataset_type, result.metric_type) == (
    'CarRacing-v3',
    'mean_reward',
  )
  mean, _, deviation = result.metric_value.partition(' +/- ')
  assert float(mean) == pytest.approx(summary.mean, abs=0.005)
  assert float(deviation) == pytest.approx(
    summary.standard_deviation, abs=0.005
  )
  for sha256 in agent.digests(agent_folder).values():
    assert sha256 in card.text
  assert '](replay.mp4)' in card.text
  assert len(imageio.imread(hub_model / 'replay.mp4', plugin='pyav')) == 2


def test_without_a_score_the_card_claims_none(agent_folder, tmp_path):
  folder = hub_models.export(agent_folder, tmp_path, None)
  card = huggingface_hub.ModelCard.load(folder / 'README.md')
  check_card(card, folder, agent_folder)
  assert card.data.eval_results is None
  assert not (folder / track_scores.FILE).exists()


def test_the_score_of_another_driver_is_refused(agent_folder, score, tmp_path):
  for path, message in (
    (score(policy='uniform'), 'is not the score of the agent in'),
    (score(tracks='selection'), 'is over the selection tracks'),
  ):
    with pytest.raises(track_scores.EvaluationError, match=message):
      hub_models.export(agent_folder, tmp_path, path)
  assert not [*tmp_path.iterdir()]


def test_exports_of_the_same_inputs_are_the_same_bytes(
  hub_dataset, hub_model, agent_folder, data_dir, tmp_path
):
  again = hub_datasets.export(TINY, tmp_path, str(data_dir), 80)
  assert content(again) == content(hub_dataset)
  files = hub_model / track_scores.FILE, hub_model / 'replay.mp4'
  for source, (file, film) in (agent_folder, files), (hub_model, (None, None)):
    again = hub_models.export(source, tmp_path / source.name, file, film=film)
    assert content(again) == content(hub_model)


def test_what_an_interrupted_export_left_is_removed(data_dir, tmp_path):
  left = tmp_path / f'.carracing_rollouts-tiny.{"0" * 32}.tmp' / 'data'
  left.mkdir(parents=True)
  (left / 'train-00007-of-00009.parquet').write_text('half')
  folder = hub_datasets.export(TINY, tmp_path, str(data_dir))
  assert len([*folder.glob('data/*')]) == 2
  assert sorted(x.name for x in tmp_path.iterdir()) == ['.lock', folder.name]
  with pytest.raises(errors.UserError, match='already exists; choose another'):
    hub_datasets.export(TINY, tmp_path, str(data_dir))


def test_the_command_names_its_upload(command, agent_folder, tmp_path):
  done = command(
    'tools.export',
    '--format=model',
    f'--agent={agent_folder}',
    f'--output_dir={tmp_path}',
  )
  assert done.status == 0, done.stderr
  folder = tmp_path / 'carracing-agent'
  assert f'hf upload carracing-agent {folder}\n' in done.stdout
  assert agent.load(folder)


def large(folder, part, output_dir):
  """Saves an agent again, with huge numbers in one part."""
  digests = {}
  for name in agent.PARTS:
    loaded = weights.load(folder / name, name)
    params, training = loaded.variables['params'], {**loaded.training}
    if name == part:
      params = jax.tree.map(lambda x: x + 1e5, params)
    training |= {k: v for k, v in digests.items() if k in training}
    digests[f'{name}_sha256'] = weights.save(
      output_dir / name, name, loaded.config, params, training
    )
  return output_dir


@pytest.fixture(scope='module')
def rounded(agent_folder, command, tmp_path_factory):
  folder = tmp_path_factory.mktemp('rounded')
  done = command(
    'tools.export',
    '--format=model',
    '--float16',
    f'--agent={agent_folder}',
    f'--output_dir={folder}',
  )
  assert done.status == 0, done.stderr
  digests = agent.digests(folder / 'carracing-agent')
  assert all(sha256 in done.stdout for sha256 in digests.values())
  return folder / 'carracing-agent'


def test_a_rounded_agent_drives_as_before(rounded, agent_folder):
  frames = np.random.default_rng(0).integers(
    0, 256, (4, 64, 64, 3), dtype=np.uint8
  )
  actions = []
  for folder in agent_folder, rounded:
    driver = agent.load(folder)
    action, _ = driver(frames, driver.initial_carry(range(4)))
    actions.append(action)
  assert np.ptp(actions[0][:, :2], axis=0).all()  # They depend on the frame.
  np.testing.assert_allclose(*actions, atol=0.02)
  # C stays as it is, V and M are rounded.
  before, after = map(agent.digests, (agent_folder, rounded))
  assert [name for name in agent.PARTS if before[name] == after[name]] == [
    'controller'
  ]
  v, half = (
    weights.load(x / 'vae', 'vae').variables for x in (agent_folder, rounded)
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(np.float16(x), y), v, half
  )


def test_rounded_weights_stand_for_their_originals(
  rounded, agent_folder, world
):
  tree = sources.Finder(str(world.data_dir), [rounded]).of(rounded)
  m, v = tree.sources
  digests, originals = map(agent.digests, (rounded, agent_folder))
  for node, part in (m, 'mdn_rnn'), (v, 'vae'):
    assert (node.digest, node.command) == (digests[part], None)
    assert 'rounded to float16' in node.facts
    [original] = node.sources
    assert (original.digest, original.path) == (originals[part], None)
    assert original.command
  # The V of its latents is the original one, which is not here.
  [original_m] = m.sources
  [latents] = [x for x in original_m.sources if x.kind == 'carracing_latents']
  assert latents.sources[0].path == str(rounded / 'vae')
  assert latents.command is None  # The rounded V encodes differently.


def test_rounded_parts_name_one_another(rounded, tmp_path):
  digests = agent.digests(rounded)
  for part, others in ('mdn_rnn', ['vae']), ('controller', ['vae', 'mdn_rnn']):
    training = weights.describe(rounded / part).training
    for other in others:
      assert training[f'{other}_sha256'] == digests[other]
  # Rounded once more, they are the same, down to the weights they came from.
  again = hub_models.export(rounded, tmp_path, rounded=True)
  assert content(again) == content(rounded)
  for part in 'vae', 'mdn_rnn':
    assert (
      weights.describe(again / part).training['rounded_from'] != digests[part]
    )


def test_the_pretrained_agent_is_one_that_was_rounded(tmp_path):
  float16.save(agent.PRETRAINED, tmp_path)
  found = content(tmp_path)
  assert len(found) == 7
  for path, content_ in found.items():
    assert content_ == (agent.PRETRAINED / path).read_bytes(), path


def test_a_rounded_agent_has_a_score_of_its_own(
  rounded, agent_folder, score, tmp_path
):
  of_original = score()
  for path in of_original, score(rounded, tracks='selection'):
    with pytest.raises(track_scores.EvaluationError, match='score that folder'):
      hub_models.export(agent_folder, tmp_path, path, rounded=True)
  assert not [x for x in tmp_path.iterdir() if x.name != '.lock']
  of_rounded = score(rounded)
  folder = hub_models.export(agent_folder, tmp_path, of_rounded, rounded=True)
  assert agent.digests(folder) == agent.digests(rounded)
  assert (folder / track_scores.FILE).exists()


@pytest.mark.parametrize('part', ['vae', 'mdn_rnn'])
def test_numbers_beyond_float16_are_refused(part, agent_folder, tmp_path):
  source = large(agent_folder, part, tmp_path / 'agent')
  with pytest.raises(weights.WeightsError, match=f'{part} has numbers beyond'):
    hub_models.export(source, tmp_path / 'out', rounded=True)
  assert not (tmp_path / 'out' / 'carracing-agent').exists()


def replace_start_states(folder, states):
  """Saves M again, with other start states."""
  m = weights.load(folder, 'mdn_rnn')
  weights.save(
    folder,
    'mdn_rnn',
    m.config,
    m.variables['params'],
    m.training,
    start_states.to_bytes(states),
  )


def test_foreign_start_states_leave_nothing_behind(agent_folder, tmp_path):
  source = shutil.copytree(agent_folder, tmp_path / 'agent')
  states = start_states.load(source / 'mdn_rnn')
  replace_start_states(
    source / 'mdn_rnn', states._replace(mean=states.mean[:, :-1])
  )
  with pytest.raises(
    weights.WeightsError, match='does not hold start states of this M; copy it'
  ):
    hub_models.export(source, tmp_path / 'out', rounded=True)
  assert not (tmp_path / 'out' / 'carracing-agent').exists()


def test_of_many_start_states_512_are_kept(agent_folder, tmp_path):
  source = shutil.copytree(agent_folder, tmp_path / 'agent')
  states = start_states.load(source / 'mdn_rnn')
  many = start_states.StartStates(*(np.repeat(x, 600, axis=0) for x in states))
  replace_start_states(source / 'mdn_rnn', many)
  folder = hub_models.export(source, tmp_path / 'out', rounded=True)
  assert len(start_states.load(folder / 'mdn_rnn').mean) == 512
