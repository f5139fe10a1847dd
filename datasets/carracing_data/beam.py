"""Runs independent jobs with Apache Beam, on one machine or a cluster."""

from collections.abc import Sequence
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
    errors.UserError: no runner is named; or Beam, its runner or a job failed.
  """
  import apache_beam as beam  # Slow to import and rarely needed.

  options = config.beam_options
  if not (config.beam_runner or options.get_all_options()['runner']):
    raise errors.UserError(
      '--beam_pipeline_options name no runner; write runner=NAME,...'
      ' (docs/SCALE.md has examples)'
    )
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


def _call(job: processes.Job) -> None:
  job()
