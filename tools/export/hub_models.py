"""An agent → a model folder for the Hub, from which `agent.load` loads it.

`README.md` is the card, with the score as the Hub's `model-index`.
"""

from pathlib import Path
import shlex
import shutil

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_rollouts import scores
import huggingface_hub
import jax
from models import agent
from models import weights
import pydantic
from tools.driving import track_scores
from tools.export import float16
from tools.showing import markdown
from trainers import run_documents

_TITLE = 'carracing-agent'
_FILM = 'replay.mp4'  # The Hub shows a file of this name beside the card.
_TEMPLATE = Path(__file__).with_name('model_card.md.jinja')
_SOURCES = pydantic.TypeAdapter(dict[json_documents.Name, run_documents.Source])


def export(
  folder: Path,
  output_dir: Path,
  score_file: Path | None = None,
  rounded: bool = False,
  film: Path | None = None,
) -> Path:
  """Writes a folder that can be uploaded as it is.

  Args:
    folder: folder of the agent.
    output_dir: folder that will hold the new one.
    score_file: `evaluation.json` of the very agent that is written; None: the
      one in its folder, if there is one; else the card has no score.
    rounded: whether V and M are rounded to float16, see `float16.save`. It
      makes another agent, so the score in its folder does not count.
    film: film of a drive, which the Hub shows; None: the one in its folder, if
      there is one and the agent is not rounded.

  Returns:
    The new folder.

  Raises:
    weights.WeightsError: the agent is missing or damaged, or cannot be rounded.
    track_scores.EvaluationError: the score is missing, of another agent or not
      over final or development tracks.
    errors.DocumentError: the score is damaged.
    errors.UserError: the new folder exists already, or cannot be written.
  """
  agent.load(folder)  # Fails on parts that do not belong together.
  if (
    score_file is None and not rounded and (folder / track_scores.FILE).exists()
  ):
    score_file = folder / track_scores.FILE
  if film is None and not rounded and (folder / _FILM).exists():
    film = folder / _FILM
  shown = None if film is None else _film(film)
  score = None
  if score_file is not None and not rounded:
    score = _score(score_file, folder)
  path = output_dir / _TITLE
  with files.new_folder(path) as unfinished:
    if not rounded:
      _copy(folder, unfinished)
    else:
      float16.save(folder, unfinished)
      if score_file is not None:
        score = _score_of_rounded(score_file, unfinished, path)
    if score is not None:
      track_scores.save(unfinished, score)
    if shown is not None:
      (unfinished / _FILM).write_bytes(shown)
    _card(unfinished, score).save(unfinished / 'README.md')
  for part, sha256 in agent.digests(path).items():
    size = (path / part / weights.FILE).stat().st_size
    print(f'{part}: {size / 1e6:.2f} MB, SHA-256 {sha256}')
  print(f'Upload it with: {shlex.join(["hf", "upload", _TITLE, str(path)])}')
  return path


def _film(path: Path) -> bytes:
  try:
    content = files.read_bytes(path)
  except FileNotFoundError:
    raise errors.UserError(
      f'there is no {path}; make it with: python -m tools.drive'
      f' --agent=AGENT --output_dir={path.parent}'
    ) from None
  if content[4:8] != b'ftyp':
    raise errors.UserError(f'{path} is no MP4')
  return content


def _copy(folder: Path, output_dir: Path) -> None:
  for part in agent.PARTS:
    (output_dir / part).mkdir()
    for file in weights.FILES:
      if (folder / part / file).exists():
        shutil.copyfile(folder / part / file, output_dir / part / file)


def _score(path: Path, folder: Path) -> track_scores.Evaluation:
  """Returns the score in a file, if it is one of this agent."""
  try:
    score = track_scores.of_agent(path, folder)
  except FileNotFoundError:
    raise track_scores.EvaluationError(
      f'there is no {path}; make it with: python -m tools.evaluate'
      f' --agent={folder} --output_dir={path.parent}'
    ) from None
  if score.subject.tracks == 'selection':
    raise track_scores.EvaluationError(
      f'{path} is over the selection tracks, which is no score; pass that of:'
      ' python -m tools.evaluate --tracks=final'
    )
  return score


def _score_of_rounded(
  path: Path, folder: Path, output_dir: Path
) -> track_scores.Evaluation:
  """Returns the score in a file, if it is one of an agent just rounded."""
  try:
    return _score(path, folder)
  except track_scores.EvaluationError:
    raise track_scores.EvaluationError(
      f'{path} is no score of the rounded agent; export it without'
      ' --evaluation, score that folder with: python -m tools.evaluate'
      f' --agent={output_dir}, and export it with that score'
    ) from None


def _card(
  folder: Path, score: track_scores.Evaluation | None
) -> huggingface_hub.ModelCard:
  sources = _datasets(folder)
  data = huggingface_hub.ModelCardData(
    license='apache-2.0',
    library_name='flax',
    pipeline_tag='reinforcement-learning',
    tags=[
      'CarRacing-v3',
      'deep-reinforcement-learning',
      'gymnasium',
      'jax',
      'reinforcement-learning',
      'world-models',
    ],
    model_name=None if score is None else _TITLE,
    eval_results=None if score is None else [_result(score.summary)],
  )
  return huggingface_hub.ModelCard.from_template(
    data,
    str(_TEMPLATE),
    title=_TITLE,
    score=score,
    score_text=None if score is None else scores.describe(score.summary),
    histogram=track_scores.HISTOGRAM,
    film=_FILM if (folder / _FILM).exists() else None,
    parts=markdown.table(
      (
        'part',
        'folder',
        'parameters',
        'size',
        'SHA-256 of `model.safetensors`',
      ),
      [_part(folder, part) for part in agent.PARTS],
    ),
    sources=markdown.table(
      ('part', 'dataset', 'SHA-256 of its content'),
      [
        (
          agent.NAMES[part],
          f'`{source.name}`',
          ', '.join(f'{k} `{v}`' for k, v in source.sha256.items()),
        )
        for part, source in sources
      ],
    ),
  )


def _result(summary: scores.Summary) -> huggingface_hub.EvalResult:
  """Returns a score in the form in which the Hub's leaderboards read it."""
  value = f'{summary.mean:.2f}'
  if summary.standard_deviation is not None:
    value += f' +/- {summary.standard_deviation:.2f}'
  return huggingface_hub.EvalResult(
    task_type='reinforcement-learning',
    task_name='reinforcement-learning',
    dataset_type='CarRacing-v3',
    dataset_name='CarRacing-v3',
    metric_type='mean_reward',
    metric_name='mean_reward',
    metric_value=value,
    verified=False,
  )


def _part(folder: Path, part: str) -> tuple[str, ...]:
  """Returns a row of the table of the parts."""
  loaded = weights.load(folder / part, part)
  count = sum(x.size for x in jax.tree.leaves(loaded.variables))
  size = (folder / part / weights.FILE).stat().st_size
  return (
    agent.NAMES[part],
    f'`{part}/`',
    f'{count:,}',
    f'{size / 1000:,.0f} kB',
    f'`{loaded.sha256}`',
  )


def _datasets(folder: Path) -> list[tuple[str, run_documents.Source]]:
  """Returns the datasets on which parts were trained, each after its part."""
  found = []
  for part in agent.PARTS:
    training = weights.describe(folder / part).training
    try:
      sources = _SOURCES.validate_python(training.get('sources', {}))
    except pydantic.ValidationError as error:
      raise weights.WeightsError(
        f'{folder / part} is damaged: sources: {json_documents.explain(error)}'
      ) from None
    # Other sources are weights.
    found += [(part, x) for x in sources.values() if 'weights' not in x.sha256]
  return found
