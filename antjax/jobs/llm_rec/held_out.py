# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Held-out examples, the same for every model, and tables of their scores."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from absl import logging
import numpy as np
import rich.table

from antjax.ctr.llm_rec import evaluation, negatives, new_items
from antjax.ctr.llm_rec.evaluation import RankedExamples
from antjax.data.sequence_data import SequenceData
from antjax.jobs.llm_rec.config import HeldOutConfig, SequencesConfig
from antjax.metrics import rank_metrics
from antjax.report import terminal

# Kind of ranking -> what the targets are ranked among.
KINDS = {
  evaluation.SAMPLED: 'among drawn items of the domain',
  evaluation.FULL: 'among all items',
}
# Bins of a target's training events, and of a history's length.
_COUNTS = ((0, 0), (1, 4), (5, 19), (20, 99), (100, None))
_LENGTHS = ((1, 3), (4, 7), (8, 15), (16, None))


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Examples [U] of a split with what there is to know of them."""

  users: np.ndarray
  target_domains: np.ndarray
  parts: dict[str, np.ndarray]  # Masks by name, see `rank_metrics.parts`.
  examples: RankedExamples

  def __len__(self) -> int:
    return len(self.users)


def held_out(
  data: SequenceData, split: str, config: HeldOutConfig
) -> tuple[HeldOut, HeldOut | None]:
  """Draws examples of a split, and those of cold items, if any are asked for.

  Raises:
    ValueError: The split has no example.
  """
  user, position = data.examples(split)
  if not len(user):
    raise ValueError(
      f'split={split}: {data.description["name"]} has no example of it with'
      f' split={data.split}.'
    )
  rng = np.random.default_rng([config.seed, len(user)])
  everything = np.arange(len(user))
  chosen = _draw(rng, everything, config.num_examples or len(user))
  whole = _of(data, user[chosen], position[chosen], config)
  if not config.num_cold:
    return whole, None
  targets = data.all_events.targets(user, position)
  cold = _draw(rng, everything[data.counts[targets] == 0], config.num_cold)
  if not len(cold):
    return whole, None
  return whole, _of(data, user[cold], position[cold], config)


def validation(
  data: SequenceData, config: SequencesConfig, *, with_cold: bool = False
) -> tuple[HeldOut, HeldOut | None]:
  """Examples that choose, and as many of cold items where asked for."""
  num = config.validation_examples
  options = dataclasses.replace(
    config.held_out,
    num_examples=num,
    num_cold=(num or data.num_items) * with_cold,
  )
  return held_out(data, 'validation', options)


def choose_new(
  model: Any,
  data: SequenceData,
  config: SequencesConfig,
  is_new_N: np.ndarray,
  *,
  loss_of_ndcg: float,
  with_factor: Callable[[float], Any] | None = None,
  additions: np.ndarray = new_items.ADDITIONS,
) -> tuple[float, float]:
  """Factor and c of new items by validation examples, see `new_items`."""
  whole, cold = validation(data, config, with_cold=True)

  def scored(mine: HeldOut) -> new_items.ScoredExamples:
    return new_items.scored(model, mine.examples, is_new_N, with_factor)

  factor, bias = new_items.choose(
    scored(whole),
    None if cold is None else scored(cold),
    loss_of_ndcg=loss_of_ndcg,
    additions=additions,
  )
  logging.info(
    'Scores of %d items without training events: %g times, %+.3f.',
    *(is_new_N[1:].sum(), factor, bias),
  )
  return factor, bias


def _draw(
  rng: np.random.Generator, from_index: np.ndarray, num: int
) -> np.ndarray:
  """Some of the numbers, in order."""
  size = min(num, len(from_index))
  return np.sort(rng.choice(from_index, size, replace=False))


def _of(
  data: SequenceData,
  user: np.ndarray,
  position: np.ndarray,
  config: HeldOutConfig,
) -> HeldOut:
  targets = data.all_events.targets(user, position)

  def history(index: np.ndarray) -> np.ndarray:
    return data.all_events.whole_histories(user[index], position[index])

  num_trained = np.maximum(data.training().lengths - 1, 0)
  parts = rank_metrics.parts(
    data.domains[targets],
    data.domain_names,
    data.num_domains[user],
    data.counts[targets],
    num_trained[user],
  )
  drawn = negatives.draw(
    data.domains,
    user,
    targets,
    history(np.arange(len(user))),
    num=config.num_negatives,
    seed=config.seed,
    exclude_seen=config.exclude_seen,
  )
  return HeldOut(
    user, data.domains[targets], parts, RankedExamples(targets, drawn, history)
  )


def scores(
  ranks: Mapping[str, np.ndarray], held_out: HeldOut
) -> dict[str, dict[str, Any]]:
  """{'sampled' or 'full': {part: {metric: value}}}, JSON-able: None for nan."""
  return {
    kind: {
      part: {name: None if x != x else x for name, x in row.items()}
      for part, row in rank_metrics.scores(values, held_out.parts).items()
    }
    for kind, values in ranks.items()
  }


def slices(data: SequenceData, held_out: HeldOut) -> dict[str, np.ndarray]:
  """Masks by the target's events and the history's length, if not empty."""
  history = held_out.examples.history_fn(np.arange(len(held_out)))
  columns = {
    'events': (data.counts[held_out.examples.targets], _COUNTS),
    'history': ((history > 0).sum(axis=1), _LENGTHS),
  }
  found = {}
  for name, (values, bins) in columns.items():
    for low, high in bins:
      mask = (values >= low) & (True if high is None else values <= high)
      if mask.any():
        label = f'{low}+' if high is None else f'{low}-{high}'
        found[f'{name} {label}'] = mask
  return found


def show(found: dict[str, Any], metric: str = 'ndcg@10') -> None:
  """One line a method, one column a part of the examples that has any."""
  for kind, title in KINDS.items():
    rows = {m: _cells(results, kind) for m, results in found.items()}
    first = next(iter(rows.values()))
    parts = [part for part, row in first.items() if row['examples']]
    table = rich.table.Table(title=f'{metric} {title}')
    table.add_column('method', no_wrap=True)
    for part in parts:
      count = first[part]['examples']
      name = part.removeprefix('domain/').replace('_', '\n')
      table.add_column(f'{name}\n({count:,})', justify='right')
    for method, row in rows.items():
      table.add_row(method, *(f'{row[part][metric]:.3f}' for part in parts))
    terminal.show(table)


def _cells(results: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
  """Part -> scores, with the examples of cold items behind the others."""
  found = dict(results['test'][kind])
  if 'cold' in results:
    found['cold_item,_apart'] = results['cold'][kind][rank_metrics.ALL]
  return found
