# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax: a JAX library to train recommenders and their language models.

The names below are public. They are imported on first use, so that a host
without JAX can run the coordinator.
"""

import importlib
import importlib.metadata
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
  from antjax.collectives.choose import Collectives as Collectives
  from antjax.collectives.examples import all_examples as all_examples
  from antjax.collectives.layerwise import scan_layers as scan_layers
  from antjax.elastic.worker import Agent as Agent
  from antjax.embedding.layout import TableSpec as TableSpec
  from antjax.embedding.optimizer import Adagrad as Adagrad
  from antjax.embedding.optimizer import Adam as Adam
  from antjax.embedding.optimizer import RowWiseAdagrad as RowWiseAdagrad
  from antjax.embedding.optimizer import SGD as SGD
  from antjax.embedding.table import EmbeddingTables as EmbeddingTables
  from antjax.mesh.mesh import make_mesh as make_mesh
  from antjax.mesh.paro import ELASTIC_CODES as ELASTIC_CODES
  from antjax.mesh.paro import Level as Level
  from antjax.mesh.paro import PaRO as PaRO
  from antjax.mesh.paro import VALID_CODES as VALID_CODES
  from antjax.meta.maml import InnerLoop as InnerLoop
  from antjax.meta.meta_loss import meta_loss_fn as meta_loss_fn
  from antjax.meta.meta_loss import TaskModel as TaskModel
  from antjax.shards.data_shard import DataShard as DataShard
  from antjax.shards.dataset import LeasedDataset as LeasedDataset
  from antjax.shards.ledger_client import LocalLedgerClient as LocalLedgerClient
  from antjax.shards.ledger_spec import LedgerSpec as LedgerSpec
  from antjax.train.checkpoint import Checkpointer as Checkpointer
  from antjax.train.state import TrainState as TrainState
  from antjax.train.trainer import Trainer as Trainer

_HOMES = {
  'Adagrad': 'embedding.optimizer',
  'Adam': 'embedding.optimizer',
  'Agent': 'elastic.worker',
  'Checkpointer': 'train.checkpoint',
  'Collectives': 'collectives.choose',
  'DataShard': 'shards.data_shard',
  'ELASTIC_CODES': 'mesh.paro',
  'EmbeddingTables': 'embedding.table',
  'InnerLoop': 'meta.maml',
  'LeasedDataset': 'shards.dataset',
  'Level': 'mesh.paro',
  'LocalLedgerClient': 'shards.ledger_client',
  'PaRO': 'mesh.paro',
  'RowWiseAdagrad': 'embedding.optimizer',
  'SGD': 'embedding.optimizer',
  'LedgerSpec': 'shards.ledger_spec',
  'TableSpec': 'embedding.layout',
  'TaskModel': 'meta.meta_loss',
  'TrainState': 'train.state',
  'Trainer': 'train.trainer',
  'VALID_CODES': 'mesh.paro',
  'all_examples': 'collectives.examples',
  'make_mesh': 'mesh.mesh',
  'meta_loss_fn': 'meta.meta_loss',
  'scan_layers': 'collectives.layerwise',
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
  if name == '__version__':
    return importlib.metadata.version('antjax')
  if name in _HOMES:
    return getattr(importlib.import_module(f'antjax.{_HOMES[name]}'), name)
  raise AttributeError(f'module antjax has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *_HOMES})
