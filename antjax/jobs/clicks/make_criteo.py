# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Writes synthetic clicks in the formats of Criteo and MLPerf.

  python -m launch.make_criteo_synthetic --out=data/criteo-synthetic

The data are made up: ids are sampled by Zipf's law, and clicks from a sum of
weights of ids and numbers and of products of id vectors. The file
`synthetic.json` has the AUC of the true probabilities, which a model can exceed
only by chance. With --form=multihot the files are
synthetic_train_sparse_multi_hot.npz and so on, as launch/schemas/
criteo_multihot.yaml reads them; with --form=tsv tables as Criteo released.
"""

import dataclasses
import json
import pathlib
from typing import Annotated, Any, Literal

import numpy as np

from antjax import config_values
from antjax.metrics import ranking

# Rows of the tables of MLPerf's DLRM v2, and values of each in an example:
# https://github.com/mlcommons/training/tree/master/recommendation_v2
NUM_ROWS = (
  *(40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63),
  *(40_000_000, 3_067_956, 405_282, 10, 2_209, 11_938, 155, 4, 976, 14),
  *(40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36),
)
NUM_VALUES = (
  *(3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1),
  *(6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1),
)
_NUMBERS, _DIM = 13, 4
_SPLITS = {'train': 0.8, 'valid': 0.1, 'test': 0.1}
# Standard deviations of the parts of a logit; about a fifth are clicked.
_OF_IDS, _OF_PAIRS, _OF_NUMBERS, _BIAS = 0.7, 0.6, 0.4, -1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Synthetic files."""

  out: Annotated[str, 'Folder to create.'] = 'data/criteo-synthetic'
  form: Annotated[
    Literal['multihot', 'tsv'],
    "Format: MLPerf's .npz files of 26 lists, or Criteo's TSV.",
  ] = 'multihot'
  num_rows: Annotated[int, 'Number of clicks, 8 of 10 for training.'] = 100_000
  max_ids: Annotated[
    int, "Maximum rows per table; smaller ones are MLPerf's."
  ] = 10_000
  max_values: Annotated[
    int, "Maximum list length; shorter ones are MLPerf's."
  ] = 8
  seed: Annotated[int, 'Seed.'] = 0

  def __post_init__(self) -> None:
    least = {'num_rows': 100, 'max_ids': 1, 'max_values': 1}
    config_values.check_least(self, least)


def main(config: Config) -> None:
  """Writes the files, and synthetic.json beside them."""
  folder = pathlib.Path(config.out)
  folder.mkdir(parents=True)
  rng, n = np.random.default_rng(config.seed), config.num_rows
  most = config.max_values if config.form == 'multihot' else 1
  lists, logit = list[np.ndarray](), np.full(n, _BIAS)
  made = list[np.ndarray]()
  for num_ids, length in zip(NUM_ROWS, NUM_VALUES, strict=True):
    size, length = min(num_ids, config.max_ids), min(length, most)
    # Zipf's law with exponent 1, by its inverse.
    drawn = np.exp(rng.random((n, length)) * np.log(size + 1)) - 1
    ids = np.minimum(drawn.astype(np.int32), size - 1)
    lists.append(ids)
    weights = rng.normal(size=(size, 1 + _DIM)).astype(np.float32)
    means = weights[ids].sum(axis=1) / np.sqrt(length)
    logit += _OF_IDS / np.sqrt(len(NUM_ROWS)) * means[:, 0]
    made.append(means[:, 1:])
  pairs = list(zip(made[::2], made[1::2], strict=True))
  for left, right in pairs:
    scale = _OF_PAIRS / np.sqrt(_DIM * len(pairs))
    logit += scale * np.sum(left * right, axis=1)
  numbers = rng.normal(size=(n, _NUMBERS)).astype(np.float32)
  slopes = rng.normal(size=_NUMBERS) * _OF_NUMBERS / np.sqrt(_NUMBERS)
  logit += numbers @ slopes
  label = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int32)
  numbers = np.exp(numbers)  # Skewed counts, as those of logs.
  start, auc = 0, {}
  for split, share in _SPLITS.items():
    part = slice(start, start + int(share * n))
    start = part.stop
    metric = ranking.AUC()
    metric.update(logit[part], label[part])
    auc[split] = metric.compute()
    if config.form == 'multihot':
      stem = folder / f'synthetic_{split}'
      arrays: dict[str, Any] = {
        str(f): ids[part] for f, ids in enumerate(lists)
      }
      np.savez(f'{stem}_sparse_multi_hot.npz', **arrays)
      np.save(f'{stem}_dense.npy', np.log1p(numbers[part]))
      np.save(f'{stem}_labels.npy', label[part])
      continue
    counts = np.floor(10 * numbers[part]).astype(int).astype(str)
    ids_of = np.concatenate(lists, axis=1)[part]
    texts = np.char.mod('%08x', ids_of)
    rows = np.concatenate([label[part, None].astype(str), counts, texts], 1)
    text = '\n'.join('\t'.join(row) for row in rows.tolist())
    (folder / f'synthetic_{split}.tsv').write_text(f'{text}\n')
  about = {'synthetic': True, 'true_auc': auc} | dataclasses.asdict(config)
  text = json.dumps(about, indent=2) + '\n'
  (folder / 'synthetic.json').write_text(text, encoding='utf-8')
