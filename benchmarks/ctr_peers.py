# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""torch-rechub's side of `ctr_bench`.

Models of several scenarios are its multi-task models, where a row's loss is
that of its scenario's output. The loop is that of its trainers, without the
progress bar.
"""

from collections.abc import Iterator, Mapping
import time
from typing import Any

import numpy as np
import torch
from torch_rechub.basic.features import SparseFeature
from torch_rechub.basic.layers import EmbeddingLayer, MLP
from torch_rechub.models.multi_task import MMOE, PLE, SharedBottom
from torch_rechub.models.ranking import DCNv2, DeepFM
from torch_rechub.utils.data import DataGenerator

from benchmarks import ctr_bench as problem_lib
from benchmarks import harness

_NUM_SCENARIOS = len(problem_lib.SCENARIOS)


class _MLPModel(torch.nn.Module):
  """Embeddings and the package's MLP."""

  def __init__(self, features: Any):
    super().__init__()
    self.features = features
    self.embedding = EmbeddingLayer(features)
    width = sum(f.embed_dim for f in features)
    self.mlp = MLP(width, dims=list(problem_lib.WIDTHS))

  def forward(self, x: Any) -> Any:
    flat = self.embedding(x, self.features, squeeze_dim=True)
    return torch.sigmoid(self.mlp(flat).squeeze(1))


def make(name: str, num_ids: Mapping[str, int]) -> torch.nn.Module:
  """Creates a model with the sizes in `ctr_bench`."""
  features = [
    SparseFeature(field, vocab_size=size, embed_dim=problem_lib.DIM)
    for field, size in num_ids.items()
  ]
  deep = {'dims': list(problem_lib.WIDTHS)}
  tower = {'dims': list(problem_lib.TOWER_WIDTHS)}
  expert = {'dims': list(problem_lib.EXPERT_WIDTHS)}
  tasks = ['classification'] * _NUM_SCENARIOS
  towers = [tower] * _NUM_SCENARIOS
  if name == 'mlp':
    return _MLPModel(features)
  if name == 'deepfm':
    return DeepFM(features, features, mlp_params=deep)
  if name == 'dcnv2':
    return DCNv2(
      features,
      n_cross_layers=problem_lib.CROSS_LAYERS,
      mlp_params=deep,
      use_low_rank_mixture=False,
    )
  if name == 'shared_bottom':
    return SharedBottom(features, tasks, deep, towers)
  if name == 'mmoe':
    return MMOE(features, tasks, problem_lib.NUM_EXPERTS, expert, towers)
  return PLE(
    features,
    tasks,
    problem_lib.NUM_LEVELS,
    problem_lib.NUM_SPECIFIC,
    problem_lib.NUM_EXPERTS,
    expert,
    towers,
  )


def _without_norms(model: torch.nn.Module) -> None:
  for module in list(model.modules()):
    for name, child in module.named_children():
      if isinstance(child, torch.nn.BatchNorm1d):
        setattr(module, name, torch.nn.Identity())


class Peer(problem_lib.Trained):
  """A model with a loader; another library overrides the next four methods."""

  def __init__(
    self,
    model: str,
    loader: str,
    problem: str,
    norm: problem_lib.Norm,
    seed: int,
  ):
    torch.manual_seed(seed)
    self._norm = norm
    arrays = harness.load(problem)
    parts: dict[str, dict[str, Any]] = {'train': {}, 'test': {}, 'ids': {}}
    for name, x in arrays.items():
      part, _, field = name.partition('.')
      parts[part][field] = x if x.ndim else int(x)
    self._test, self.fields = parts['test'], tuple(parts['ids'])
    self._make(model, parts['ids'])
    self._batches = self._endless(loader, parts['train'])

  def _make(self, model: str, num_ids: Mapping[str, int]) -> None:
    self._model = make(model, num_ids)
    if self._norm == 'none':
      _without_norms(self._model)
    self._is_multi = model in ('shared_bottom', 'mmoe', 'ple')
    self._optimizer = torch.optim.Adam(
      self._model.parameters(), lr=problem_lib.LEARNING_RATE
    )
    self._loss = torch.nn.BCELoss()

  def _endless(
    self, loader: str, clicks: Mapping[str, np.ndarray]
  ) -> Iterator[Any]:
    x = {name: clicks[name] for name in self.fields}
    y = clicks['label']
    if loader == 'own':
      generator = DataGenerator(x, y)
      own, _, _ = generator.generate_dataloader(
        x_val=x, y_val=y, x_test=x, y_test=y, batch_size=problem_lib.BATCH
      )
      while True:
        yield from own
    tensors = {name: torch.from_numpy(values) for name, values in x.items()}
    labels = torch.from_numpy(y)
    while True:
      order = torch.randperm(len(labels))
      for index in order.split(problem_lib.BATCH):
        yield {name: t[index] for name, t in tensors.items()}, labels[index]

  def _step(self, batch: Any) -> Any:
    x, y = batch
    loss = self._loss(self._predict(x), y.float())
    self._model.zero_grad()
    loss.backward()
    self._optimizer.step()
    return loss

  def _predict(self, x: Any) -> Any:
    found = self._model(x)
    if self._is_multi:
      return found.gather(1, x['scenario'].long().unsqueeze(1)).squeeze(1)
    return found

  def train(self, num_steps: int) -> float:
    self._model.train()
    start = time.perf_counter()
    for _ in range(num_steps):
      self._step(next(self._batches)).item()
    return time.perf_counter() - start

  def logits(self) -> np.ndarray:
    self._model.eval()
    parts = []
    with torch.no_grad():
      for start in range(0, len(self._test['label']), 8192):
        part = slice(start, start + 8192)
        x = {n: torch.from_numpy(self._test[n][part]) for n in self.fields}
        parts.append(torch.logit(self._predict(x).double(), eps=1e-7).numpy())
    return np.concatenate(parts)
