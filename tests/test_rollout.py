from carracing_rollouts import environment
from carracing_rollouts import rollout
from carracing_rollouts import schema
import numpy as np

GENERATE = {
  'seed': 0,
  'policy': 'random_policy',
  'simulator': 'gymnasium',
  'max_steps': 40,
}


class StraightAhead:
  """Leaves the road, and after some 285 steps the playing field."""

  def initial_carry(self, seeds):
    return len(seeds)

  def __call__(self, observation, carry):
    return np.tile(np.float32([0, 0.4, 0]), (carry, 1)), carry


def test_truncated_episode_has_rlds_steps():
  episode = rollout.generate('train', 0, **GENERATE)
  assert len(episode) == 41
  np.testing.assert_array_equal(episode.is_first, np.arange(41) == 0)
  np.testing.assert_array_equal(episode.is_last, np.arange(41) == 40)
  assert not episode.is_terminal.any()
  np.testing.assert_array_equal(episode.discount, np.arange(41) < 40)
  assert not episode.action[-1].any() and episode.reward[-1] == 0
  assert episode.observation[-1].any()


def test_terminated_episode_has_rlds_steps():
  environments = environment.GymnasiumEnvironments([0], max_steps=1000)
  [episode] = rollout.rollout(
    environments, StraightAhead(), [np.random.SeedSequence(0)]
  )
  assert len(episode) < 1001
  np.testing.assert_array_equal(episode.is_terminal, episode.is_last)
  assert episode.is_terminal[-1]
  np.testing.assert_array_equal(episode.discount[-3:], [1, 0, 0])
  assert episode.reward[-2] == -100  # What leaving the playing field costs.


def test_episodes_of_a_batch_end_when_they_end():
  seeds = [np.random.SeedSequence(0)] * 2
  together = rollout.rollout(
    environment.GymnasiumEnvironments([0, 1], 400), StraightAhead(), seeds
  )
  assert len(together[0]) != len(together[1])
  for track, episode in enumerate(together):
    [alone] = rollout.rollout(
      environment.GymnasiumEnvironments([track], 400),
      StraightAhead(),
      seeds[:1],
    )
    np.testing.assert_array_equal(episode.observation, alone.observation)
    np.testing.assert_array_equal(episode.reward, alone.reward)


def test_generation_is_deterministic():
  first, again, other, validation = (
      rollout.generate(split, episode_id, **GENERATE)
      for split, episode_id in (
          ('train', 1), ('train', 1), ('train', 2), ('validation', 1),
      )
  )  # fmt: skip
  np.testing.assert_array_equal(first.observation, again.observation)
  np.testing.assert_array_equal(first.action, again.action)
  assert (first.action != other.action).any()
  assert (first.action != validation.action).any()
  assert (first.observation[0] != validation.observation[0]).any()


def test_segments_join_to_the_episode_they_were_cut_from():
  episode = rollout.generate('train', 0, **GENERATE)
  records = list(schema.cut(7, episode))

  assert [(r['first_step'], r['length']) for r in records] == [(0, 32), (32, 9)]
  assert len(records) == schema.count_segments(len(episode))
  assert {r['episode_id'] for r in records} == {7}
  assert not records[1]['observation'][9:].any()
  joined = schema.join(records)
  np.testing.assert_array_equal(joined.observation, episode.observation)
  np.testing.assert_array_equal(joined.action, episode.action)
  np.testing.assert_array_equal(joined.is_last, episode.is_last)
