# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The DLRM step of `meta_problem` in PyTorch, with tables of two libraries.

- `tbe`: a table-batched embedding of fbgemm, optimized in its backward.
- `torchrec`: TorchRec's FusedEmbeddingBagCollection, built on the former.

Both get the ids in the format of their own input pipelines: feature by feature,
with offsets, in memory.
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

from benchmarks import harness, meta_problem

# Takes the result of `_inputs` for a batch; returns vectors [B, F * D].
_Lookup = Callable[[Any], torch.Tensor]


def make_dlrm(
  case: dict[str, Any], problem: str, peer: str
) -> meta_problem.Step:
  """Returns the step of a peer on a problem of `meta_problem.make_dlrm`."""
  made, arrays = meta_problem.DLRMCase(**case), harness.load(problem)
  make_tables = {'tbe': _tbe, 'torchrec': _torchrec}[peer]
  lookup, inputs, weights = make_tables(made, arrays['ids'])
  values = meta_problem.dlrm_tables(made)
  for weight, table in zip(weights, values, strict=True):
    weight.copy_(torch.from_numpy(table))
  mlp = _mlp(made, arrays)
  optimizer = torch.optim.SGD(mlp.parameters(), lr=meta_problem.DENSE_RATE)
  labels = torch.from_numpy(arrays['label'])
  state = {'step': 0, 'loss': None}

  def run() -> Any:
    i = state['step'] % made.num_batches
    logits = mlp(lookup(inputs[i]))[:, 0]
    loss = F.binary_cross_entropy_with_logits(logits, labels[i])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    state['step'] += 1
    state['loss'] = loss.detach()
    return state['loss']

  def answer() -> dict[str, np.ndarray]:
    ids = meta_problem.probed_rows(made, arrays['ids'][0])
    rows = [w.detach()[torch.from_numpy(i)] for w, i in zip(weights, ids)]
    return {
      'loss': state['loss'].numpy(),
      'rows': torch.stack(rows).numpy(),
      'w0': mlp[0].weight.detach().numpy().T,
    }

  return meta_problem.Step(run, answer)


def _mlp(
  case: meta_problem.DLRMCase, arrays: dict[str, np.ndarray]
) -> nn.Sequential:
  layers: list[nn.Module] = []
  for i in range(len(case.widths)):
    weight = torch.from_numpy(arrays[f'w{i}'].T.copy())
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight)
    layer.bias = nn.Parameter(torch.tensor(arrays[f'b{i}']))
    layers += [layer, nn.ReLU()]
  return nn.Sequential(*layers[:-1])


def _offsets(case: meta_problem.DLRMCase) -> torch.Tensor:
  return torch.arange(case.num_features * case.batch_size + 1)


def _tbe(case: meta_problem.DLRMCase, ids: np.ndarray) -> tuple:
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
    learning_rate=meta_problem.TABLE_RATE,
    eps=meta_problem.EPS,
    pooling_mode=tbe_common.PoolingMode.SUM,
  )
  offsets = _offsets(case)
  inputs = [torch.from_numpy(x.reshape(-1)) for x in ids]

  def lookup(indices):
    return table(indices, offsets)

  return lookup, inputs, table.split_embedding_weights()


def _torchrec(case: meta_problem.DLRMCase, ids: np.ndarray) -> tuple:
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
    optimizer_kwargs={'lr': meta_problem.TABLE_RATE, 'eps': meta_problem.EPS},
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
