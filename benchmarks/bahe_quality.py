# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Clicks on MovieLens-1M from text: BAHE and its baselines.

  python -m launch.prepare_data --views=examples
  python -m launch.fetch_model --model=minilm --out=data/minilm
  for k in 3 6; do python -m launch.build_behavior_store --num_low=$k \
    --vocabulary=data/ml-1m/examples/behaviors --model=data/minilm \
    --out=data/ml-1m-minilm-k$k; done
  python -m benchmarks.bahe_quality --out=runs/bahe_quality
  python -m benchmarks.bahe_quality --out=runs/bahe_quality --table

runs launch/train_bahe.py for each seed and method, seeds outermost; completed
runs are not repeated. Methods that read text see nothing else, and share head,
steps, batches and shuffles: `bahe` (layers from k on are trained), `full_text`
(all layers), `frozen` (no layer). `din` reads only ids, of users, films, past
films and demographics; `din_bahe` adds the user vectors of `bahe`. `bahe_long`
and `din_long` run `--long_steps` steps, to use the time that full_text takes.

--table prints Markdown for the complete seeds: means over seeds, and the
difference to `full_text` of the same seed with the 95% interval of Student's t.
"""

import dataclasses
import statistics
import sys
from typing import Annotated, Any

from benchmarks import harness, quality_runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(quality_runs.Config):
  """Settings and paths."""

  data: Annotated[str, 'Prepared texts.'] = 'data/ml-1m'
  model: Annotated[str, 'Language model.'] = 'data/minilm'
  store: Annotated[str, 'Store of its low layers.'] = 'data/ml-1m-minilm-k3'
  whole_store: Annotated[str, 'Store of all layers.'] = 'data/ml-1m-minilm-k6'
  out: str = 'runs/bahe_quality'
  num_steps: Annotated[int, 'Steps of each.'] = 150
  long_steps: Annotated[int, 'Steps of the long ones.'] = 2000
  batch_size: Annotated[int, 'Examples of a step.'] = 64
  max_behaviors: Annotated[int, 'Newest behaviors of a sequence.'] = 8
  max_tokens: Annotated[int, "A sequence's tokens, for full text."] = 160
  eval_examples: Annotated[int, 'Scored examples of each split.'] = 8192
  methods: Annotated[
    tuple[str, ...], 'In this order; din_bahe comes after bahe.'
  ] = (
    *('bahe', 'full_text', 'frozen', 'din', 'bahe_long', 'din_long'),
    'din_bahe',
  )


_REFERENCE = 'full_text'
_SLICES = ('', 'new_item/', 'new_user/')
_METRICS = ('auc', 'gauc')


def run(config: Config, method: str, seed: int) -> bool:
  """Runs one job unless it is done; returns whether it is now."""
  kind = method.removesuffix('_long')
  num_steps = config.long_steps if method != kind else config.num_steps
  options: dict[str, Any] = {
    'tower': {'bahe': 'store'}.get(kind, kind),
    'seed': seed,
    'data': config.data,
    'model': config.model,
    'store': config.store,
    'num_steps': num_steps,
    'optimizer.warmup_steps': num_steps // 10,
    'batch_size': config.batch_size,
    'max_behaviors': config.max_behaviors,
    'max_tokens': config.max_tokens,
    'eval_examples': config.eval_examples,
    'shard_size': 1024,
    'ids.use': '',
    'paro': 'NNN',
    'check_memory': False,
  }
  if kind == 'frozen':
    options['store'] = config.whole_store
  if kind == 'bahe':
    options['export_users'] = True
  if kind.startswith('din'):
    del options['ids.use']
    options |= {'tower': 'none', 'head.kind': 'din'}
  if kind == 'din_bahe':
    vectors = config.folder('bahe', seed) / 'user_embeddings'
    options['user_embeddings'] = vectors
  return quality_runs.run(
    'launch.train_bahe', config.folder(method, seed), options
  )


def load(config: Config, method: str, seed: int) -> dict[str, float] | None:
  """Scores of the test examples, or None if the run is not done."""
  found = config.results(method, seed)
  return found and found['results']['test']


def print_table(config: Config) -> None:
  """Prints Markdown with a line per method; unknown numbers are dashes."""
  seeds = quality_runs.whole(config, load, config.methods)
  columns = [part + metric for part in _SLICES for metric in _METRICS]
  print()
  heading = ['method', *columns, 'auc vs full text']
  quality_runs.print_row(heading, is_heading=True)
  for method in config.methods:
    cells = [method]
    for column in columns:
      values = [runs[method][column] for runs in seeds.values()]
      known = [x for x in values if x is not None and x == x]
      cells.append(f'{statistics.fmean(known):.3f}' if known else '-')
    gap = ''
    if method != _REFERENCE and _REFERENCE in config.methods:
      gap = quality_runs.difference(
        *(
          {seed: runs[name]['auc'] for seed, runs in seeds.items()}
          for name in (method, _REFERENCE)
        )
      )
    quality_runs.print_row([*cells, gap])


def main(config: Config) -> None:
  if config.table:
    print_table(config)
    return
  failed = [
    f'{method}_{seed}'
    for seed in range(config.seeds)
    for method in config.methods
    if not run(config, method, seed)
  ]
  if failed:
    sys.exit(
      f'{config.out}: {", ".join(failed)} failed; see log.txt in their folders.'
    )


if __name__ == '__main__':
  harness.run(main, Config())
