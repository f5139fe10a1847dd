"""Runs independent jobs with Apache Beam, on one machine or a cluster."""

from collections.abc import Sequence
import contextlib
import io
import re

from carracing_data import errors
from carracing_data import processes
import tensorflow_datasets as tfds


def run(
  jobs: Sequence[processes.Job], config: tfds.download.DownloadConfig
) -> None:
  """Runs jobs with Apache Beam.

  Args:
    jobs: picklable jobs; all workers must see the file system of this process.
    config: config with `beam_runner` or `beam_options`.

  Raises:
    errors.UserError: Beam, its runner or a job failed.
  """
  import apache_beam as beam  # Slow to import and rarely needed.

  try:
    # A single leaf, because the Dask runner computes only the last one.
    with beam.Pipeline(
      runner=config.beam_runner, options=config.beam_options
    ) as pipeline:
      _ = (
        pipeline | beam.Create(list(jobs)) | beam.Reshuffle() | beam.Map(_call)
      )
  except errors.UserError:
    raise
  except Exception as error:  # What a runner raises depends on the runner.
    # The process of a worker sends an error of ours as a stack in a text.
    if ours := re.search(
      rf'{re.escape(errors.__name__)}\.\w+: ([^\n\\]+?)( \[while|$|\\n)',
      str(error),
      re.MULTILINE,
    ):
      raise errors.UserError(ours[1]) from error
    reason = str(error).strip().splitlines() or ['no reason given']
    raise errors.UserError(
      f'Beam failed with {type(error).__name__}: {reason[0]}; check'
      ' --beam_pipeline_options, and run the same command again to continue'
    ) from error


def config(text: str) -> tfds.download.DownloadConfig:
  """Parses `--beam_pipeline_options` as `tfds build` does.

  Args:
    text: comma-separated options `NAME=VALUE` or `NAME`, with `runner` if it is
      not the default one.

  Returns:
    A config for `run`.

  Raises:
    errors.UserError: Beam rejects an option, its value or the runner.
  """
  # Slow to import and rarely needed.
  from apache_beam.options import pipeline_options
  from apache_beam.runners import runner

  problem = io.StringIO()
  given = text.split(',')
  try:
    if not all(re.match('[a-z]', option) for option in given):
      raise ValueError('the format is NAME=VALUE,NAME=VALUE,...')
    with contextlib.redirect_stderr(problem):
      options = pipeline_options.PipelineOptions([f'--{x}' for x in given])
      known = pipeline_options.PipelineOptions([]).get_all_options()
      values = options.get_all_options(retain_unknown_options=True)
    if unknown := sorted({*values} - {*known}):
      raise ValueError(f'Beam has no option {unknown[0]}')
    runner.create_runner(values['runner'] or 'DirectRunner')
  # What Beam raises depends on the option; argparse exits.
  except (Exception, SystemExit) as error:
    message = (problem.getvalue() or str(error)).strip().split('error: ')[-1]
    raise errors.UserError(
      f'--beam_pipeline_options={text}: {message}'
    ) from None
  return tfds.download.DownloadConfig(beam_options=options)


def _call(job: processes.Job) -> None:
  job()
