# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click networks by name or 'package.module:Class', and their settings."""

from collections.abc import Callable, Mapping
import dataclasses
import importlib
import inspect
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from flax import nnx
import jax
import jax.numpy as jnp

from antjax import config_values
from antjax.layers import mlp
from antjax.networks import network
from antjax.networks.crosses import AutoInt, DCNv2, FinalMLP, GDCN, XDeepFM
from antjax.networks.deep import DeepFM, FM, LR, MLPModel, WideDeep
from antjax.networks.dlrm import DLRM, DLRMDCN
from antjax.networks.experts import MMoE, PLE, SharedBottom
from antjax.networks.gates import PEPNet
from antjax.networks.hstu import HSTU
from antjax.networks.masknet import MaskNet
from antjax.networks.sequences import BST, DIN
from antjax.networks.star import STAR
from antjax.networks.tasks import AITM, CBML, ESMM, MeLU
from antjax.networks.wukong import Wukong

SINGLE_SCENARIO: dict[str, type[Any]] = {
  'lr': LR,
  'fm': FM,
  'mlp': MLPModel,
  'wide_deep': WideDeep,
  'deepfm': DeepFM,
  'dcnv2': DCNv2,
  'xdeepfm': XDeepFM,
  'autoint': AutoInt,
  'finalmlp': FinalMLP,
  'masknet': MaskNet,
  'gdcn': GDCN,
  'wukong': Wukong,
  'dlrm': DLRM,
  'dlrm_dcn': DLRMDCN,
  'din': DIN,
  'bst': BST,
  'hstu': HSTU,
}
MULTI_SCENARIO: dict[str, type[Any]] = {
  'shared_bottom': SharedBottom,
  'mmoe': MMoE,
  'ple': PLE,
  'star': STAR,
  'pepnet': PEPNet,
}
MULTI_TASK: dict[str, type[Any]] = {'esmm': ESMM, 'aitm': AITM}
META: dict[str, type[Any]] = {'melu': MeLU, 'cbml': CBML}
CLICK: dict[str, type[Any]] = SINGLE_SCENARIO | MULTI_SCENARIO | MULTI_TASK
NETWORKS: dict[str, type[Any]] = CLICK | META


def load(name: str, flag: str = 'model') -> type[Any]:
  """Loads the class of a network.

  Args:
    name: Name in `NETWORKS`, or 'package.module:Class' of a custom network.
    flag: Name of the setting, for errors.

  Raises:
    ValueError: There is no such network, or it violates the contract of
      `antjax.networks.network`.
  """
  if name in NETWORKS:
    return NETWORKS[name]
  where, colon, class_name = name.partition(':')
  if not colon:
    raise ValueError(
      f'{flag}={name!r}: there is no such model. Of one scenario:'
      f' {", ".join(SINGLE_SCENARIO)}; of several: {", ".join(MULTI_SCENARIO)};'
      f' of several labels: {", ".join(MULTI_TASK)}; for meta-learning:'
      f' {", ".join(META)}; or one of your own: package.module:Class.'
    )
  try:
    module = importlib.import_module(where)
  except ImportError as error:
    raise ValueError(
      f'{flag}={name}: {where} cannot be imported ({error}); needed is a module'
      ' in the current folder, on PYTHONPATH, or installed.'
    ) from error
  found: Any = getattr(module, class_name, None)
  if lacking := _lacking(found):
    raise ValueError(
      f'{flag}={name}: {class_name} {lacking}; see antjax.networks.network for'
      ' an example.'
    )
  return found


def _lacking(found: Any) -> str:
  """How a class violates the contract; '' if it does not."""
  if not (isinstance(found, type) and issubclass(found, nnx.Module)):
    return f'is {found!r}; needed is a class derived from flax.nnx.Module'
  needs = getattr(found, 'needs', None)
  if not isinstance(needs, frozenset) or not needs <= set(network.NEEDS):
    known = ', '.join(network.NEEDS)
    return f'has needs={needs!r}; needed is a frozenset of some of {known}'
  config = getattr(found, 'Config', None)
  if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
    return f'has Config={config!r}; needed is a frozen dataclass of its sizes'
  try:
    config()
  except TypeError as error:
    return f'has a Config without defaults ({error}); give each field one'
  try:
    inspect.signature(found.__init__).bind(None, None, None, rngs=None)
  except TypeError as error:
    return (
      f'cannot be made ({error}); needed is'
      ' __init__(self, sizes, config, *, rngs)'
    )
  if 'support' in needs and not hasattr(found, 'context'):
    return "needs 'support' and has no method context(x, label, mask)"
  return ''


def refuse(found: type[Any], without: Mapping[str, str], where: str) -> None:
  """Rejects a network whose needs are not met.

  Args:
    found: The network's class.
    without: Need -> reason why it is not met.
    where: Setting that asks for the network, e.g. 'head.kind=star'.

  Raises:
    ValueError: A need is not met.
  """
  for need in sorted(found.needs & set(without)):
    raise ValueError(
      f'{where}: it needs {need!r} ({network.NEEDS[need]}), and'
      f' {without[need]}.'
    )


def make(
  name: str, sizes: network.Sizes, config: 'NetworkConfig', *, rngs: nnx.Rngs
) -> Any:
  """Creates a network with its sizes in `config`.

  Raises:
    ValueError: There is no such network, or the sizes do not meet its needs.
  """
  found = load(name)
  if 'history' in found.needs and not sizes.histories:
    raise ValueError(
      f'{name} looks at what a user clicked before, and the inputs have no'
      ' history; use data with one, or another model.'
    )
  if 'labels' in found.needs and sizes.num_outputs < 2:
    raise ValueError(
      f'{name} learns two labels or more, and there is one; name further ones'
      ' under labels in the schema of the data, or use another model.'
    )
  made = found(sizes, config.of(found), rngs=rngs)
  mlp.restyle(made, config.norm, config.activation, rngs=rngs)
  return made


def scores(
  model: Callable[[network.Inputs], Any],
  x: network.Inputs,
  num_outputs: int = 1,
) -> Any:
  """Outputs of a network, [B], or [B, ...] for several.

  Raises:
    ValueError: The shape is wrong, or the network reads undeclared inputs.
  """
  if 'linear' not in getattr(model, 'needs', ('linear',)):
    x = network.InputsWithoutLinear(*x)
  found = model(x)
  size = x.fields_BFD.shape[0]
  shapes = {(size,), (size, num_outputs) if num_outputs > 1 else (size,)}
  for y in jax.tree.leaves(found):
    if y.shape not in shapes:
      raise ValueError(
        f'{type(model).__name__} gave {y.shape} for {size} rows; needed is a'
        f' number a row: ({size},).'
      )
  return found


def _union(networks: Mapping[str, type[Any]]) -> Any:
  """A dataclass with the fields of all Configs, each None by default.

  Networks with the same help for a field share it.
  """
  kinds: dict[str, Any] = {}
  helps: dict[str, dict[str, list[str]]] = {}
  for name, found in networks.items():
    hints = get_type_hints(found.Config, include_extras=True)
    for field in dataclasses.fields(found.Config):
      kinds[field.name], text = get_args(hints[field.name])[:2]
      text += f' [{config_values.to_text(field.default)}]'
      helps.setdefault(field.name, {}).setdefault(text, []).append(name)

  def field_of(name: str) -> tuple[str, Any, None]:
    said = ' '.join(f'{", ".join(of)}: {x}' for x, of in helps[name].items())
    return name, Annotated[kinds[name] | None, said], None

  return dataclasses.make_dataclass(
    'Union', map(field_of, kinds), frozen=True, kw_only=True
  )


_Union: Any = _union(NETWORKS)
_FIELDS = tuple(field.name for field in dataclasses.fields(_Union))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig(_Union):
  """Sizes of networks; none: the default of the network."""

  norm: Annotated[
    mlp.Norm,
    'Norm before the activations of MLPs: none, batch (batch statistics in'
    ' training, running averages in scoring), or layer.',
  ] = 'none'
  activation: Annotated[mlp.Activation, 'Activation of MLPs and experts.'] = (
    'relu'
  )
  own: Annotated[
    tuple[str, ...],
    'Settings of your own network that have no flag here, as name=value;'
    ' widths as 64+32.',
  ] = ()

  def __post_init__(self) -> None:
    for found in NETWORKS.values():
      self._of(found, ())

  def of(self, found: type[Any]) -> Any:
    """The Config of a network.

    Raises:
      ValueError: `own` names an unknown field, or a value is invalid.
    """
    return self._of(found, self.own)

  def _of(self, found: type[Any], own: tuple[str, ...]) -> Any:
    hints = get_type_hints(found.Config)
    fields = [field.name for field in dataclasses.fields(found.Config)]
    given = {
      name: getattr(self, name)
      for name in fields
      if name in _FIELDS and getattr(self, name) is not None
    }
    for text in own:
      name, equals, value = text.partition('=')
      if not equals or name not in fields:
        raise ValueError(
          f'own={text}: say name=value with a field of {found.__name__}.Config:'
          f' {", ".join(fields) or "it has none"}.'
        )
      if get_origin(hints[name]) is tuple:
        value = value.replace('+', ',')
      try:
        given[name] = config_values.from_text(hints[name], value)
      except ValueError as error:
        raise ValueError(f'own={text}: {error}') from error
    return found.Config(**given)


class Standalone(nnx.Module):
  """Any network, without scenarios and tables of linear weights.

  Linear terms, if declared, are one map of all inputs.
  """

  def __init__(
    self,
    name: str,
    sizes: network.Sizes,
    config: NetworkConfig,
    *,
    rngs: nnx.Rngs,
  ):
    if config.norm == 'batch':
      raise ValueError(
        'norm=batch: only launch/train_clicks.py keeps the running averages of'
        ' batch norms; use layer, or none.'
      )
    self.sizes = sizes
    self.network = make(name, sizes, config, rngs=rngs)
    self.linear = (
      nnx.Linear(sizes.flat_width, 1, use_bias=False, rngs=rngs)
      if 'linear' in load(name).needs
      else None
    )

  def inputs(
    self,
    fields_BFD: jax.Array,
    dense_BX: jax.Array | None,
    histories: tuple[network.History, ...] = (),
  ) -> network.Inputs:
    """Inputs of the network, including linear terms."""
    if dense_BX is None and self.sizes.dense_width:
      raise ValueError(
        f'{type(self.network).__name__}(dense_width={self.sizes.dense_width}):'
        ' called without its numeric inputs; pass dense_BX.'
      )
    zeros_B = jnp.zeros(fields_BFD.shape[0], fields_BFD.dtype)
    x = network.Inputs(
      fields_BFD, zeros_B, zeros_B.astype(jnp.int32), dense_BX, histories
    )
    if self.linear is None:
      return x
    return x._replace(first_order_B=self.linear(x.flat)[:, 0])

  def __call__(self, x: network.Inputs) -> jax.Array:
    """Logits [B], or [B, num_outputs] for several outputs."""
    return scores(self.network, x, self.sizes.num_outputs)
