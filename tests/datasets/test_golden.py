"""The same version of a dataset always has the same bytes.

If one of these tests fails, the code produces different data: raise `VERSION`
(see "Versions" in the dataset card), describe the change in `RELEASE_NOTES`,
and replace the digests with those in the failure.
"""

import importlib.metadata
import os

from carracing_data import digests
from carracing_rollouts import carracing_rollouts_dataset_builder as builder_lib
from carracing_rollouts import rollout
from carracing_rollouts import schema
import pytest
import tensorflow_datasets as tfds

# Digests by dataset version, simulator and policy.
GOLDEN = {
  ('1.1.0', 'gymnasium', 'brownian'): (
    '4ded447484aea71ddfa4bfcbb3f1d2af30dfa0e4a67a8ce74e188ed389a3a667'
  ),
  ('1.1.0', 'gymnasium', 'random_policy'): (
    'cb1da84aba214b67395e4393ac2e75580e0b074d6348e61ea94ec1c46088e6f9'
  ),
  ('1.1.0', 'gymnasium', 'uniform'): (
    'eb985c3024f7ca4dec1ed44ef35f14075021bedb26d2e4fde816e05126bd8b77'
  ),
  ('1.1.0', 'sketched', 'random_policy'): (
    '6228cee76b7d139df880cf88562f4a38718a1e3b79f7406e3647964dc3664ed5'
  ),
}
GYMNASIUM = '1.4.0'


@pytest.mark.parametrize('key', GOLDEN, ids=' '.join)
def test_version_means_the_same_bytes(key):
  version, simulator, policy = key
  if importlib.metadata.version('gymnasium') != GYMNASIUM:
    # Other versions work, but the digests do not apply to them.
    stop = pytest.fail if os.environ.get('CI') else pytest.skip
    stop(f'the digests are for gymnasium {GYMNASIUM}')
  if str(builder_lib.Builder.VERSION) != version:
    pytest.fail(f'record the digests of version {builder_lib.Builder.VERSION}')
  features = _features()
  episode = rollout.generate(
    'train', 1, seed=3, policy=policy, simulator=simulator, max_steps=50
  )
  records = [
    features.deserialize_example_np(features.serialize_example(record))
    for record in schema.cut(1, episode)
  ]
  content = digests.SplitDigest()
  content.update(map(digests.of_record, records))
  assert content.hexdigest() == GOLDEN[key]


def _features() -> tfds.features.FeaturesDict:
  return builder_lib.Builder(data_dir='/nonexistent').info.features
