# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The problem of `dlrm_problem` in PyTorch, with tables of two libraries.

- `tbe`: one table-batched embedding of fbgemm, its optimizer in the backward.
- `torchrec`: TorchRec's FusedEmbeddingBagCollection, which is built on that.

Both get the ids as their own input pipelines leave them: feature by feature,
with offsets, ready in memory.
"""

from collections.abc import Callable
from typing import Any

from fbgemm_gpu import split_embedding_configs
from fbgemm_gpu import split_table_batched_embeddings_ops_common as tbe_common
from fbgemm_gpu import split_table_batched_embeddings_ops_training as tbe_ops
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from benchmarks import dlrm_problem

PEERS = ('tbe', 'torchrec')

# Takes what `_inputs` made of a batch; returns vectors [B, F * D].
_Lookup = Callable[[Any], torch.Tensor]


def make_step(
  peer: str, case: dlrm_problem.DLRMCase, arrays: dict[str, np.ndarray]
) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
  """Returns the step, and what reads loss and weights after it."""
  make = {'tbe': _tbe, 'torchrec': _torchrec}[peer]
  lookup, inputs, weights = make(case, arrays['ids'])
  for weight, table in zip(weights, dlrm_problem.tables(case), strict=True):
    weight.copy_(torch.from_numpy(table))
  mlp = _mlp(case, arrays)
  optimizer = torch.optim.SGD(mlp.parameters(), lr=dlrm_problem.DENSE_RATE)
  labels = torch.from_numpy(arrays['label'])
  state = {'step': 0, 'loss': None}

  def run() -> Any:
    i = state['step'] % case.num_batches
    logits = mlp(lookup(inputs[i]))[:, 0]
    loss = F.binary_cross_entropy_with_logits(logits, labels[i])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    state['step'] += 1
    state['loss'] = loss.detach()
    return state['loss']

  def answer() -> dict[str, np.ndarray]:
    ids = dlrm_problem.probed_rows(case, arrays['ids'][0])
    rows = [w.detach()[torch.from_numpy(i)] for w, i in zip(weights, ids)]
    return {
      'loss': state['loss'].numpy(),
      'rows': torch.stack(rows).numpy(),
      'w0': mlp[0].weight.detach().numpy().T,
    }

  return run, answer


def _mlp(
  case: dlrm_problem.DLRMCase, arrays: dict[str, np.ndarray]
) -> nn.Sequential:
  layers: list[nn.Module] = []
  for i in range(len(case.widths)):
    weight = torch.from_numpy(arrays[f'w{i}'].T.copy())
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight)
    layer.bias = nn.Parameter(torch.tensor(arrays[f'b{i}']))
    layers += [layer, nn.ReLU()]
  return nn.Sequential(*layers[:-1])


def _offsets(case: dlrm_problem.DLRMCase) -> torch.Tensor:
  return torch.arange(case.num_features * case.batch_size + 1)


def _tbe(case: dlrm_problem.DLRMCase, ids: np.ndarray) -> tuple:
  table = tbe_ops.SplitTableBatchedEmbeddingBagsCodegen(
    [
      (
        case.rows_per_table,
        case.embedding_dim,
        tbe_common.EmbeddingLocation.HOST,
        tbe_ops.ComputeDevice.CPU,
      )
    ]
    * case.num_features,
    optimizer=split_embedding_configs.EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    learning_rate=dlrm_problem.TABLE_RATE,
    eps=dlrm_problem.EPS,
    pooling_mode=tbe_common.PoolingMode.SUM,
  )
  offsets = _offsets(case)
  inputs = [torch.from_numpy(x.reshape(-1)) for x in ids]

  def lookup(indices):
    return table(indices, offsets)

  return lookup, inputs, table.split_embedding_weights()


def _torchrec(case: dlrm_problem.DLRMCase, ids: np.ndarray) -> tuple:
  from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
  from torchrec.modules import fused_embedding_modules
  from torchrec.optim import RowWiseAdagrad

  names = list(case.features)
  module = fused_embedding_modules.FusedEmbeddingBagCollection(
    tables=[
      EmbeddingBagConfig(
        num_embeddings=case.rows_per_table,
        embedding_dim=case.embedding_dim,
        name=name,
        feature_names=[name],
        pooling=PoolingType.SUM,
      )
      for name in names
    ],
    optimizer_type=RowWiseAdagrad,
    optimizer_kwargs={
      'lr': dlrm_problem.TABLE_RATE,
      'eps': dlrm_problem.EPS,
    },
    device=torch.device('cpu'),
  )
  inputs = [
    KeyedJaggedTensor(
      names, torch.from_numpy(x.reshape(-1)), offsets=_offsets(case)
    )
    for x in ids
  ]
  weights = module.state_dict()
  tables = [weights[f'embedding_bags.{name}.weight'] for name in names]
  return (lambda features: module(features).values()), inputs, tables
