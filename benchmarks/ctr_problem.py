# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What both sides of `ctr_bench` train: MovieLens-1M in three scenarios.

A click is a rating of four or five stars; a scenario is a group of ages, as in
Scenario-Wise-Rec. Both sides see the same six fields, 16 wide: user, item,
gender, age, occupation, scenario. The sizes of the models are those below; the
peer's MLPs have batch normalization, which it does not let one leave out.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import numpy as np

from benchmarks import harness

MODELS = ('mlp', 'deepfm', 'dcnv2', 'shared_bottom', 'mmoe', 'ple')
# Of torch-rechub; and FuxiCTR with its own loader.
LOADERS = ('own', 'batched', 'fuxictr')
FUXICTR_MODELS = ('deepfm', 'dcnv2')
DIM = 16
BATCH = 2048
# Of the deep part; of towers; of experts.
WIDTHS, TOWER_WIDTHS, EXPERT_WIDTHS = (256, 128), (64,), (128,)
NUM_EXPERTS, NUM_SPECIFIC, NUM_LEVELS, CROSS_LAYERS = 4, 1, 1, 3
LEARNING_RATE = 1e-3
SCENARIOS = ('1+18', '25', '35+45+50+56')
FIELDS = ('user', 'item', 'gender', 'age', 'occupation', 'scenario')


@dataclasses.dataclass(frozen=True)
class Problem:
  """The clicks.

  Attributes:
    train: Field -> int32 [N], and 'label' float32 [N].
    test: Likewise.
    num_ids: Field -> its ids.
  """

  train: Mapping[str, np.ndarray]
  test: Mapping[str, np.ndarray]
  num_ids: Mapping[str, int]


def config(folder: str, model: str, run_dir: str, **changes: Any) -> Any:
  """The config of launch/train_clicks.py for one model."""
  from antjax.ctr.antm2c.model import FieldConfig
  from antjax.jobs.clicks import config as train_antm2c
  from antjax.networks.load import NetworkConfig

  return train_antm2c.Config(
    run_dir=run_dir,
    data=folder,
    model=model,
    scenario='age',
    scenario_groups=SCENARIOS,
    history='none',
    batch_size=BATCH,
    network=NetworkConfig(
      widths=WIDTHS,
      tower_widths=TOWER_WIDTHS,
      expert_widths=EXPERT_WIDTHS,
      num_experts=NUM_EXPERTS,
      num_specific=NUM_SPECIFIC,
      num_levels=NUM_LEVELS,
      cross_layers=CROSS_LAYERS,
    ),
    fields=FieldConfig(
      use=('user', 'item', 'columns'),
      embedding_dim=DIM,
      learning_rate=LEARNING_RATE,
    ),
    optimizer=dataclasses.replace(
      train_antm2c.Config.optimizer, learning_rate=LEARNING_RATE
    ),
    checkpoint_every=1_000_000,
    **changes,
  )


def arrays(data: Any) -> Problem:
  """The fields of a `antjax.jobs.clicks.data.ScenarioData`, for the peer."""

  def fields(clicks: Any) -> dict[str, np.ndarray]:
    columns = {
      n.removeprefix('column_'): clicks.column(n) for n in clicks.names
    }
    return {
      **{name: np.ascontiguousarray(columns[name]) for name in FIELDS},
      'label': clicks.label,
    }

  sizes = data.sizes
  num_ids = {
    'user': sizes.num_users,
    'item': sizes.num_items,
    **sizes.columns,
    'scenario': sizes.num_scenarios,
  }
  return Problem(
    fields(data.splits['train']), fields(data.splits['test']), num_ids
  )


def save(problem: Problem, path: str | pathlib.Path) -> None:
  """Writes a problem for the processes of a run."""
  parts = dataclasses.asdict(problem).items()
  harness.save(
    {f'{part}.{n}': x for part, fields in parts for n, x in fields.items()},
    path,
  )


def load(path: str | pathlib.Path) -> Problem:
  """Reads what `save` wrote."""
  found: dict[str, dict[str, Any]] = {'train': {}, 'test': {}, 'num_ids': {}}
  for name, array in harness.load(path).items():
    part, _, field = name.partition('.')
    found[part][field] = array if array.ndim else int(array)
  return Problem(**found)
