# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains click models and FuxiCTR's from the same weights; compares scores.

  python -m benchmarks.ctr_same_start --data=DIR --model_zoo=FUXICTR/model_zoo

prints a JSON line for each folder, model and seed: AUC of the held-out clicks
for both sides, and the largest difference of a logit, before and after
training. It is for small samples, where the AUC of independent trainings
differs by chance alone. Here both sides start with our weights, and a batch is
all training clicks, so that everything in a step must agree: tables, layers,
norms, loss, gradients and Adam.

Details of FuxiCTR's are set to ours: of two biases that are added, in DeepFM
and FinalMLP, one stays 0; the gates of FinalMLP read the tables of the fields,
not separate ones; running variances are those of batches, not n / (n - 1) of
them. MaskNet has no batch normalization there, all others do. Needs the output
of `launch/prepare_data.py --views=examples`.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import pathlib
import tempfile
from typing import Annotated, Any

import jax
import numpy as np

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.data import output_folder
from benchmarks import ctr_bench, ctr_form, harness

MODELS = ('dcnv2', 'deepfm', 'finalmlp', 'masknet')
_HELD_OUT = ('validation', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  data: Annotated[tuple[str, ...], 'Folders with prepared clicks.'] = ()
  models: Annotated[tuple[str, ...], 'Only these; empty: all.'] = ()
  seeds: Annotated[tuple[int, ...], 'A training for each.'] = (0, 1, 2)
  model_zoo: Annotated[str, "FuxiCTR's folder of models."] = ''
  steps: Annotated[int, 'Steps of a training.'] = 60


class Form(ctr_form.Form):
  """Our side; all ids are fields."""

  def __init__(self, model: str, folder: str, run_dir: str, seed: int):
    """Reads the clicks."""
    self._steps_per_call = 1
    _, described = output_folder.open_view(folder, 'examples')
    config = ctr_form.config_of(
      folder, model, run_dir, 'none' if model == 'masknet' else 'batch'
    )
    config = dataclasses.replace(
      config,
      scenario='none',
      scenario_groups=(),
      batch_size=described['splits']['train']['examples'],
      fields=FieldConfig(
        use=('user', 'item', 'columns', 'numeric'),
        embedding_dim=ctr_bench.DIM,
        learning_rate=ctr_bench.LEARNING_RATE,
        init_scale=0.1,
      ),
    )
    self._data = self._start(config, seed)

  def write_problem(self, path: str) -> None:
    """Writes train.FIELD, test.FIELD (label too), table.FIELD, leaves by path.

    What is held out is test.
    """
    job, arrays = self._job, {}
    for part, splits in (('train', ['train']), ('test', _HELD_OUT)):
      clicks = [self._data.splits[split] for split in splits]
      for name in job.model.field_names:
        arrays[f'{part}.{name}'] = _joined(x.column(name) for x in clicks)
      arrays[f'{part}.label'] = _joined(x.label for x in clicks)
    tables = job.tables.to_canonical(self._state.tables)
    arrays |= {f'table.{name}': x['table'] for name, x in tables.items()}
    params = job.trainer.params(self._state)['model']
    for path_, leaf in jax.tree.leaves_with_path(params):
      arrays[jax.tree_util.keystr(path_, simple=True, separator='/')] = leaf
    harness.save({name: np.asarray(x) for name, x in arrays.items()}, path)

  def write_logits(self, path: str) -> None:
    """Writes the logits of the held-out clicks."""
    found = (self._job.logits(self._state, split) for split in _HELD_OUT)
    np.save(path, _joined(x['prediction'] for x in found))


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
  return np.concatenate([*parts])


def _auc(label: np.ndarray, logits: np.ndarray) -> float:
  pairs = logits[label > 0][:, None] - logits[label == 0]
  return float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


def _line(
  config: Config, data: str, model: str, seed: int, folder: pathlib.Path
) -> dict[str, Any]:
  """Trains on both sides."""
  path = str(folder / 'problem.npz')
  peer = harness.Side(is_peer=True, threads=1)
  with harness.workers({'antjax': harness.OURS, 'fuxictr': peer}) as workers:
    ours, theirs = workers.values()

    def logits() -> Sequence[np.ndarray]:
      found = []
      for name, worker in workers.items():
        written = str(folder / f'{name}.npy')
        worker.order('write_logits', path=written)
        found.append(np.load(written))
      return found

    options = {'model': model, 'run_dir': str(folder), 'seed': seed}
    ours.make('benchmarks.ctr_same_start:Form', folder=data, **options)
    ours.order('write_problem', path=path)
    theirs.make(
      'benchmarks.ctr_same_start_peer:Peer',
      model=model,
      problem=path,
      model_zoo=config.model_zoo,
    )
    start = logits()
    for worker in workers.values():
      worker.order('train', num_steps=config.steps)
    end = logits()
  problem = harness.load(path)
  label = problem['test.label']
  first, (auc, peer_auc) = _auc(label, start[0]), [_auc(label, x) for x in end]
  return {
    'data': pathlib.Path(data).name,
    'model': model,
    'seed': seed,
    'clicks': len(problem['train.label']),
    'held_out': len(label),
    'steps': config.steps,
    'auc_at_start': first,
    'auc': auc,
    'peer_auc': peer_auc,
    'difference': auc - peer_auc,
    'logits_moved_by': float(np.abs(end[0] - start[0]).max()),
    'logits_differ_at_start_by': float(np.abs(start[0] - start[1]).max()),
    'logits_differ_by': float(np.abs(end[0] - end[1]).max()),
  }


def main(config: Config) -> None:
  models = harness.choose('models', config.models, {n: n for n in MODELS})
  facts = harness.start(dtype='float32')
  for data, model, seed in itertools.product(config.data, models, config.seeds):
    with tempfile.TemporaryDirectory() as folder:
      line = _line(config, data, model, seed, pathlib.Path(folder))
    harness.emit(line | facts)


if __name__ == '__main__':
  harness.run(main, Config())
