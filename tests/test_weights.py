import json

import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import weights
import numpy as np
import pytest


@pytest.fixture
def saved(tmp_path):
  config = {'latent_size': 4, 'hidden_size': 8}
  model = mdn_rnn.MDNRNN(**config)
  variables = model.init(
    jax.random.key(0), jnp.zeros((1, 1, 7)), model.initial_carry(1)
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


def test_same_weights_have_the_same_digest(saved, tmp_path):
  folder, variables = saved
  weights.save(tmp_path / 'b', 'mdn_rnn', {}, variables['params'], {})
  again = weights.load(tmp_path / 'b', 'mdn_rnn').sha256
  assert again == weights.load(folder, 'mdn_rnn').sha256


def test_missing_weights_name_the_command(tmp_path):
  with pytest.raises(weights.WeightsError, match=r'trainers\.train_vae'):
    weights.load(tmp_path / 'weights', 'vae')


def test_weights_of_another_model_are_refused(saved):
  with pytest.raises(weights.WeightsError, match='weights of a mdn_rnn, not'):
    weights.load(saved[0], 'vae')


def test_damaged_weights_are_refused(saved):
  path = saved[0] / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(weights.WeightsError, match='is damaged'):
    weights.load(saved[0], 'mdn_rnn')


def test_damaged_config_is_refused(saved):
  path = saved[0] / 'config.json'
  path.write_text(json.dumps({'model': 'mdn_rnn'})[:-3])
  with pytest.raises(weights.WeightsError, match='is damaged'):
    weights.load(saved[0], 'mdn_rnn')
