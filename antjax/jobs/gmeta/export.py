# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Exports a model of train_gmeta for serving, or its changes as a delta.

  python -m launch.export_gmeta --run_dir=runs/day1 --out=models/day1

Writes functions with and without adaptation, tables and vocabularies. Any
process with numpy and jax can score with them (antjax/serving/loader.py).
`--quantize=int8` reduces the tables to a quarter of their size.

  python -m launch.export_gmeta --run_dir=runs/day2 --out=deltas/day2 \
    --base=models/day1

With `--base`, only the differences from an earlier export are written, and with
`--since=400` those from an earlier checkpoint of the run. launch/apply_delta.py
applies them to make the new export.
"""

import dataclasses
from typing import Annotated, Any

from absl import logging
from etils import epath
import jax

from antjax import config as config_lib
from antjax import paths
from antjax.data import output_folder
from antjax.jobs import identity as run_identity
from antjax.jobs.gmeta.config import Config as TrainConfig
from antjax.jobs.gmeta.vocabulary import read_vocabulary
from antjax.mesh import mesh as mesh_lib
from antjax.meta import algorithms, meta_loss
from antjax.meta import recommender as recommender_lib
from antjax.meta.episode_config import EpisodeConfig
from antjax.report import terminal
from antjax.serving import delta, exporter, loader
from antjax.serving import functions as serving
from antjax.train import checkpoint

MODEL = 'meta'  # The run's folder with the meta-learned model.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to export, and where to."""

  run_dir: Annotated[str, 'Run folder of train_gmeta.', paths.URL] = (
    'runs/gmeta'
  )
  out: Annotated[str, 'Folder to create; must not exist.', paths.URL] = (
    'models/gmeta'
  )
  step: Annotated[
    int | None, 'Step of the checkpoint to export. none: the newest one.'
  ] = None
  quantize: Annotated[
    exporter.Quantize,
    'Format of the tables. none: float32. int8: one scale per row.',
  ] = 'none'
  base: Annotated[
    str, 'Earlier full export: write only the changes from it.', paths.URL
  ] = ''
  since: Annotated[
    int | None,
    'Earlier checkpoint of the run: write only the changes since then.',
  ] = None

  def __post_init__(self) -> None:
    if self.base and self.since is not None:
      raise ValueError(
        f'base={self.base} and since={self.since}: give one of them.'
      )


def main(config: Config) -> None:
  if not logging.level_debug():
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file.
  exporter.check_new(config.out)  # Before the work.
  run = config_lib.load(TrainConfig, config.run_dir)
  if not config.base and config.since is None:
    manifest = exporter.write(
      config.out, exported(run, config.run_dir, config.step), config.quantize
    )
    size = sum(f['bytes'] for f in manifest['files'].values())
    terminal.show(f'Step {manifest["step"]}: {size:,} bytes in {config.out}')
    return
  if config.base:
    loader.read_manifest(
      paths.fetched(config.base, 'base')
    )  # Before the work, too.
  with (
    paths.written(config.out) as out,
    exporter.scratch_folder(out, 'export') as folder,
  ):
    new, old = folder / 'new', paths.fetched(config.base, 'base')
    exporter.write(
      new, exported(run, config.run_dir, config.step), config.quantize
    )
    if config.since is not None:
      old = folder / 'old'
      before = exported(run, config.run_dir, config.since)
      exporter.write(old, before, config.quantize)
    described = delta.write(old, new, out)
  for name, table in described['tables'].items():
    terminal.show(
      f'{name}: {table["changed"]:,} of {table["rows"]:,} rows differ'
    )


def exported(
  run: TrainConfig, run_dir: str, step: int | None
) -> exporter.Exported:
  """A checkpoint of a run, on one device of this process."""
  data, description = output_folder.open_view(run.data, 'tasks')
  run_identity.check(
    paths.fetched(run_dir, 'run_dir'),
    {'data set': run_identity.of_data(description)},
    models=[MODEL],
    is_part=True,
  )
  mesh = mesh_lib.make_mesh(intra=1, devices=jax.local_devices()[:1])
  algorithm = algorithms.ALGORITHMS[run.algorithm]
  numeric = tuple(description.get('numeric', ()))
  recommender = recommender_lib.build(
    description['features'],
    dataclasses.replace(
      run.model,
      kind=algorithm.network or run.model.kind,
      table_level='none',  # On one device all levels are the same.
    ),
    mesh,
    label_kind=description.get('kind', 'rating'),
    num_numeric=len(numeric),
  )
  inner = run.inner.loop(algorithm.inner)
  trainer = recommender.trainer(
    meta_loss.meta_loss_fn(recommender.task_model, inner),
    run.optimizer.build(run.num_steps),
  )
  state = trainer.init(recommender.init_params(inner), seed=run.seed)
  run_folder = paths.fetched(run_dir, 'run_dir')
  folder = epath.Path(paths.origin(run_folder / MODEL / paths.CHECKPOINTS))
  if step is None:
    step = checkpoint.latest_step(folder)
  if step is None or not (folder / str(step)).is_dir():
    steps = checkpoint.steps(folder)
    raise ValueError(
      f'export_gmeta: there is no checkpoint {step or ""} in {folder}; it has'
      f' {steps}.'
    )
  with checkpoint.Checkpointer(str(folder), trainer.layout) as checkpointer:
    state, _ = checkpointer.restore(step)
  info: dict[str, Any] = {
    'step': step,
    'data': description['name'],
    'label': description.get('label', 'rating'),
    'kind': description.get('kind', 'rating'),
  }
  return serving.exported(
    recommender,
    inner,
    trainer.params(state),
    serving.table_rows(recommender.tables, state.tables),
    vocabularies={
      name: read_vocabulary(data, description, name)
      for name in recommender.features
      if f'ids_{name}' in description['files']
    },
    support_sizes=run.support_sizes,
    query_size=description.get('query_size', EpisodeConfig.query_size),
    numeric=numeric,
    info=info,
  )
