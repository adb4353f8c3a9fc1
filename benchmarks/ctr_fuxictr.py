# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""FuxiCTR's side of `ctr_bench`, for the models that it has.

Its package has layers, a base class of models, and loaders. Models are examples
in its repository; two here use the same blocks in the same order, others are
read from a copy of its folder `model_zoo`. The loop is that of its
`train_epoch`, without the progress bar.
"""

from collections.abc import Iterator, Mapping, Sequence
import importlib.util
import pathlib
import tempfile
from typing import Any

from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.parquet_dataloader import ParquetDataLoader
from fuxictr.pytorch.layers import (
  CrossNetV2,
  FactorizationMachine,
  FeatureEmbedding,
  MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import ctr_bench as problem_lib
from benchmarks import ctr_peers


class _Model(BaseModel):
  """Common parts of both models."""

  def __init__(self, feature_map: Any, norm: problem_lib.Norm):
    super().__init__(feature_map, verbose=0, model_root='', metrics=['AUC'])
    self._norm = norm
    self.embedding_layer = FeatureEmbedding(feature_map, problem_lib.DIM)
    self.width = feature_map.sum_emb_out_dim()

  def _mlp(self, output_dim: int | None) -> Any:
    return MLP_Block(
      input_dim=self.width,
      output_dim=output_dim,
      hidden_units=list(problem_lib.WIDTHS),
      hidden_activations='ReLU',
      batch_norm=self._norm == 'batch',
    )

  def _start(self) -> None:
    self.compile('adam', 'binary_crossentropy', problem_lib.LEARNING_RATE)
    self.reset_parameters()


class _DeepFM(_Model):
  def __init__(self, feature_map: Any, norm: problem_lib.Norm):
    super().__init__(feature_map, norm)
    self.fm = FactorizationMachine(feature_map)
    self.mlp = self._mlp(1)
    self._start()

  def forward(self, inputs: Any) -> Any:
    x = self.get_inputs(inputs)
    embedded = self.embedding_layer(x)
    y = self.fm(x, embedded) + self.mlp(embedded.flatten(start_dim=1))
    return {'y_pred': self.output_activation(y)}


class _DCNv2(_Model):
  def __init__(self, feature_map: Any, norm: problem_lib.Norm):
    super().__init__(feature_map, norm)
    self.crossnet = CrossNetV2(self.width, problem_lib.CROSS_LAYERS)
    self.parallel_dnn = self._mlp(None)
    self.fc = torch.nn.Linear(self.width + problem_lib.WIDTHS[-1], 1)
    self._start()

  def forward(self, inputs: Any) -> Any:
    x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
    both = torch.cat([self.crossnet(x), self.parallel_dnn(x)], dim=-1)
    return {'y_pred': self.output_activation(self.fc(both))}


def _of_zoo(
  name: str,
  zoo: str,
  features: Any,
  norm: problem_lib.Norm,
  users: Sequence[str],
) -> Any:
  """A model of FuxiCTR's repository, with the sizes in `ctr_bench`."""
  path = pathlib.Path(zoo, name, 'src', f'{name}.py')
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec and spec.loader, path
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  widths = list(problem_lib.WIDTHS)
  sizes = {
    'FinalMLP': {
      **dict.fromkeys(('mlp1_hidden_units', 'mlp2_hidden_units'), widths),
      **dict.fromkeys(('mlp1_batch_norm', 'mlp2_batch_norm'), norm == 'batch'),
      **{'fs_hidden_units': [], 'fs1_context': [*users]},
      'fs2_context': ['item'],
      'num_heads': problem_lib.NUM_HEADS,
    },
    'MaskNet': {
      'dnn_hidden_units': widths,
      'model_type': 'ParallelMaskNet',
      'parallel_num_blocks': problem_lib.NUM_BLOCKS,
      'parallel_block_dim': problem_lib.BLOCK_WIDTH,
      'reduction_ratio': problem_lib.MASK_RATIO,
    },
  }
  return getattr(module, name)(
    features,
    embedding_dim=problem_lib.DIM,
    learning_rate=problem_lib.LEARNING_RATE,
    optimizer='adam',
    loss='binary_crossentropy',
    **{'verbose': 0, 'model_root': '', 'metrics': ['AUC']},
    **sizes[name],
  )


def _feature_map(num_ids: Mapping[str, int]) -> Any:
  found = FeatureMap('ctr_bench', '')
  for name, size in num_ids.items():
    found.features[name] = {
      'source': '',
      'type': 'categorical',
      'vocab_size': size,
    }
  found.labels = ['label']
  found.default_emb_dim = problem_lib.DIM
  found.num_fields = found.get_num_fields()
  found.set_column_index()
  return found


class Peer(ctr_peers.Peer):
  """One model with FuxiCTR's own loader."""

  # Fields that the gate of FinalMLP's first stream reads.
  user_fields = tuple(n for n in problem_lib.FIELDS if n != 'item')

  def __init__(self, model_zoo: str, **options: Any):
    self._model_zoo = model_zoo
    super().__init__(**options)

  def _make(self, model: str, num_ids: Mapping[str, int]) -> None:
    self._features = _feature_map(num_ids)
    if name := problem_lib.ZOO.get(model):
      made = _of_zoo(
        *(name, self._model_zoo, self._features, self._norm),
        self.user_fields,
      )
    else:
      own = _DeepFM if model == 'deepfm' else _DCNv2
      made = own(self._features, self._norm)
    self._model = made
    self._model._max_gradient_norm = 10.0  # As in `fit`.

  def _endless(
    self, loader: str, clicks: Mapping[str, np.ndarray]
  ) -> Iterator[Any]:
    if loader == 'fuxictr_batched':
      for x, labels in super()._endless('batched', clicks):
        yield {**x, 'label': labels}
    folder = tempfile.TemporaryDirectory()
    path = pathlib.Path(folder.name) / 'train.parquet'
    names = (*self.fields, 'label')
    pq.write_table(pa.table({name: clicks[name] for name in names}), path)
    batches = ParquetDataLoader(
      self._features, str(path), batch_size=problem_lib.BATCH, shuffle=True
    )
    while True:
      yield from batches

  def _step(self, batch: Any) -> Any:
    return self._model.train_step(batch)

  def _predict(self, x: Any) -> Any:
    return self._model(x)['y_pred'][:, 0]
