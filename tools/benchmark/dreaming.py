"""The dream: C acts, M imagines, and V decodes what is shown."""

from pathlib import Path

from carracing_data import runtime
import jax
from models import agent
from models import start_states
from models import world_model
from tools.benchmark import contest
from tools.benchmark import control
from trainers.configs import controller as controller_config

_STEPS = 100  # Of each dream.


def stages(data_dir: Path) -> list[contest.Stage]:
  """Returns the stages of dreams."""
  del data_dir
  simulated = contest.Contender(
    'the same C in `sketched`, to train it, all cores',
    control.drive,
    (controller_config.Config(),),
  )
  return [
    contest.Stage(
      'dream',
      'dreaming with C, batch 1,024',
      'steps',
      [
        contest.Contender('ours', dream, (1024, False)),
        contest.Contender('batch 64', dream, (64, False)),
        contest.Contender('batch 1', dream, (1, False)),
        simulated,
      ],
    ),
    contest.Stage(
      'dream_frames',
      'the same with frames, batch 64',
      'steps',
      [
        contest.Contender('ours', dream, (64, True)),
        contest.Contender('batch 1', dream, (1, True)),
        simulated,
      ],
    ),
  ]


def dream(batch_size: int, decoded: bool) -> contest.Work:
  """Prepares dreams of the pretrained agent; V decodes every step if asked."""
  runtime.prepare()
  driver = agent.load()
  starts = start_states.load(agent.PRETRAINED / 'mdn_rnn')
  start = start_states.draw(starts, batch_size, jax.random.key(0))

  @jax.jit
  def work_once(driver: agent.Agent, state: world_model.State, key: jax.Array):
    def step(state, key):
      action = agent.act(driver, state)
      state, reward, _ = world_model.imagine(driver.model, state, action, key)
      shown = reward
      if decoded:
        shown = world_model.decode_uint8(driver.model, state.z).max()
      return state, shown

    return jax.lax.scan(step, state, jax.random.split(key, _STEPS))

  key = jax.random.key(1)

  def work() -> float:
    nonlocal key
    key, this_key = jax.random.split(key)
    jax.block_until_ready(work_once(driver, start, this_key))
    return batch_size * _STEPS

  return work
