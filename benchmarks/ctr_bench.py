# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed and AUC of click models, compared with torch-rechub and FuxiCTR.

  python -m benchmarks.ctr_bench --data=data/ml-1m > results.jsonl

prints a JSON line for each model and loader of the peer torch-rechub: `own`,
its usual DataLoader over rows, and `batched`, which replaces it by slices of
tensors to compare only the models. `fuxictr` is FuxiCTR with its own loader,
and `fuxictr_batched` with slices of tensors, for the models that it has, if it
is installed (by the extra `bench_fuxictr`, which includes Ray); finalmlp and
masknet are only in its repository, whose folder `model_zoo` is then
`--model_zoo`. Needs the output of `launch/prepare_data.py --views=examples`.

A click is a rating of four or five stars of MovieLens-1M; a scenario is a group
of ages, as in Scenario-Wise-Rec. All sides see the same six fields, 16 wide:
user, item, gender, age, occupation, scenario. The sizes of the models are given
below. `--norm` is that of the hidden layers of all sides; torch-rechub's models
always have batch normalization, and `none` takes it out of them.

All sides train for the same number of epochs, taking turns in blocks of steps.
`rows_per_s` is for whole steps, from arrays in memory to new parameters,
without the first eighth of each block; medians of blocks are compared. `auc` is
for the test clicks after training, `auc_difference` ours minus the peer's with
a 95 % interval over users (paired bootstrap). `flops_bound_s` is the time of a
step's matrix products at the rate of a large product on this machine,
`layers_s` that of our layers alone, forward and backward.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from typing import Annotated, Any, Literal

import numpy as np

from benchmarks import harness, machine

MODELS = (
  *('mlp', 'deepfm', 'dcnv2', 'shared_bottom', 'mmoe', 'ple'),
  *('finalmlp', 'masknet'),
)
Norm = Literal['batch', 'none']
LOADERS = ('own', 'batched', 'fuxictr', 'fuxictr_batched')
FUXICTR_MODELS = ('deepfm', 'dcnv2')
ZOO = {'finalmlp': 'FinalMLP', 'masknet': 'MaskNet'}  # Of FuxiCTR's repository.
DIM = 16
BATCH = 2048
# Widths of the deep part, towers and experts.
WIDTHS, TOWER_WIDTHS, EXPERT_WIDTHS = (256, 128), (64,), (128,)
# Of the streams' bilinear form; of masks.
NUM_HEADS, NUM_BLOCKS, BLOCK_WIDTH, MASK_RATIO = 2, 3, 64, 2
NUM_EXPERTS, NUM_SPECIFIC, NUM_LEVELS, CROSS_LAYERS = 4, 1, 1, 3
LEARNING_RATE = 1e-3
SCENARIOS = ('1+18', '25', '35+45+50+56')
FIELDS = ('user', 'item', 'gender', 'age', 'occupation', 'scenario')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  data: Annotated[str, 'Prepared clicks.'] = 'data/ml-1m'
  models: Annotated[tuple[str, ...], 'Only these; empty: all.'] = ()
  loaders: Annotated[tuple[str, ...], 'Loaders of the peers.'] = LOADERS
  norm: Annotated[Norm, 'Norm of hidden layers: batch or none.'] = 'batch'
  steps_per_call: Annotated[int, 'Steps in one program of ours.'] = 8
  seeds: Annotated[tuple[int, ...], 'A training for each.'] = (0,)
  model_zoo: Annotated[str, "FuxiCTR's folder of models; empty: none."] = ''
  epochs: Annotated[float, 'Passes over the training clicks.'] = 2.0
  blocks: Annotated[int, 'Blocks that the steps go in.'] = 6
  threads: Annotated[int, 'PyTorch threads.'] = os.cpu_count() or 1


class Trained:
  """Base of all sides: a model to train and score."""

  def train(self, num_steps: int) -> float:
    """Continues training; returns seconds."""
    raise NotImplementedError

  def logits(self) -> np.ndarray:
    """Logits of the test clicks."""
    raise NotImplementedError

  def rows_per_s(self, steps: int) -> float:
    """Trains a block of steps; returns the rate after its first eighth."""
    # Untimed: a virtual machine reclaims memory of idle processes.
    first = steps // 8
    self.train(first)
    return (steps - first) * BATCH / self.train(steps - first)

  def write_logits(self, path: str) -> None:
    """Writes the logits of the test clicks."""
    np.save(path, self.logits())


def compared(
  ours: np.ndarray, peers: np.ndarray, test: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """AUC of both sides, and the difference with its 95 % interval."""
  from antjax.metrics import by_slice as scores  # Peers run without antjax.

  nothing = np.zeros(len(ours), np.int32)
  columns = {
    'label': test['label'],
    'user': test['user'],
    **dict.fromkeys(('scenario', 'user_count', 'item_count'), nothing),
  }
  config = scores.ScoreConfig(num_resamples=200)
  none = scores.ScoreConfig(num_resamples=0)

  def auc(logits: np.ndarray) -> float:
    table = scores.score({**columns, 'prediction': logits}, none)
    return table[scores.ALL].metrics['AUC'].value

  first, other = (scores.sample(columns, [x], config) for x in (peers, ours))
  table = scores.difference(first, other)
  difference = table[scores.ALL].metrics['AUC']
  return {
    'auc': auc(ours),
    'peer_auc': auc(peers),
    'auc_difference': list(difference),
  }


def flops_of_step(model: str) -> float:
  """FLOPs of a step's matrix products; a row uses only its scenario."""
  width = len(FIELDS) * DIM

  def mlp(*widths: int) -> int:
    return sum(a * b for a, b in zip(widths, widths[1:]))

  deep = mlp(width, *WIDTHS)
  last = WIDTHS[-1]
  expert = mlp(width, *EXPERT_WIDTHS)
  top = EXPERT_WIDTHS[-1]
  shared, own = NUM_EXPERTS, NUM_SPECIFIC
  tower = mlp(top, *TOWER_WIDTHS, 1)
  products = {
    'mlp': deep + last,
    'deepfm': deep + last,
    'dcnv2': deep + last + width + CROSS_LAYERS * width * width,
    'shared_bottom': deep + mlp(last, *TOWER_WIDTHS, 1),
    'mmoe': shared * (expert + width) + tower,
    'ple': (shared + own) * (expert + width) + tower,
    'finalmlp': 2 * deep + (width + 2) * width + last * (2 + last // NUM_HEADS),
    'masknet': NUM_BLOCKS * width * (2 * MASK_RATIO * width + BLOCK_WIDTH)
    + mlp(NUM_BLOCKS * BLOCK_WIDTH, *WIDTHS, 1),
  }
  return 6.0 * BATCH * products[model]


def _has(loader: str, model: str, model_zoo: str) -> bool:
  """Whether a peer has a model, and is installed."""
  if not loader.startswith('fuxictr'):
    return model not in ZOO
  is_there = model in FUXICTR_MODELS or (model in ZOO and bool(model_zoo))
  return is_there and machine.peers_have('fuxictr')


def _lines(
  config: Config, model: str, seed: int, folder: pathlib.Path
) -> Iterator[dict[str, Any]]:
  """Trains one model on all sides; yields a line per loader of the peers."""
  path = str(folder / 'problem.npz')
  zoo = config.model_zoo
  loaders = [x for x in config.loaders if _has(x, model, zoo)]
  if not loaders:
    return
  peer = harness.Side(is_peer=True, threads=config.threads)
  sides = {'antjax': harness.OURS} | dict.fromkeys(loaders, peer)
  with harness.workers(sides, model) as workers:
    workers['antjax'].make(
      'benchmarks.ctr_form:Form',
      model=model,
      folder=config.data,
      run_dir=str(folder / model),
      seed=seed,
      problem=path,
      norm=config.norm,
      steps_per_call=config.steps_per_call,
    )
    for loader in loaders:
      is_fuxictr = loader.startswith('fuxictr')
      kind = 'fuxictr' if is_fuxictr else 'peers'
      options = {'model': model, 'loader': loader, 'problem': path}
      if is_fuxictr:
        options['model_zoo'] = zoo
      workers[loader].make(
        f'benchmarks.ctr_{kind}:Peer', **options, norm=config.norm, seed=seed
      )
    problem = harness.load(path)
    test = {name: problem[f'test.{name}'] for name in ('label', 'user')}
    steps = round(config.epochs * len(problem['train.label']) / BATCH)
    edges = np.linspace(0, steps, config.blocks + 1).astype(int)
    rates: dict[str, list[float]] = {name: [] for name in workers}
    layers = []
    for worker in workers.values():  # Compiles one step, and several.
      worker.order('train', num_steps=2 * config.steps_per_call + 1)
    for size in np.diff(edges).tolist():
      for name, worker in workers.items():
        time.sleep(harness.PAUSE_S)
        rates[name].append(worker.order('rows_per_s', steps=size))
      layers.append(workers['antjax'].order('layers_s'))
    logits = {}
    for name, worker in workers.items():
      written = str(folder / f'{name}.npy')
      worker.order('write_logits', path=written)
      logits[name] = np.load(written)
    flops_per_s = workers['antjax'].order('matmul_flops_per_s')
    layers_s = statistics.median(layers)
  ours = statistics.median(rates['antjax'])
  for loader in loaders:
    theirs = statistics.median(rates[loader])
    yield {
      'model': model,
      'peer': 'FuxiCTR' if 'fuxictr' in loader else 'torch-rechub',
      'loader': loader,
      'seed': seed,
      'norm': config.norm,
      'steps_per_call': config.steps_per_call,
      'rows_per_s': round(ours),
      'peer_rows_per_s': round(theirs),
      'ratio': ours / theirs,
      **compared(logits['antjax'], logits[loader], test),
      'flops_bound_s': flops_of_step(model) / flops_per_s,
      'step_s': BATCH / ours,
      'layers_s': layers_s,
      'step_of_layers': BATCH / ours / layers_s,
      'steps': steps,
      'spread': {name: harness.min_max(x) for name, x in rates.items()},
    }


def main(config: Config) -> None:
  models = harness.choose('models', config.models, {n: n for n in MODELS})
  harness.choose('loaders', config.loaders, dict.fromkeys(LOADERS))
  facts = harness.start(dtype='float32', torch_threads=config.threads)
  with tempfile.TemporaryDirectory() as folder:
    for model, seed in itertools.product(models, config.seeds):
      own = pathlib.Path(folder, f'{model}_{seed}')
      own.mkdir()
      for line in _lines(config, model, seed, own):
        harness.emit(line | facts)


if __name__ == '__main__':
  harness.run(main, Config())
