import jax
from models import agent
from models import weights
import numpy as np
import pytest
from tools import ancestry


@pytest.fixture
def published(agent_folder, command, tmp_path):
  folder = tmp_path / 'published'
  flags = f'--agent={agent_folder}', f'--output_dir={folder}'
  done = command('tools.publish', *flags)
  assert done.status == 0, done.stderr
  digests = agent.digests(folder)
  assert all(sha256 in done.stdout for sha256 in digests.values())
  assert command('tools.publish', *flags).status == 0
  assert agent.digests(folder) == digests
  return folder


def test_a_published_agent_drives_as_before(published, agent_folder):
  frames = np.random.default_rng(0).integers(
    0, 256, (4, 64, 64, 3), dtype=np.uint8
  )
  actions = []
  for folder in agent_folder, published:
    driver = agent.load(folder)
    action, _ = driver(frames, driver.initial_carry(range(4)))
    actions.append(action)
  assert np.ptp(actions[0][:, :2], axis=0).all()  # They depend on the frame.
  np.testing.assert_allclose(*actions, atol=0.02)
  # C stays as it is, V and M are rounded.
  before, after = map(agent.digests, (agent_folder, published))
  assert [name for name in agent.PARTS if before[name] == after[name]] == [
    'controller'
  ]
  v, rounded = (
    weights.load(x / 'vae', 'vae').variables for x in (agent_folder, published)
  )
  jax.tree.map(
    lambda x, half: np.testing.assert_array_equal(np.float16(x), half),
    v,
    rounded,
  )


def test_published_weights_stand_for_their_originals(
  published, agent_folder, world, tmp_path
):
  tree = ancestry.Family(str(world.data_dir), [published]).of(published)
  m, v = tree.sources
  digests = agent.digests(published)
  assert (m.digest, v.digest) == (digests['mdn_rnn'], digests['vae'])
  original = agent.digests(agent_folder)['vae']
  assert f'rounded to float16 from @{original[:12]}' in v.facts
  # The V of its latents is the original one, which is not here.
  [latents] = [x for x in m.sources if x.kind == 'carracing_latents']
  assert latents.sources[0].path == str(published / 'vae')
  assert latents.command is None  # The rounded V encodes differently.
