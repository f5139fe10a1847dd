"""A comparison of dreams with the game → a table, a line and a picture."""

from matplotlib import colormaps
from matplotlib import figure
from tools.dream_fidelity import documents


def of_drivers(
  found: documents.Fidelity,
) -> tuple[list[str], list[list[str]]]:
  """Returns head and rows of a table, from the best driver to the worst."""
  head = ['driver']
  for world in 'game', 'dream':
    head += [f'{world}: reward per step', f'{world}: sum']
  rows = []
  for name in _from_best(found):
    row = [name.replace('_', ' ')]
    for world in found.game, found.dream:
      of_driver = world[name]
      row += [
        f'{of_driver.reward_per_step:.3f} ± {of_driver.standard_error:.3f}',
        f'{of_driver.total:.0f}',
      ]
    rows.append(row)
  return head, rows


def summary(found: documents.Fidelity) -> str:
  """Returns the correlations in a line, with what they can be at most."""

  def shown(x: documents.Estimate) -> str:
    return f'{x.value:.2f} ({x.low:.2f} to {x.high:.2f})'

  return (
    f'Over {len(found.game)} drivers and {found.tracks} tracks: rank'
    f' correlation {shown(found.spearman)}, of the game with itself'
    f' {found.ceiling_spearman:.2f}; linear correlation'
    f' {shown(found.pearson)}, of the game with itself'
    f' {found.ceiling_pearson:.2f}; error of the reward per step'
    f' {shown(found.error)}'
  )


def plot(found: documents.Fidelity) -> figure.Figure:
  """Draws the drivers, numbered from the best: rewards in game and dreams."""
  plot = figure.Figure(figsize=(8, 6), layout='constrained', dpi=150)
  axes = plot.subplots()
  colors = colormaps['tab20']
  for number, name in enumerate(_from_best(found), 1):
    game, dreamt = found.game[name], found.dream[name]
    point = game.reward_per_step, dreamt.reward_per_step
    axes.errorbar(
      *point,
      xerr=game.standard_error,
      yerr=dreamt.standard_error,
      fmt='.',
      color=colors(number % colors.N),
      label=f'{number} {name.replace("_", " ")}',
    )
    axes.annotate(
      str(number), point, xytext=(3, 3), textcoords='offset points', fontsize=8
    )
  plot.legend(loc='outside right upper', frameon=False)
  rewards = [
    x.reward_per_step
    for world in (found.game, found.dream)
    for x in world.values()
  ]
  ends = [min(rewards), max(rewards)]
  axes.plot(ends, ends, color='grey', linewidth=1, linestyle='dashed')
  axes.set_xlabel('reward per step in the game')
  axes.set_ylabel('reward per step in dreams')
  axes.set_title(
    f'rank correlation {found.spearman.value:.2f},'
    f' linear {found.pearson.value:.2f}'
  )
  return plot


def _from_best(found: documents.Fidelity) -> list[str]:
  """Returns the names of the drivers by their rewards in the game."""
  rewards = {name: x.reward_per_step for name, x in found.game.items()}
  return sorted(rewards, key=rewards.__getitem__, reverse=True)
