import functools
import json

from carracing_data import digests
from carracing_data import json_documents
import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import start_states
from models import weights
import numpy as np
import pytest

CONFIG = {
  'latent_size': 4,
  'hidden_size': 8,
  'num_mixtures': 5,
  'per_dimension': False,
  'predict_outcomes': False,
}


@pytest.fixture
def saved(tmp_path):
  config = CONFIG
  model = mdn_rnn.MDNRNN(**config)
  variables = model.init(
    jax.random.key(0),
    jnp.zeros((1, 1, 4)),
    jnp.zeros((1, 1, 3)),
    model.initial_carry(1),
  )
  folder = tmp_path / 'weights'
  weights.save(folder, 'mdn_rnn', config, variables['params'], {'step': 5})
  return folder, variables


def test_loaded_weights_equal_the_saved_ones(saved):
  folder, variables = saved
  loaded = weights.load(folder, 'mdn_rnn')
  assert loaded.model == mdn_rnn.MDNRNN(latent_size=4, hidden_size=8)
  assert loaded.training == {'step': 5}
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)


def test_rounded_weights_are_half_the_size(saved, tmp_path):
  folder, variables = saved
  rounded = jax.tree.map(lambda x: np.float16(x), variables['params'])
  weights.save(tmp_path / 'half', 'mdn_rnn', CONFIG, rounded, {})
  sizes = [
    (x / weights.FILE).stat().st_size for x in (folder, tmp_path / 'half')
  ]
  assert sizes[1] < 0.7 * sizes[0]
  loaded = weights.load(tmp_path / 'half', 'mdn_rnn')

  def check(found, half):
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half)

  jax.tree.map(check, loaded.variables['params'], rounded)


def test_same_weights_have_the_same_digest(saved, tmp_path):
  folder, variables = saved
  weights.save(tmp_path / 'b', 'mdn_rnn', CONFIG, variables['params'], {})
  again = weights.load(tmp_path / 'b', 'mdn_rnn').sha256
  assert again == weights.load(folder, 'mdn_rnn').sha256


def test_missing_weights_name_the_command(tmp_path):
  with pytest.raises(weights.WeightsError, match=r'trainers\.train_vae'):
    weights.load(tmp_path / 'weights', 'vae')


def test_weights_of_another_model_are_refused(saved):
  with pytest.raises(weights.WeightsError, match='weights of a mdn_rnn, not'):
    weights.load(saved[0], 'vae')


@pytest.mark.parametrize('position', [100, 3000, -1])
def test_flipped_bit_is_found(saved, position):
  path = saved[0] / 'model.safetensors'
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)
  with pytest.raises(
    weights.WeightsError, match='model.safetensors is damaged'
  ):
    weights.load(saved[0], 'mdn_rnn')


def resealed(description):
  return json_documents.sealed(description, 'description_sha256')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda d: d['training'].update(step=6), 'does not match its digest'),
    (lambda d: d['config'].update(latent_size=5), 'does not match its digest'),
    (lambda d: d.pop('training'), 'training: Field required'),
    (lambda d: d.update(model='gan'), 'model: Input should be'),
  ],
)
def test_edited_description_is_refused(saved, change, message):
  path = saved[0] / 'config.json'
  description = json.loads(path.read_text())
  change(description)
  path.write_text(json.dumps(description))
  with pytest.raises(weights.WeightsError, match=message):
    weights.load(saved[0], 'mdn_rnn')


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({**CONFIG, 'hidden_size': 9}, r'lstm/bias is float32\[32\], not .*36'),
    ({**CONFIG, 'num_mixtures': 0}, 'num_mixtures: Input should be gr'),
    ({**CONFIG, 'num_mixtures': True}, 'num_mixtures: Input should be a v'),
    ({'latent_size': 4}, 'hidden_size: Field required'),
  ],
)
def test_config_that_is_not_that_of_the_weights_is_refused(
  saved, config, message
):
  path = saved[0] / 'config.json'
  description = json.loads(path.read_text())
  path.write_text(json.dumps(resealed({**description, 'config': config})))
  with pytest.raises(weights.WeightsError, match=message):
    weights.load(saved[0], 'mdn_rnn')


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    (np.full(32, np.nan, np.float32), 'lstm/bias has NaN, infinite or huge'),
    (np.full(32, 3e38, np.float32), 'lstm/bias has NaN, infinite or huge'),
    (np.zeros(32, np.float16), r'lstm/bias is float16\[32\], not float32'),
    (np.zeros(31, np.float32), r'lstm/bias is float32\[31\]'),
  ],
)
def test_parameters_of_no_such_model_are_not_saved(
  saved, value, message, tmp_path
):
  params = {**saved[1]['params']}
  params['lstm'] = {**params['lstm'], 'bias': value}
  with pytest.raises(weights.WeightsError, match=message):
    weights.save(tmp_path / 'b', 'mdn_rnn', CONFIG, params, {})
  assert not (tmp_path / 'b').exists()


@pytest.mark.parametrize(
  ('dtype', 'message'),
  [('BF16', 'holds bfloat16, not'), ('F8_E4M3', 'holds F8_E4')],
)
@pytest.mark.parametrize('file', [weights.FILE, weights.START_STATES])
def test_dtypes_that_numpy_lacks_are_named(
  saved, file, dtype, message, tmp_path
):
  folder, variables = saved
  array = {'dtype': dtype, 'shape': [4], 'data_offsets': [0, 8]}
  if dtype != 'BF16':
    array['data_offsets'] = [0, 4]
  header = json.dumps({'x': array}).encode()
  size = array['data_offsets'][1]
  content = len(header).to_bytes(8, 'little') + header + bytes(size)
  params = variables['params']
  folder = tmp_path / 'other'
  weights.save(folder, 'mdn_rnn', CONFIG, params, {}, start_states=content)
  load = start_states.load
  if file == weights.FILE:
    (folder / file).write_bytes(content)
    description = json.loads((folder / 'config.json').read_text())
    description['weights_sha256'] = digests.of_bytes(content)
    text = json.dumps(resealed(description))
    (folder / 'config.json').write_text(text)
    load = functools.partial(weights.load, name='mdn_rnn')
  with pytest.raises(weights.WeightsError, match=f'{file} {message}'):
    load(folder)


def test_folder_of_the_run_is_told_from_that_of_the_weights(saved):
  with pytest.raises(weights.WeightsError, match='did you mean .*/weights?'):
    weights.load(saved[0].parent, 'mdn_rnn')


def test_saving_replaces_what_was_there(saved):
  folder, variables = saved
  weights.save(folder, 'mdn_rnn', CONFIG, variables['params'], {'step': 7})
  assert weights.load(folder, 'mdn_rnn').training == {'step': 7}
  assert [path.name for path in folder.parent.iterdir()] == ['weights']
