# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""AUC of TorchRec's DLRM_DCN on files of launch/make_criteo_synthetic.

  PEERS_PYTHON -m benchmarks.dlrm_quality FOLDER --seeds=3 --rate=0.02

Runs in the peers' environment (`make peers`), and prints a JSON line per seed,
to compare with results.json of launch/train_dlrm on the same files with the
same sizes, rates, optimizers, batch size and epochs. Numbers are standardized
in the same way. Tables use TorchRec's fused row-wise Adagrad. The order of rows
and the initial values of layers are those of each library.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
from torchrec.models import dlrm
from torchrec.modules import fused_embedding_modules
from torchrec.optim import RowWiseAdagrad

from antjax.metrics import ranking


def read(
  folder: pathlib.Path, split: str
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
  """Lists of ids [n, k] by column, numbers [n, 13], labels [n]."""
  stem = folder / f'synthetic_{split}'
  with np.load(f'{stem}_sparse_multi_hot.npz') as found:
    lists = [found[str(i)] for i in range(len(found.files))]
  dense = np.load(f'{stem}_dense.npy')
  return lists, dense, np.load(f'{stem}_labels.npy').astype(np.float32)


def widths(text: str) -> list[int]:
  return [int(x) for x in text.split(',')]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--epochs', type=int, default=2)
  parser.add_argument('--batch_size', type=int, default=1024)
  parser.add_argument('--rate', type=float, default=0.02)
  parser.add_argument('--row_rate', type=float, default=0.02)
  parser.add_argument('--dim', type=int, default=16)
  parser.add_argument('--bottom', type=widths, default=[64])
  parser.add_argument('--top', type=widths, default=[128, 64])
  parser.add_argument('--rank', type=int, default=32)
  parser.add_argument('--init_scale', type=float, default=0.0)
  args = parser.parse_args()
  splits = {s: read(args.folder, s) for s in ('train', 'valid', 'test')}
  dense = splits['train'][1].astype(np.float64)
  mean, deviation = dense.mean(axis=0), dense.std(axis=0)
  num_ids = [
    1 + max(int(found[0][c].max()) for found in splits.values())
    for c in range(len(splits['train'][0]))
  ]
  names = [f'C{i}' for i in range(len(num_ids))]

  def batch_of(split: str, index: np.ndarray) -> tuple[torch.Tensor, Any]:
    lists, dense, _ = splits[split]
    scaled = np.clip((dense[index] - mean) / deviation, -5, 5)
    lengths = [np.full(len(index), ids.shape[1]) for ids in lists]
    values = np.concatenate([ids[index].reshape(-1) for ids in lists])
    return torch.from_numpy(scaled.astype(np.float32)), KeyedJaggedTensor(
      names,
      torch.from_numpy(values.astype(np.int64)),
      lengths=torch.from_numpy(np.concatenate(lengths)),
    )

  for seed in range(args.seeds):
    torch.manual_seed(seed)
    rng, start = np.random.default_rng(seed), time.perf_counter()
    tables = fused_embedding_modules.FusedEmbeddingBagCollection(
      tables=[
        EmbeddingBagConfig(
          num_embeddings=size,
          embedding_dim=args.dim,
          name=name,
          feature_names=[name],
          pooling=PoolingType.SUM,
        )
        for name, size in zip(names, num_ids, strict=True)
      ],
      optimizer_type=RowWiseAdagrad,
      optimizer_kwargs={'lr': args.row_rate, 'eps': 1e-8},
      device=torch.device('cpu'),
    )
    if args.init_scale:
      with torch.no_grad():
        for weight in tables.state_dict().values():
          weight.normal_(0, args.init_scale)
    model: Any = dlrm.DLRM_DCN(
      tables,
      dense_in_features=len(mean),
      dense_arch_layer_sizes=[*args.bottom, args.dim],
      over_arch_layer_sizes=[*args.top, 1],
      dcn_num_layers=3,
      dcn_low_rank_dim=args.rank,
    )
    rest = [p for n, p in model.named_parameters() if 'embedding_bag' not in n]
    optimizer = torch.optim.Adagrad(rest, lr=args.rate, eps=1e-8)
    label = splits['train'][2]
    for _ in range(args.epochs):
      order = rng.permutation(len(label))
      for at in range(0, len(order) - args.batch_size + 1, args.batch_size):
        index = order[at : at + args.batch_size]
        logits = model(*batch_of('train', index))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(
          logits, torch.from_numpy(label[index])
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    line: dict[str, Any] = {'side': 'torchrec', 'seed': seed}
    with torch.no_grad():
      for split in ('valid', 'test'):
        metric, count = ranking.AUC(), len(splits[split][2])
        for at in range(0, count, 4096):
          index = np.arange(at, min(at + 4096, count))
          found = model(*batch_of(split, index))[:, 0].numpy()
          metric.update(found, splits[split][2][index])
        line[f'{split}_auc'] = round(metric.compute(), 5)
    print(json.dumps(line | {'seconds': round(time.perf_counter() - start)}))


if __name__ == '__main__':
  main()
