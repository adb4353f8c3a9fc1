# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""FuxiCTR's side of `ctr_same_start`: its models with our weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks import ctr_bench, ctr_fuxictr, harness


class _Gated(torch.nn.Module):
  """What the gates of FinalMLP read: a field's vector from its table."""

  def __init__(self, embedding: Any, name: str):
    super().__init__()
    self.table, self.name = _tables(embedding)[name], name

  def forward(self, x: Any) -> Any:
    return self.table(x[self.name])[:, None]


def _tables(embedding: Any) -> Any:
  return embedding.embedding_layer.embedding_layers


class _Filler:
  """Copies our leaves into modules; each is copied once."""

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    self.left = {name: torch.from_numpy(x) for name, x in arrays.items()}

  def take(self, path: str) -> torch.Tensor:
    return self.left.pop(path)

  def linear(self, module: torch.nn.Linear, path: str) -> None:
    module.weight.copy_(self.take(f'{path}/kernel').T)
    if module.bias is not None:
      module.bias.copy_(self.take(f'{path}/bias'))

  def norm(self, module: Any, path: str) -> None:
    module.weight.copy_(self.take(f'{path}/scale'))
    module.bias.copy_(self.take(f'{path}/bias'))
    if isinstance(module, torch.nn.BatchNorm1d):
      module.running_mean.copy_(self.take(f'{path}/mean'))
      module.running_var.copy_(self.take(f'{path}/var'))

  def block(self, module: torch.nn.Module, path: str, out: str = '') -> None:
    """An MLP; `out` is its last layer's path, if it has an output."""
    linears = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    if out:
      self.linear(linears.pop(), out)
    for i, linear in enumerate(linears):
      self.linear(linear, f'{path}/layers/{i}')
    kind = torch.nn.BatchNorm1d
    for i, norm in enumerate(
      m for m in module.modules() if isinstance(m, kind)
    ):
      self.norm(norm, f'{path}/norms/{i}')

  def tables(self, embedding: Any, suffix: str = '') -> None:
    for name, table in _tables(embedding).items():
      table.weight.copy_(self.take(f'table.{name}{suffix}'))


def _dcnv2(model: Any, fill: _Filler) -> None:
  for i, layer in enumerate(model.crossnet.cross_layers):
    fill.linear(layer, f'cross/{i}')
  fill.block(model.parallel_dnn, 'mlp')
  fill.linear(model.fc, 'out')


def _deepfm(model: Any, fill: _Filler) -> None:
  linear = model.fm.lr_layer
  fill.tables(linear.embedding_layer, ':weight')
  linear.bias.zero_()
  linear.bias.requires_grad_(False)
  fill.block(model.mlp, 'deep/mlp', 'deep/out')


def _finalmlp(model: Any, fill: _Filler) -> None:
  gates, fusion = model.fs_module, model.fusion_module
  for i, name in enumerate(('user', 'item'), 1):
    gated = _Gated(model.embedding_layer, name)
    setattr(gates, f'fs{i}_ctx_emb', gated)
    (gate,) = (
      m
      for m in getattr(gates, f'fs{i}_gate').modules()
      if isinstance(m, torch.nn.Linear)
    )
    fill.linear(gate, f'{name}/gate')
    fill.block(getattr(model, f'mlp{i}'), f'{name}/mlp')
  kernel = fill.take('linear/kernel')
  one, two = kernel.split(len(kernel) // 2)
  fusion.w_x.weight.copy_(one.T)
  fusion.w_x.bias.copy_(fill.take('linear/bias'))
  fusion.w_y.weight.copy_(two.T)
  fusion.w_y.bias.zero_()
  fusion.w_y.bias.requires_grad_(False)
  fusion.w_xy.copy_(fill.take('form').reshape(-1, 1))


def _masknet(model: Any, fill: _Filler) -> None:
  scale, bias = fill.take('scale'), fill.take('bias')
  for i, norm in enumerate(model.emb_norm):
    norm.weight.copy_(scale[i])
    norm.bias.copy_(bias[i])
  for i, block in enumerate(model.mask_net.mask_blocks):
    hidden, norm, _ = block.hidden_layer
    fill.block(block.mask_layer, f'blocks/{i}/mask')
    fill.linear(hidden, f'blocks/{i}/hidden')
    fill.norm(norm, f'blocks/{i}/norm')
  fill.block(model.mask_net.dnn, 'out/mlp', 'out/out')


_FILL = {f.__name__: f for f in (_dcnv2, _deepfm, _finalmlp, _masknet)}


class Peer(ctr_fuxictr.Peer):
  """A model; all training clicks are a batch."""

  user_fields = ('user',)

  def __init__(self, model: str, problem: str, model_zoo: str):
    arrays = harness.load(problem)
    parts: dict[str, dict[str, np.ndarray]] = {'train': {}, 'test': {}}
    for part, columns in parts.items():
      for path in [n for n in arrays if n.startswith(f'{part}.')]:
        columns[path.removeprefix(f'{part}.')] = arrays.pop(path)
    self._test = parts['test']
    self.fields = tuple(n for n in self._test if n != 'label')
    self._norm: ctr_bench.Norm = 'none' if model == 'masknet' else 'batch'
    self._model_zoo = model_zoo
    self._make(model, {n: len(arrays[f'table.{n}']) for n in self.fields})
    fill = _Filler(arrays)
    with torch.no_grad():
      fill.tables(self._model.embedding_layer)
      _FILL[f'_{model}'](self._model, fill)
    assert not fill.left, f'not copied: {[*fill.left]}'
    batch = {n: torch.from_numpy(x) for n, x in parts['train'].items()}
    self._batches = iter(lambda: batch, None)
    self._num_clicks = len(batch['label'])

  def train(self, num_steps: int) -> float:
    """Trains a new model; PyTorch averages variances by n - 1, ours by n."""
    found = super().train(num_steps)
    share = (self._num_clicks - 1) / self._num_clicks
    for module in self._model.modules():
      if isinstance(module, torch.nn.BatchNorm1d):
        assert module.momentum is not None
        first = (1 - module.momentum) ** num_steps  # What is left of it.
        module.running_var.sub_(first).mul_(share).add_(first)
    return found
