# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks of one's own: what a class must have, and what is said without."""

import dataclasses

from flax import nnx
import jax.numpy as jnp
import pytest

from antjax import config as config_lib
from antjax.networks import load
from antjax.networks.network import Sized
from tests.jobs.my_model import Net
from tests.networks.small_inputs import inputs, SIZES

HERE = 'tests.networks.load_test'


class NoModule:
  """A class of another framework."""


class NoNeeds(Net):
  """One whose needs are misspelt."""

  needs = frozenset({'histories'})


class NoConfig(Net):
  """One whose Config is a dict."""

  Config = {'width': 3}


class NoDefault(Net):
  """One with a setting that nobody sets."""

  @dataclasses.dataclass(frozen=True)
  class Config:
    width: int


class NoSizes(Net):
  """One that is made otherwise."""

  def __init__(self, width):
    pass


class Hasty(Net):
  """One that reads linear terms without declaring them."""

  needs = frozenset()


class NoContext(Net):
  """One that says it reads a support."""

  needs = frozenset({'support'})


class NoVector(Net):
  """One that gives a column."""

  def __call__(self, x):
    return super().__call__(x)[:, None]


def test_a_class_is_found_by_its_module():
  found = load.load('tests.jobs.my_model:Net')
  assert found is Net
  config = load.NetworkConfig(own=('width=7',))
  assert config.of(found) == Net.Config(width=7)
  model = load.make('tests.jobs.my_model:Net', SIZES, config, rngs=nnx.Rngs(0))
  assert load.scores(model, inputs(8)).shape == (8,)


@pytest.mark.parametrize(
  'name, message',
  [
    ('no.such.module:Net', 'no.such.module cannot be imported'),
    (f'{HERE}:Missing', 'Missing is None; needed is a class derived from'),
    (f'{HERE}:NoModule', 'needed is a class derived from flax.nnx.Module'),
    (f'{HERE}:NoNeeds', 'needed is a frozenset of some of history, linear'),
    (f'{HERE}:NoConfig', 'needed is a frozen dataclass of its sizes'),
    (f'{HERE}:NoDefault', 'has a Config without defaults'),
    (f'{HERE}:NoSizes', r'needed is __init__\(self, sizes, config, \*, rngs\)'),
    (f'{HERE}:NoContext', 'has no method context'),
  ],
)
def test_what_a_class_lacks_is_said(name, message):
  with pytest.raises(ValueError, match=f'model={name}: .*{message}'):
    load.load(name)


def test_a_column_is_no_logit_a_row():
  config = load.NetworkConfig()
  model = load.make(f'{HERE}:NoVector', SIZES, config, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=r'NoVector gave \(8, 1\) for 8 rows'):
    load.scores(model, inputs(8))


def test_linear_terms_are_declared_before_they_are_read():
  config = load.NetworkConfig()
  model = load.make(f'{HERE}:Hasty', SIZES, config, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="reads Inputs.first_order_B.*'linear'"):
    load.scores(model, inputs(8))


@pytest.mark.parametrize('name', ['dlrm', 'melu'])
def test_numbers_that_a_network_was_made_for_must_come(name):
  sizes = dataclasses.replace(SIZES, dense_width=3)
  config = load.NetworkConfig()
  model = load.Standalone(name, sizes, config, rngs=nnx.Rngs(0))
  fields_BFD = inputs(8).fields_BFD
  assert model(model.inputs(fields_BFD, jnp.ones((8, 3)))).shape == (8,)
  with pytest.raises(
    ValueError, match=r'\(dense_width=3\): called without its numeric inputs'
  ):
    model.inputs(fields_BFD, None)


def test_settings_of_ones_own_are_read_by_their_type():
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Own(Sized):
    widths: tuple[int, ...] = (4,)
    share: float = 0.5

  class Other(Net):
    """Has a tuple and a fraction."""

    Config = Own

  given = load.NetworkConfig(own=('share=0.25',), widths=(9, 8))
  assert given.of(Other) == Own(widths=(9, 8), share=0.25)
  given = load.NetworkConfig(own=('widths=64+32',))
  assert given.of(Other) == Own(widths=(64, 32))
  with pytest.raises(ValueError, match='own=share=x'):
    load.NetworkConfig(own=('share=x',)).of(Other)
  with pytest.raises(ValueError, match='Other.Config: widths, share'):
    load.NetworkConfig(own=('depth=1',)).of(Other)


def test_the_settings_of_all_networks_are_flags_without_a_value():
  config = load.NetworkConfig()
  settings = config_lib.to_dict(config)
  assert settings['widths'] is settings['mask_ratio'] is None
  assert config_lib.from_dict(type(config), settings) == config
  for name, found in load.NETWORKS.items():
    assert not load._lacking(found), name
    assert config.of(found) == found.Config()
  assert load.load('dlrm').Config().widths == (64, 64)
