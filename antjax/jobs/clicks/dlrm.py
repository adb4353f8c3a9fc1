# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Trains a DLRM in MLPerf's form: train_clicks.py with other defaults.

  python -m launch.prepare_data --views=examples --dataset=criteo \
    --source=day_0.tsv --out=data/criteo --examples.split=random
  python -m launch.train_dlrm --data=data/criteo --run_dir=runs/dlrm

Numbers go through a bottom MLP, each id column has a table, and so has each
column with many values, which are summed; low-rank cross layers follow, and a
top MLP. Tables take row-wise Adagrad, all else Adagrad. Sizes are those of
MLPerf's DLRM v2: smaller data want smaller ones. docs/dlrm.md shows both forms
of Criteo's files.
"""

import dataclasses

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.jobs.clicks import config
from antjax.jobs.clicks import job as click_job
from antjax.jobs.clicks.make_criteo import NUM_VALUES
from antjax.networks import load
from antjax.train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(config.Config):
  """Training of a DLRM."""

  run_dir: str = 'runs/dlrm'
  data: str = 'data/criteo'
  model: str = 'dlrm_dcn'
  scenario: str = 'none'
  history: tuple[str, ...] = ('none',)
  max_pieces: int = max(NUM_VALUES)
  batch_size: int = 65_536
  network: load.NetworkConfig = load.NetworkConfig(
    bottom_widths=(512, 256),
    widths=(1024, 1024, 512, 256),
    cross_layers=3,
    cross_rank=512,
    top_vectors=False,
  )
  fields: FieldConfig = FieldConfig(
    use=('columns', 'numeric'),
    numbers=('dense',),
    bags=('sum',),
    knows_scenario=False,
    embedding_dim=128,
    optimizer='rowwise_adagrad',
    learning_rate=0.005,
  )
  optimizer: OptimizerConfig = OptimizerConfig(
    kind='adagrad',
    learning_rate=0.005,
    warmup_steps=0,
    decay='none',
    weight_decay=0.0,
    decay_norms=True,
    clip_norm=0.0,
  )


def main(config: Config) -> None:
  """See `clicks.job.main`."""
  click_job.main(config)
