# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Exports a model of train_gmeta for serving, or its changes as a delta.

  python -m launch.export_gmeta --run_dir=runs/day1 --out=models/day1

Writes functions with and without adaptation, tables and vocabularies. Any
process with numpy and jax can score with them (antjax/serving/loader.py).
`--quantize=int8` reduces the tables to a quarter of their size.

  python -m launch.export_gmeta --run_dir=runs/day2 --base=models/day1 \
    --deltas=deltas

With `--base`, only what differs from an earlier export and the deltas after it
is written: the next delta of the folder. A server with the same `--deltas`
applies it while it serves; launch/apply_delta.py makes a full export of it.
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
from antjax.mesh.paro import PaRO
from antjax.meta import algorithms
from antjax.meta import recommender as recommender_lib
from antjax.meta.episode_config import EpisodeConfig
from antjax.report import terminal
from antjax.serving import delta, exporter
from antjax.serving import functions as serving
from antjax.train import checkpoint, warm_start
from antjax.train.state import Layout

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
  deltas: Annotated[
    str, 'Folder of the deltas after --base; the new one is added.', paths.URL
  ] = ''

  def __post_init__(self) -> None:
    if bool(self.base) != bool(self.deltas):
      raise ValueError(
        f'base={self.base} and deltas={self.deltas}: give both, or none.'
      )


def main(config: Config) -> None:
  if not logging.level_debug():
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file.
  run = config_lib.load(TrainConfig, config.run_dir, may_lack_fields=True)
  if config.base:
    now = delta.opened(config.base, config.deltas)  # Before the work.
    new = exported(run, config.run_dir, config.step)
    for name, (changed, rows) in delta.write(now, new, config.deltas).items():
      terminal.show(f'{name}: {changed:,} of {rows:,} rows differ')
    return
  exporter.check_new(config.out)  # Before the work, too.
  new = exported(run, config.run_dir, config.step)
  manifest = exporter.write(config.out, new, config.quantize)
  size = sum(f['bytes'] for f in manifest['files'].values())
  terminal.show(f'Step {manifest["step"]}: {size:,} bytes in {config.out}')


def exported(
  run: TrainConfig, run_dir: str, step: int | None
) -> exporter.Exported:
  """A checkpoint of a run: its rows once, and none of the optimizers' state."""
  data, description = output_folder.open_view(run.data, 'tasks')
  run_folder = paths.fetched(run_dir, 'run_dir')
  made_of = {'data set': run_identity.of_data(description)}
  run_identity.check(run_folder, made_of, models=[MODEL], is_part=True)
  mesh = mesh_lib.make_mesh(intra=1, devices=jax.local_devices()[:1])
  algorithm = algorithms.ALGORITHMS[run.algorithm]
  numeric = tuple(description.get('numeric', ()))
  features = description['features']
  recommender, trained = (
    recommender_lib.build(
      some,
      dataclasses.replace(
        run.model,
        kind=algorithm.network or run.model.kind,
        # On one device all levels are the same, but where rows are in files.
        table_level=run.model.table_level if run.model.device_rows else 'none',
      ),
      mesh,
      label_kind=description.get('kind', 'rating'),
      num_numeric=len(numeric),
      home=run.model.home_of(run_folder, MODEL),
    )
    for some in (features, run.keys.of(features))
  )
  inner = run.inner.loop(algorithm.inner)
  layout = Layout.of(
    jax.eval_shape(recommender.init_params(inner), jax.random.key(0)),
    mesh,
    PaRO.from_code('NNN'),
    run.optimizer.build(run.num_steps),
    tables=trained.tables,
  )
  folder = epath.Path(paths.origin(run_folder / MODEL / paths.CHECKPOINTS))
  if step is None:
    step = checkpoint.latest_step(folder)
  if step is None or not (folder / str(step)).is_dir():
    steps = checkpoint.steps(folder)
    raise ValueError(
      f'export_gmeta: there is no checkpoint {step or ""} in {folder}; it has'
      f' {steps}.'
    )
  params, rows = warm_start.read_model(layout, str(folder), step)
  if run.keys.rows:
    with checkpoint.Checkpointer(str(folder), layout) as saver:
      tables = trained.tables
      rows = run.keys.by_id(rows, features, tables, saver, step)
  info: dict[str, Any] = {
    'step': step,
    'data': description['name'],
    'label': description.get('label', 'rating'),
    'kind': description.get('kind', 'rating'),
  }
  return serving.exported(
    recommender,
    inner,
    params,
    rows,
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
