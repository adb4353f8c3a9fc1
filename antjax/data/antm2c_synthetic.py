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

from antjax.data import antm2c_words

DIM = 8  # D, of tastes.
FIRST_DAY = np.datetime64('2023-07-10', 's').astype(np.int64)
NUM_DAYS = 31
NUM_SCENES = 5
# Rows of the scenarios and their click rates, about as in the public files.
_SHARES = np.array([653_257, 2_757_994, 5_698_072, 1_269_308, 812_354])
_BIASES = np.array([-1.6, -1.0, -0.6, -1.4, -1.2])
_NUM_PROFILES = 12
CHUNK = 1 << 16  # Rows that are made at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
  """How much is made up, and what is planted in it."""

  num_rows: Annotated[int, 'Rows of all parts.'] = 1_000_000
  num_users: Annotated[int, 'Users.'] = 20_000
  num_items: Annotated[int, 'Items.'] = 8_000
  num_parts: Annotated[int, 'Files.'] = 3
  shared_items: Annotated[float, 'Share of items shown in all scenarios.'] = 0.3
  new_items: Annotated[float, 'Share of items that come after day one.'] = 0.3
  new_users: Annotated[float, 'Share of users who come after day one.'] = 0.2
  scale: Annotated[float, 'Weight of tastes shared by the scenarios.'] = 1.6
  twist: Annotated[float, "Weight of the scenarios' own tastes."] = 1.2
  profile: Annotated[float, "Weight of the profile's effect."] = 0.8
  color: Annotated[float, 'Weight of the color of the image.'] = 1.2
  position: Annotated[float, 'Weight of deep_features_19, 0 to 1.'] = -0.8
  drift: Annotated[float, 'Change of a topic over the whole time.'] = 0.8
  empty_text: Annotated[float, 'Share of empty texts of a user.'] = 0.2
  seed: Annotated[int, 'Seed of everything.'] = 0

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


@dataclasses.dataclass(frozen=True, eq=False)
class World:
  """Users and items with what is true of them; N users, I items, T topics.

  Attributes:
    config: Settings that it was made with.
    users: Tastes float32 [N, D].
    user_from: Time of the first row a user can have, from 0 to 1 [N]; rising.
    profile: deep_features_0 of users [N].
    likes_red: p_u, -1 or 1 [N].
    topic: Topic of each item, [I].
    items: Vectors float32 [I, D].
    item_from: As user_from [I]; rising.
    home: Scenario of items, -1 for all [I].
    redness: Redness of each item's image, from 0 to 1, [I].
    price: Price of each item, from 0 to 1, [I].
    topics: Vectors float32 [T, D].
    signs: R_s, the diagonals [S, D].
    effects: Effects of the profiles, [S, profiles].
    trends: Trend of each topic, [T].
    drifts: Drift of each scenario, [S].
    by_scene: Items that a scenario can show, in the order of item_from.
  """

  config: SyntheticConfig
  users: np.ndarray
  user_from: np.ndarray
  profile: np.ndarray
  likes_red: np.ndarray
  topic: np.ndarray
  items: np.ndarray
  item_from: np.ndarray
  home: np.ndarray
  redness: np.ndarray
  price: np.ndarray
  topics: np.ndarray
  signs: np.ndarray
  effects: np.ndarray
  trends: np.ndarray
  drifts: np.ndarray
  by_scene: tuple[np.ndarray, ...]

  @classmethod
  def make(cls, config: SyntheticConfig) -> 'World':
    """Draws users, items and effects by the seed."""
    rng = np.random.default_rng((config.seed, 0))
    num_topics = len(antm2c_words.TOPICS)
    topics = rng.normal(size=(num_topics, DIM)).astype(np.float32)
    users = rng.normal(size=(config.num_users, DIM)).astype(np.float32)
    topic = rng.integers(0, num_topics, config.num_items)
    own = rng.normal(size=(config.num_items, DIM)).astype(np.float32)
    home = rng.choice(
      NUM_SCENES, config.num_items, p=np.full(NUM_SCENES, 1 / NUM_SCENES)
    )
    home[:NUM_SCENES] = np.arange(NUM_SCENES)  # None is without an item.
    is_shared = rng.random(config.num_items) < config.shared_items
    is_shared[:NUM_SCENES] = False
    home = np.where(is_shared, -1, home)
    effects = rng.normal(size=(NUM_SCENES, _NUM_PROFILES))
    effects -= effects.mean(0)
    return cls(
      config,
      users,
      _arrivals(rng, config.num_users, config.new_users),
      # What a profile says of a user's taste is little.
      (np.abs(users[:, 0] * 7 + rng.integers(0, 9, len(users)))).astype(
        np.int64
      )
      % _NUM_PROFILES,
      rng.choice([-1.0, 1.0], config.num_users, p=[0.2, 0.8]),
      topic,
      (0.9 * topics[topic] + 0.45 * own).astype(np.float32),
      _arrivals(rng, config.num_items, config.new_items),
      home,
      rng.random(config.num_items),
      rng.random(config.num_items),
      topics,
      rng.choice([-1.0, 1.0], (NUM_SCENES, DIM)).astype(np.float32),
      effects,
      rng.normal(size=num_topics),
      rng.normal(size=NUM_SCENES) * 0.3,
      tuple(
        np.flatnonzero((home == scene) | (home == -1))
        for scene in range(NUM_SCENES)
      ),
    )


def _arrivals(rng: np.random.Generator, num: int, share: float) -> np.ndarray:
  """Times from 0 to 1, rising: most at 0, `share` of them later."""
  num_new = int(num * share)
  late = np.sort(rng.random(num_new))
  return np.concatenate([np.zeros(num - num_new), late])


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Rows with what is true of them, [n] each.

  Attributes:
    first: Number of the first one.
    time: Seconds since 1970.
    scene: Scenario.
    user: User, from 0.
    item: Item, from 0.
    position: deep_features_19.
    probability: Probability of a click.
    label: Whether there was a click.
    rng: Goes on from here, for what does not matter to the click.
  """

  first: int
  time: np.ndarray
  scene: np.ndarray
  user: np.ndarray
  item: np.ndarray
  position: np.ndarray
  probability: np.ndarray
  label: np.ndarray
  rng: np.random.Generator


def num_chunks(config: SyntheticConfig) -> int:
  """How many chunks hold the rows; the last one may hold more than needed."""
  return -(-config.num_rows // CHUNK)


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
  return Rows(
    number * CHUNK,
    time,
    scene,
    user,
    item,
    position,
    probability,
    label,
    rng,
  )


def log_odds(
  world: World,
  moment: np.ndarray,
  scene: np.ndarray,
  user: np.ndarray,
  item: np.ndarray,
  position: np.ndarray,
) -> np.ndarray:
  """The log-odds of clicks, float64 [n], as the module says.

  Args:
    world: Users and items.
    moment: Time, from 0 to 1 [n].
    scene: Scenarios [n].
    user: Users [n].
    item: Items [n].
    position: deep_features_19 [n].
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
