# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic click logs in AntM2C's file format, with a planted structure.

The data of `SyntheticConfig` are made up; nothing of them is Ant Group's. A
click of user u on item i in scenario s at time t has the log-odds

  b_s + drift_s t                      how clicky a scenario is, and becomes
  + scale (u . v_i) / sqrt(D)          tastes: the same in all scenarios
  + twist (u . R_s v_i) / sqrt(D)      R_s: signs of the scenario's own
  + effect_s[deep_features_0 of u]     a profile that the scenarios read each
                                       in its own way, summing to 0 over them
  + color p_u (redness_i - 1/2)        the image; p_u > 0 is deep_features_5
  + slope deep_features_19 + trend_topic(i) t

v_i is the vector of the item's topic plus a little of its own. Its title and
entities spell the topic out, a user's bills, services and queries are drawn by
taste, and the image shows the redness: so items and users without a click yet
can be foretold from text and image. Some items come late (`new_items`), and so
do some users. An item is at home in one scenario; `shared_items` of them are
shown in all, and only those make the scenarios' effects strictly invisible to a
model that does not know the scenario.
"""

import dataclasses
from typing import Annotated

import numpy as np

DIM = 8  # D, of tastes.
FIRST_DAY = np.datetime64('2023-07-10', 's').astype(np.int64)
NUM_DAYS = 31
NUM_SCENES = 5
# Rows of the scenarios and their click rates, about as in the public files.
_SHARES = np.array([653_257, 2_757_994, 5_698_072, 1_269_308, 812_354])
_BIASES = np.array([-1.6, -1.0, -0.6, -1.4, -1.2])
_NUM_PROFILES = 12
CHUNK = 1 << 16  # Rows that are made at once.
# Topics and their words.
TOPICS = {
  'coffee': ('latte', 'espresso', 'cappuccino', 'mocha', 'cold-brew'),
  'tea': ('green-tea', 'oolong', 'matcha', 'milk-tea', 'jasmine-tea'),
  'bakery': ('croissant', 'bagel', 'baguette', 'muffin', 'sourdough'),
  'noodles': ('ramen', 'udon', 'soba', 'pho', 'wonton-soup'),
  'pizza': ('margherita', 'calzone', 'pepperoni', 'focaccia', 'four-cheese'),
  'fruit': ('mango', 'lychee', 'peach', 'cherry', 'pomelo'),
  'seafood': ('shrimp', 'crab', 'oyster', 'salmon', 'squid'),
  'hotpot': ('spicy-hotpot', 'mutton-slices', 'tofu-skin', 'broth', 'tripe'),
  'taxi': ('airport-ride', 'car-sharing', 'taxi', 'limousine', 'night-ride'),
  'metro': ('metro-card', 'bus-pass', 'tram-ticket', 'commuter', 'transit'),
  'hotel': ('guesthouse', 'hostel', 'resort', 'hotel-room', 'homestay'),
  'flights': ('air-ticket', 'boarding', 'luggage', 'stopover', 'red-eye'),
  'trains': ('bullet-train', 'sleeper', 'railway', 'rail-pass', 'platform'),
  'cinema': ('film-ticket', 'premiere', 'popcorn', 'matinee', 'blockbuster'),
  'games': ('console', 'strategy-game', 'esports', 'puzzle', 'arcade'),
  'music': ('concert', 'violin', 'karaoke', 'playlist', 'piano'),
  'books': ('novel', 'bookshop', 'poetry', 'comics', 'audiobook'),
  'fitness': ('gym', 'yoga', 'swimming', 'treadmill', 'pilates'),
  'football': ('football', 'goalkeeper', 'league', 'stadium', 'penalty'),
  'cosmetics': ('lipstick', 'perfume', 'mascara', 'face-mask', 'sunscreen'),
  'fashion': ('sneakers', 'denim', 'silk-dress', 'handbag', 'parka'),
  'phones': ('smartphone', 'earbuds', 'charger', 'phone-case', 'data-plan'),
  'pets': ('cat-food', 'dog-leash', 'aquarium', 'veterinary', 'kitten'),
  'medicine': ('pharmacy', 'clinic', 'vitamins', 'dentist', 'vaccination'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
  """How much is made up, and what is planted in it."""

  num_rows: Annotated[int, 'Number of rows in all parts.'] = 1_000_000
  num_users: Annotated[int, 'Number of users.'] = 20_000
  num_items: Annotated[int, 'Number of items.'] = 8_000
  num_parts: Annotated[int, 'Number of files.'] = 3
  shared_items: Annotated[float, 'Share of items in all scenarios.'] = 0.3
  new_items: Annotated[float, 'Share of items new after day one.'] = 0.3
  new_users: Annotated[float, 'Share of users new after day one.'] = 0.2
  scale: Annotated[float, 'Weight of tastes in all scenarios.'] = 1.6
  twist: Annotated[float, 'Weight of the tastes specific to a scenario.'] = 1.2
  profile: Annotated[float, "Weight of the user's profile."] = 0.8
  color: Annotated[float, 'Weight of the color of the image.'] = 1.2
  position: Annotated[float, 'Weight of deep_features_19.'] = -0.8
  drift: Annotated[float, 'Change of a topic over the period.'] = 0.8
  empty_text: Annotated[float, 'Share of user texts that are empty.'] = 0.2
  seed: Annotated[int, 'Seed of all random numbers.'] = 0

  def __post_init__(self) -> None:
    least = (self.num_rows, self.num_users, self.num_items, self.num_parts)
    if min(least) < 1 or self.num_items < NUM_SCENES:
      raise ValueError(
        f'num_rows={self.num_rows}, num_users={self.num_users} and num_parts='
        f'{self.num_parts} must be at least 1, num_items={self.num_items} at'
        f' least {NUM_SCENES}.'
      )
    shares = (self.shared_items, self.new_items, self.new_users)
    if not all(0 <= x < 1 for x in (*shares, self.empty_text)):
      raise ValueError(
        f'shared_items={self.shared_items}, new_items={self.new_items},'
        f' new_users={self.new_users} and empty_text={self.empty_text} must be'
        ' from 0 to below 1.'
      )


class World:
  """Users and items with what is true of them, drawn by the seed.

  N users, I items, T topics, S scenarios.
  """

  def __init__(self, config: SyntheticConfig):
    """Draws users, items and effects."""
    self.config = config
    rng = np.random.default_rng((config.seed, 0))
    num_users, num_items = config.num_users, config.num_items
    num_topics = len(TOPICS)
    # Tastes float32: of topics [T, D], of users [N, D].
    self.topics = rng.normal(size=(num_topics, DIM)).astype(np.float32)
    self.users = rng.normal(size=(num_users, DIM)).astype(np.float32)
    self.topic = rng.integers(0, num_topics, num_items)  # Of each item, [I].
    own = rng.normal(size=(num_items, DIM)).astype(np.float32)
    home = rng.choice(
      NUM_SCENES, num_items, p=np.full(NUM_SCENES, 1 / NUM_SCENES)
    )
    home[:NUM_SCENES] = np.arange(NUM_SCENES)  # None is without an item.
    is_shared = rng.random(num_items) < config.shared_items
    is_shared[:NUM_SCENES] = False
    self.home = np.where(is_shared, -1, home)  # Scenario, -1 for all [I].
    # Effects of the profiles, [S, profiles].
    effects = rng.normal(size=(NUM_SCENES, _NUM_PROFILES))
    self.effects = effects - effects.mean(0)
    # Time of the first row a user can have, from 0 to 1, rising [N].
    self.user_from = _arrivals(rng, num_users, config.new_users)
    # What a profile (deep_features_0) says of a user's taste is little, [N].
    mixed = self.users[:, 0] * 7 + rng.integers(0, 9, num_users)
    self.profile = np.abs(mixed).astype(np.int64) % _NUM_PROFILES
    # p_u, -1 or 1 [N].
    self.likes_red = rng.choice([-1.0, 1.0], num_users, p=[0.2, 0.8])
    vectors = 0.9 * self.topics[self.topic] + 0.45 * own
    self.items = vectors.astype(np.float32)  # [I, D].
    self.item_from = _arrivals(rng, num_items, config.new_items)  # [I].
    self.redness = rng.random(num_items)  # Of each item's image, [I].
    self.price = rng.random(num_items)
    # R_s, the diagonals [S, D]; trends of topics [T]; drifts [S].
    signs = rng.choice([-1.0, 1.0], (NUM_SCENES, DIM))
    self.signs = signs.astype(np.float32)
    self.trends = rng.normal(size=num_topics)
    self.drifts = rng.normal(size=NUM_SCENES) * 0.3
    # Items that each scenario can show, in the order of item_from.
    self.by_scene = [
      np.flatnonzero((self.home == scene) | is_shared)
      for scene in range(NUM_SCENES)
    ]


def _arrivals(rng: np.random.Generator, num: int, share: float) -> np.ndarray:
  """Times from 0 to 1, rising: most at 0, `share` of them later."""
  num_new = int(num * share)
  late = np.sort(rng.random(num_new))
  return np.concatenate([np.zeros(num - num_new), late])


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Rows with what is true of them, [n] each."""

  first: int  # Number of the first one.
  time: np.ndarray  # Seconds since 1970.
  scene: np.ndarray
  user: np.ndarray
  item: np.ndarray
  position: np.ndarray  # deep_features_19.
  probability: np.ndarray  # Of a click.
  label: np.ndarray
  rng: np.random.Generator  # For what does not matter to the click.


def rows(world: World, number: int) -> Rows:
  """Draws a chunk of `CHUNK` rows.

  Each has a generator of its own, so that a row depends on no other chunk.
  """
  rng = np.random.default_rng((world.config.seed, 1, number))
  moment = rng.random(CHUNK)
  scene = rng.choice(NUM_SCENES, CHUNK, p=_SHARES / _SHARES.sum())
  # Few users do much: the density falls with the square root of the number.
  there = np.searchsorted(world.user_from, moment, side='right')
  user = (there * rng.random(CHUNK) ** 2).astype(np.int64)
  item = np.empty(CHUNK, np.int64)
  for place, shown in enumerate(world.by_scene):
    mine = np.flatnonzero(scene == place)
    come = np.searchsorted(world.item_from[shown], moment[mine], side='right')
    # What came last is shown most: items without a click yet matter.
    among = (come * (1 - rng.random(len(mine)) ** 1.5)).astype(np.int64)
    among = np.minimum(among, come - 1)
    item[mine] = shown[among]
  position = rng.random(CHUNK)
  logits = log_odds(world, moment, scene, user, item, position)
  probability = 1 / (1 + np.exp(-logits))
  time = FIRST_DAY + (moment * (NUM_DAYS * 86_400 - 1)).astype(np.int64)
  label = rng.random(CHUNK) < probability
  first = number * CHUNK
  return Rows(first, time, scene, user, item, position, probability, label, rng)


def log_odds(
  world: World,
  moment: np.ndarray,
  scene: np.ndarray,
  user: np.ndarray,
  item: np.ndarray,
  position: np.ndarray,
) -> np.ndarray:
  """The log-odds of clicks, float64 [n], as the module says.

  `moment` is the time from 0 to 1, `position` deep_features_19, each [n].
  """
  config = world.config
  match = world.users[user] * world.items[item]
  weights = config.scale + config.twist * world.signs[scene]
  taste = np.einsum('nd,nd->n', match, weights) / np.sqrt(DIM)
  profile = world.effects[scene, world.profile[user]]
  red = world.likes_red[user] * (world.redness[item] - 0.5)
  return (
    _BIASES[scene]
    + world.drifts[scene] * moment
    + taste
    + config.profile * profile
    + 2 * config.color * red
    + config.position * position
    + config.drift * world.trends[world.topic[item]] * (moment - 0.5)
  )
