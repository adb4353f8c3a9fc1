# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of click models by scenario and by coldness of users and items.

AUC and GAUC (by user, weighted by rows, without users of one class) measure
order; log-loss and the expected calibration error (ECE) measure probabilities.
ECE is the mean difference of predicted and true click rate over bins of equal
numbers of rows, equal predictions in one bin (Naeini et al. 2015,
https://doi.org/10.1609/aaai.v29i1.9602, has bins of equal width). Noise
increases it: compare it only between parts of similar size.

Intervals are from draws of users; see `antjax.metrics.bootstrap`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Annotated, Any, NamedTuple

from absl import logging
import numpy as np

from antjax.metrics import bootstrap
from antjax.metrics.bootstrap import Estimate, METRICS

# Shape suffixes: N = rows, U = users, R = draws (the first: the data itself).

Columns = Mapping[str, np.ndarray]

LOWER_IS_BETTER = frozenset({'log-loss', 'ECE'})
COLUMNS = ('label', 'user', 'scenario', 'user_count', 'item_count')
ALL = 'all'
WEIGHTED = 'scenarios by rows'  # Mean over scenarios, weighted by rows.
SCENARIO = 'scenario/'
TASK = 'task/'
BUCKETS = ('zero', 'few', 'warm')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreConfig:
  """How predictions are scored."""

  num_resamples: Annotated[
    int, 'Resamples of the users for intervals. 0: no intervals.'
  ] = 100
  seed: Annotated[int, 'Seed of the resamples.'] = 0
  num_bins: Annotated[int, 'Number of bins of the calibration error.'] = 15
  few_users: Annotated[
    int, 'Maximum training rows of users in slice few. Others are warm.'
  ] = 10
  few_items: Annotated[
    int, 'Maximum training rows of items in slice few. Others are warm.'
  ] = 10

  def __post_init__(self) -> None:
    for name in ('num_resamples', 'num_bins', 'few_users', 'few_items'):
      least = int(name != 'num_resamples')
      if getattr(self, name) < least:
        raise ValueError(
          f'{name}={getattr(self, name)}: must be at least {least}.'
        )


class Part(NamedTuple):
  """Scores of some of the rows."""

  rows: int  # Number of rows.
  clicks: int  # Number of clicks among them.
  users: int  # Number of users.
  metrics: dict[str, Estimate]  # Name -> estimate; see `METRICS`.


class Bin(NamedTuple):
  """A bin of a calibration plot: mean prediction and click rate."""

  prediction: float
  clicks: Estimate
  rows: int


def score(
  columns: Columns,
  config: ScoreConfig,
  scenario_names: Sequence[str] | None = None,
) -> dict[str, Part]:
  """Scores of one model.

  Args:
    columns: 'prediction' (a logit), 'label' (0 or 1), 'user' and 'scenario'
      (integers), 'user_count' and 'item_count' (their training rows), [N] each.
    config: How the rows are scored.
    scenario_names: Names of scenarios 0, 1, ...; their numbers by default.

  Returns:
    Part -> scores: `ALL`, `WEIGHTED`, 'scenario/<name>', 'item/zero' (and few,
    warm), 'user/zero' ..., 'scenario/<name>/item/zero' ... Parts without rows
    are left out, as is a single scenario, which equals `ALL`. If any prediction
    is not finite, all scores are nan.

  Raises:
    ValueError: A column is missing, has another length or no click labels.
  """
  chosen = _parts_of(columns, config, scenario_names)
  values, rows = _by_part(columns, chosen, config)
  return _table(columns, chosen, values, rows)


def task(label: str, after: str = '') -> str:
  """Name of a label's part: all rows, or those where label `after` is 1."""
  return f'{TASK}{label} after {after}' if after else f'{TASK}{label}'


def tasks(
  columns: Columns,
  labels: Mapping[str, np.ndarray],
  logits: Mapping[str, np.ndarray],
  config: ScoreConfig,
) -> dict[str, Part]:
  """Scores of the labels of a model, beside those of the first from `score`.

  Args:
    columns: See `score`.
    labels: Name -> [N], 0 or 1, in the model's order.
    logits: Part, from `task` -> [N].
    config: See `score`.

  Returns:
    Part -> scores. A label after another is scored on the rows where that one
    and all before it are 1. Parts without rows are left out. Ones of the label
    are counted as clicks.
  """
  table, before, last = {}, np.ones(len(columns['label']), bool), ''
  for name, label in labels.items():
    for part, rows in ((task(name), before | True), (task(name, last), before)):
      if part in logits and part not in table and rows.any():
        x = {key: np.asarray(column)[rows] for key, column in columns.items()}
        x['prediction'] = logits[part][rows]
        x['label'] = (label[rows] > 0).astype(np.int32)
        whole = np.ones(len(x['label']), bool)
        values, _ = _by_part(x, {ALL: whole}, config)
        table[part] = _part(x, whole, values[ALL])
    before, last = before & (label > 0), name
  return table


class Sampled(NamedTuple):
  """Scores of a model's training runs over draws of users, from `sample`."""

  columns: Columns  # Columns as for `score`; 'prediction' is not read.
  chosen: dict[str, np.ndarray]  # Part -> bool [N], its rows.
  values: dict[str, np.ndarray]  # Part -> [training runs, R, metrics].
  rows: dict[str, np.ndarray]  # Part -> rows of each draw, [R].


def sample(
  columns: Columns,
  logits: Sequence[np.ndarray],
  config: ScoreConfig,
  scenario_names: Sequence[str] | None = None,
) -> Sampled:
  """Scores of one model for `difference`, from each training run's logits [N].

  Takes the columns of `score`, where 'prediction' may be missing.
  """
  each = [{**columns, 'prediction': x} for x in logits]
  chosen = _parts_of(each[0], config, scenario_names)
  scored = [_by_part(x, chosen, config) for x in each]
  values = {name: np.stack([v[name] for v, _ in scored]) for name in chosen}
  return Sampled(each[0], chosen, values, scored[0][1])


def difference(
  first: Sampled, other: Sampled, seed: int = 0
) -> dict[str, Part]:
  """Scores of another model minus those of the first, on the same rows.

  Both are means over training runs. Both use the same draws of users, so that
  rows that are easy or hard for both do not widen the interval: an interval
  without 0 separates the models. With several runs each draw also shifts each
  model's mean by its standard error times a draw from Student's distribution,
  which is wide for few runs.
  """
  rng = np.random.default_rng(seed)
  means = []
  for sampled in (first, other):
    num, num_draws = next(iter(sampled.values.values())).shape[:2]
    move_R1 = np.zeros((num_draws, 1))
    if num > 1:
      move_R1[1:, 0] = rng.standard_t(num - 1, size=num_draws - 1) / num**0.5
    means.append(
      {
        name: x.mean(0) + move_R1 * x[:, 0].std(0, ddof=min(1, num - 1))
        for name, x in sampled.values.items()
      }
    )
  values = {name: means[1][name] - means[0][name] for name in first.chosen}
  return _table(first.columns, first.chosen, values, first.rows)


def calibration(columns: Columns, config: ScoreConfig) -> list[Bin]:
  """Bins of a calibration plot, of all rows; see `score`."""
  _check(columns)
  order = np.argsort(columns['prediction'], kind='stable')
  logit_N = columns['prediction'][order].astype(np.float64)
  users, user_N = np.unique(columns['user'][order], return_inverse=True)
  bin_N = bootstrap.bins(logit_N, config.num_bins)
  click_N = columns['label'][order].astype(np.float64)
  clicks_UK, rows_UK, predicted_UK = (
    bootstrap.sums_by_bin(user_N, bin_N, x, len(users), config.num_bins)
    for x in (click_N, np.ones_like(logit_N), bootstrap.sigmoid(logit_N))
  )
  weights_RU = bootstrap.draws(len(users), config.num_resamples, config.seed)
  shares = []
  with np.errstate(invalid='ignore', divide='ignore'):
    for weight_U in weights_RU:
      weight_U = weight_U.astype(np.float64)
      shares.append((weight_U @ clicks_UK) / (weight_U @ rows_UK))
  rows = rows_UK.sum(axis=0)
  return [
    Bin(
      float(predicted_UK[:, i].sum() / rows[i]),
      bootstrap.estimate(np.asarray(shares)[:, i]),
      int(rows[i]),
    )
    for i in np.flatnonzero(rows)
  ]


def as_json(table: Mapping[str, Part]) -> dict[str, Any]:
  """A table as plain values; None for nan, which JSON lacks."""
  return {
    name: part._asdict()
    | {
      'metrics': {
        k: [x if math.isfinite(x) else None for x in e]
        for k, e in part.metrics.items()
      }
    }
    for name, part in table.items()
  }


def from_json(table: Mapping[str, Any]) -> dict[str, Part]:
  """The inverse of `as_json`."""
  return {
    name: Part(**part)._replace(
      metrics={
        k: Estimate(*(math.nan if x is None else x for x in e))
        for k, e in part['metrics'].items()
      }
    )
    for name, part in table.items()
  }


def _parts_of(columns, config, scenario_names) -> dict[str, np.ndarray]:
  """Name of a part -> bool [N], for parts with rows."""
  _check(columns)
  found = {ALL: np.ones(len(columns['label']), bool)}
  for i in np.unique(columns['scenario']).tolist():
    if scenario_names is not None and not 0 <= i < len(scenario_names):
      raise ValueError(
        f'scores: scenario {i} has no name among {list(scenario_names)}.'
      )
    name = i if scenario_names is None else scenario_names[i]
    found[f'{SCENARIO}{name}'] = columns['scenario'] == i
  if len(scenario_names or list(found)[1:]) == 1:  # It equals `ALL`.
    found = {ALL: found[ALL]}
  scenarios = list(found)[1:]
  for kind, few in (('item', config.few_items), ('user', config.few_users)):
    count = columns[f'{kind}_count']
    buckets = count == 0, (count > 0) & (count <= few), count > few
    for bucket, rows in zip(BUCKETS, buckets, strict=True):
      found[f'{kind}/{bucket}'] = rows
      for scenario in scenarios:
        found[f'{scenario}/{kind}/{bucket}'] = found[scenario] & rows
  return {name: rows for name, rows in found.items() if rows.any()}


def is_scenario(part: str) -> bool:
  """Whether a part is a whole scenario."""
  return part.startswith(SCENARIO) and not part.endswith(
    tuple(
      f'/{kind}/{bucket}' for kind in ('item', 'user') for bucket in BUCKETS
    )
  )


def _check(columns: Columns) -> None:
  """Raises ValueError for columns that cannot be scored."""
  names = 'prediction', *COLUMNS
  if missing := [name for name in names if name not in columns]:
    raise ValueError(
      f'scores: no column {", ".join(missing)}; there are {sorted(columns)}.'
    )
  size = len(columns['label'])
  if not size:
    raise ValueError('scores: there are no rows.')
  for name in names:
    if np.shape(columns[name]) != (size,):
      raise ValueError(
        f'scores: column {name} has shape {np.shape(columns[name])}; there are'
        f' {size} labels.'
      )
  if not np.isin(columns['label'], (0, 1)).all():
    raise ValueError('scores: labels must be 0 or 1; turn ratings into clicks.')


def _by_part(columns, chosen, config):
  """Part -> metrics [R, metrics], and part -> rows [R]."""
  _check(columns)
  prediction = columns['prediction']
  num_draws = 1 + config.num_resamples
  if not np.isfinite(prediction).all():
    logging.warning(
      'Some predictions are not finite: the model has diverged, its scores have'
      ' no value.'
    )
    nothing = np.full((num_draws, len(METRICS)), np.nan)
    return dict.fromkeys(chosen, nothing), dict.fromkeys(
      chosen, np.ones(num_draws)
    )
  users, user_N = np.unique(columns['user'], return_inverse=True)
  counts_RU = bootstrap.draws(len(users), config.num_resamples, config.seed)
  order = np.argsort(prediction, kind='stable')
  logit_N = prediction[order].astype(np.float64)
  is_click_N, user_N = columns['label'][order] > 0, user_N[order]
  values, num_rows = {}, {}
  for name, is_chosen in chosen.items():
    rows = is_chosen[order]
    values[name], num_rows[name] = bootstrap.click_metrics(
      logit_N[rows], is_click_N[rows], user_N[rows], counts_RU, config.num_bins
    )
  return values, num_rows


def _table(columns, chosen, values, num_rows) -> dict[str, Part]:
  """Combines values [R, metrics] of parts with their sizes."""
  scenarios = [name for name in chosen if is_scenario(name)]
  if scenarios:
    rows = np.stack([num_rows[name] for name in scenarios])[..., None]
    mean = _weighted_mean(np.stack([values[name] for name in scenarios]), rows)
    values = {**values, WEIGHTED: mean}
    chosen = {ALL: chosen[ALL], WEIGHTED: chosen[ALL], **chosen}
  return {name: _part(columns, chosen[name], values[name]) for name in chosen}


def _part(columns, rows, values) -> Part:
  """Scores of bool `rows` from values [R, metrics]."""
  return Part(
    int(np.sum(rows)),
    int(np.sum(columns['label'][rows])),
    len(np.unique(columns['user'][rows])),
    dict(zip(METRICS, map(bootstrap.estimate, values.T), strict=True)),
  )


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Over the first dim, without nan."""
  weights = np.where(np.isfinite(values), weights, 0)
  with np.errstate(invalid='ignore'):
    return np.sum(weights * np.nan_to_num(values), axis=0) / weights.sum(axis=0)
