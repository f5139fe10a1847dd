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
  ('4.0.0', 'gymnasium', 'brownian'): (
    '0654b2b44e6abcad1735ab5f4493f9c4b363c4b7696a47ff7f20913dd99aa0e1'
  ),
  ('4.0.0', 'gymnasium', 'random_policy'): (
    '6b76cd0f462863f4af429781b869aeda234e59184803c0c7a54a8347bc9fe8ca'
  ),
  ('4.0.0', 'gymnasium', 'uniform'): (
    '29f30be549485ff68327aaaaeb222987f449b1aaa1037af9637cab246660e3ca'
  ),
  ('4.0.0', 'sketched', 'random_policy'): (
    '74e51d95960895c8260eb01891a3b0573233ec61d0c8f0e96a1985982731bcc2'
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
    'train',
    1,
    seed=3,
    policy=policy,
    interventions=0.02 if policy == 'brownian' else 0.0,
    simulator=simulator,
    max_steps=50,
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
