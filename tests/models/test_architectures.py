"""Another V lives beside the paper's: trained, encoding, dreaming, refused."""

import json
import shutil

from carracing_data import errors
from carracing_data import json_documents
from carracing_latents import (
  carracing_latents_dataset_builder as latents_builder,
)
from carracing_latents import loader
from conftest import tiny_mdn_rnn_config
from conftest import tiny_vae_config
from conftest import VERSION
from flax import linen as nn
from models import vae
from models import weights
from models import world_model
import pytest
from tools.export_page import __main__ as export_page
from trainers import train_mdn_rnn
from trainers import train_vae


class Linear(nn.Module):
  """A VAE without hidden layers."""

  latent_size: int = 32
  dtype: str = 'float32'

  def setup(self):
    self.encoder = nn.Dense(2 * self.latent_size)
    self.decoder = nn.Dense(64 * 64 * 3)

  def encode(self, observation):
    rows = vae.to_float(observation).reshape(len(observation), -1)
    x = self.encoder(rows)
    return vae.Posterior(x[..., : self.latent_size], x[..., self.latent_size :])

  def decode(self, z):
    return nn.sigmoid(self.decoder(z)).reshape(-1, 64, 64, 3)

  def __call__(self, observation, key):
    posterior = self.encode(observation)
    return self.decode(posterior.sample(key)), posterior


def test_another_v_goes_all_the_way(data_dir, tmp_path, monkeypatch):
  monkeypatch.setitem(vae.ARCHITECTURES, 'linear', Linear)
  config = tiny_vae_config()
  config.architecture = 'linear'
  train_vae.train(config, tmp_path / 'v', str(data_dir))
  v, m = tmp_path / 'v' / 'weights', tmp_path / 'm' / 'weights'
  assert weights.describe(v).architecture == 'linear'
  assert isinstance(weights.load(v, 'vae').model, Linear)
  latents_builder.Builder(
    data_dir=tmp_path,
    config=latents_builder.LatentsConfig(
      name='tiny',
      rollouts=str(data_dir / 'carracing_rollouts' / 'tiny' / VERSION),
      vae=str(v),
    ),
  ).download_and_prepare()
  train_mdn_rnn.train(tiny_mdn_rnn_config(), m.parent, str(tmp_path))
  model = world_model.load(v, m)
  [episode] = loader.episodes(
    'carracing_latents/tiny', split='validation', data_dir=tmp_path
  )
  frames = world_model.decode(model, episode['mean'][:2])
  assert frames.shape == (2, 64, 64, 3)

  monkeypatch.delitem(vae.ARCHITECTURES, 'linear')
  for fails in (
    lambda: weights.load(v, 'vae'),
    lambda: train_vae.train(config, tmp_path / 'w', str(data_dir)),
  ):
    with pytest.raises(
      weights.ArchitectureError,
      match="models/vae.py has no architecture 'linear', only paper",
    ):
      fails()
  # Another V of the same name.
  monkeypatch.setitem(vae.ARCHITECTURES, 'linear', vae.VAE)
  with pytest.raises(
    weights.ArchitectureError, match="another vae than the 'linear' of models"
  ):
    weights.load(v, 'vae')


def test_the_page_has_the_layers_of_the_paper_alone(
  agent_folder, tmp_path, monkeypatch
):
  folder = shutil.copytree(agent_folder, tmp_path / 'agent')
  path = folder / 'vae' / 'config.json'
  description = json.loads(path.read_text()) | {'architecture': 'deep'}
  sealed = json_documents.sealed(description, 'description_sha256')
  path.write_text(json.dumps(sealed))
  monkeypatch.setitem(vae.ARCHITECTURES, 'deep', vae.VAE)
  with pytest.raises(errors.UserError, match="vae has the architecture 'deep'"):
    export_page.export(folder, tmp_path / 'page.html')
