from typing import NamedTuple

from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
from carracing_rollouts import schema
import jax.numpy as jnp
import numpy as np
import pytest

GENERATE = {
  'seed': 0,
  'policy': 'random_policy',
  'simulator': 'gymnasium',
  'max_steps': 40,
}


class FakeEnvironments:
  """Episodes of given lengths, whose frames show the index of the episode.

  Attributes:
    stepped: indices of the episodes in each step.
    closed: number of times that the environments were closed.
  """

  def __init__(self, lengths):
    self._left = np.array(lengths)
    self.stepped = []
    self.closed = 0

  def reset(self):
    return self._frames(np.arange(len(self._left)))

  def step(self, ids, action):
    assert len(ids) == len(action)
    self.stepped.append(ids.tolist())
    self._left[ids] -= 1
    assert (self._left[ids] >= 0).all()
    ended = self._left[ids] == 0
    reward = 0.1 * (ids + 1).astype(np.float32)
    truncated = np.zeros(len(ids), bool)
    return environment.Transition(self._frames(ids), reward, ended, truncated)

  def close(self):
    self.closed += 1

  def _frames(self, ids):
    return np.stack([np.full((96, 96, 3), i, np.uint8) for i in ids])


class Memory(NamedTuple):
  number: object
  rng: np.ndarray


class RememberingPolicy:
  """Steers by the index of the episode, which its carry stores."""

  def __init__(self, array):
    self._array = array

  def initial_carry(self, seeds):
    rngs = np.array([np.random.default_rng(seed) for seed in seeds], object)
    numbers = self._array(np.arange(len(seeds)))
    return (Memory(numbers, rngs), self._array(np.zeros((len(seeds), 2))))

  def __call__(self, observation, carry, imposed):
    memory, count = carry
    assert len(observation) == len(memory.rng) == len(count)
    numbers = np.asarray(memory.number)
    np.testing.assert_array_equal(observation[:, 0, 0, 0], numbers)
    steering = numbers.astype(np.float32)
    action = np.stack([steering, 0 * steering, 0 * steering], axis=-1)
    return action, (memory, count + 1)


def seeds(count):
  return [np.random.SeedSequence(0)] * count


@pytest.mark.parametrize('array', [np.array, jnp.array], ids=['numpy', 'jax'])
def test_only_running_episodes_are_stepped_and_given_to_the_policy(array):
  environments = FakeEnvironments([2, 1, 3])
  played = list(rollout.play(environments, RememberingPolicy(array), seeds(3)))
  ids = [[0, 1, 2], [0, 2], [2]]
  assert environments.stepped == ids
  assert environments.closed == 1
  for step, expected in zip(played, ids):
    np.testing.assert_array_equal(step.ids, expected)
    for frames in step.frame, step.next_frame:
      np.testing.assert_array_equal(frames[:, 0, 0, 0], expected)
    for frames in step.observation, step.next_observation:
      assert frames.shape == (len(expected), 64, 64, 3)
    np.testing.assert_array_equal(step.action[:, 0], expected)
  np.testing.assert_array_equal(played[1].terminated, [True, False])


def test_environments_are_closed_when_nobody_asks_for_more():
  environments = FakeEnvironments([2])
  played = rollout.play(environments, policies.UniformPolicy(), seeds(1))
  next(played)
  assert environments.closed == 0
  played.close()
  assert environments.closed == 1


@pytest.mark.parametrize('culprit', ['reset', 'step', '__call__'])
def test_environments_are_closed_after_an_error(culprit):
  def fail(*unused_args):
    raise RuntimeError('broken')

  classes = {
    owner: type('Broken', (owner,), {culprit: fail})
    for owner in (FakeEnvironments, RememberingPolicy)
  }
  environments = classes[FakeEnvironments]([2])
  policy = classes[RememberingPolicy](np.array)
  with pytest.raises(RuntimeError, match='broken'):
    rollout.episodes(environments, policy, seeds(1))
  assert environments.closed == 1


def test_a_policy_that_does_not_act_for_each_episode_is_refused():
  class Policy(policies.UniformPolicy):
    def __call__(self, observation, carry, imposed=None):
      return np.zeros((1, 3), np.float32), carry

  played = rollout.play(FakeEnvironments([2, 2]), Policy(), seeds(2))
  with pytest.raises(ValueError, match=r'\[1, 3\], not one .* of 2 episodes'):
    next(played)


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
  [episode] = rollout.episodes(
    environment.Environments([0], max_steps=1000),
    policies.StraightAheadPolicy(),
    seeds(1),
  )
  assert len(episode) < 1001
  np.testing.assert_array_equal(episode.is_terminal, episode.is_last)
  assert episode.is_terminal[-1]
  np.testing.assert_array_equal(episode.discount[-3:], [1, 0, 0])
  assert episode.reward[-2] == -100  # Penalty for leaving the playing field.


def test_episodes_of_a_batch_end_when_they_end():
  def drive(tracks):
    return rollout.episodes(
      environment.Environments(tracks, 400),
      policies.StraightAheadPolicy(),
      seeds(len(tracks)),
    )

  together = drive([0, 1])
  assert len(together[0]) != len(together[1])
  for track, episode in enumerate(together):
    [alone] = drive([track])
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
