# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The problem of `paro_bench`, and steps of codes and peers on a host.

Tokens are random: a speed benchmark needs no text, and equal losses show that
all codes compute the same.

The peer is fully sharded training by `jit` and sharding constraints, as in
MaxText and levanter: parameters and optimizer state are split over the axes of
FSDP, activations over the batch. In a scan over layers, each layer's weights
are gathered by a constraint, and again with the layer in the backward pass.
Micro-batches run in `lax.scan`, whose accumulator is split like the parameters.
XLA chooses the collectives.

  fsdp  split over all devices of all hosts (levanter's default over slices)
  hsdp  split inside a host, replicated over hosts (MaxText: data over DCN)

Model, loss, optimizer and batch are the same as for antjax. One constraint asks
for the gather in the forward pass, another one for a split gradient, so that
XLA can use a reduce-scatter instead of summing whole gradients.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from antjax.collectives import choose, cost_model, measure
from antjax.layers.functional import Functional
from antjax.lm import Block, Config, positions, Transformer
from antjax.mesh.mesh import INTER, INTRA, make_mesh
from antjax.train.trainer import Trainer
from benchmarks import host_steps

# Computation of a host without messages to others.
COMPUTE = 'compute'
_LINK_BYTES = (1 << 16, 1 << 19, 1 << 22)
PEERS = ('fsdp', 'hsdp')
_BATCH = (INTER, INTRA)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the problem."""

  embed_dim: int = 320  # A multiple of 64; the MLP is 8/3 as wide.
  num_layers: int = 3
  vocab_size: int = 1024
  num_tokens: int = 128  # Tokens of a sequence.
  num_micro_batches: int = 8

  @property
  def tokens_per_device(self) -> int:
    """Number of tokens per device and step."""
    return self.num_tokens * self.num_micro_batches

  def config(self) -> Config:
    return Config(
      vocab_size=self.vocab_size,
      num_layers=self.num_layers,
      embed_dim=self.embed_dim,
      num_heads=self.embed_dim // 64,
      num_kv_heads=self.embed_dim // 64,
      mlp_dim=self.embed_dim * 8 // 3 // 64 * 64,
    )

  def tokens(self, device: int) -> np.ndarray:
    """int32 [num_micro_batches, num_tokens] of a device, by its place."""
    rng = np.random.default_rng(device)
    shape = (self.num_micro_batches, self.num_tokens)
    return rng.integers(0, self.vocab_size, shape, dtype=np.int32)


def param_shapes(sizes: Sizes) -> Any:
  """The tree of parameters as ShapeDtypeStructs."""
  init = Functional(Transformer, sizes.config()).init
  return jax.eval_shape(init, jax.random.key(0))


def loss_fn(
  sizes: Sizes, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(losses, weights) for `Trainer`."""
  del rng
  return Transformer.of(sizes.config(), params).loss(batch)


def optimizer() -> optax.GradientTransformation:
  """AdamW after a clip of the global norm, as usual for LMs."""
  return optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.1)
  )


def is_stack(name: str) -> bool:
  """Whether a parameter is a stack of layers."""
  return name.startswith('layers')


def code_of(name: str) -> tuple[str, str | None]:
  """(PaRO code, dtype of its sums) of a name such as NIG or NIG:int8."""
  code, _, sums_dtype = name.partition(':')
  return code, sums_dtype or None


class Peer:
  """A way of sharding; `step(state, tokens) -> (state, loss)` is jitted."""

  def __init__(self, kind: str, sizes: Sizes, mesh: Mesh):
    # Automatic axes: XLA's propagation places unconstrained arrays.
    self._mesh = Mesh(mesh.devices, mesh.axis_names)
    self._axes = (INTER, INTRA) if kind == 'fsdp' else (INTRA,)
    self._sizes = sizes
    self._config = sizes.config()
    self._optimizer = optimizer()
    shapes = param_shapes(sizes)
    self._specs = jax.tree.map_with_path(self._spec, shapes)
    self.step = jax.jit(self._step, donate_argnums=0)

  def _spec(self, path: Any, x: Any) -> P:
    """Splits the largest divisible dim; in a stack, one of its layers."""
    first = 1 if path[0].key == 'layers' else 0
    size = 1
    for axis in self._axes:
      size *= self._mesh.shape[axis]
    dims = [d for d in range(first, x.ndim) if x.shape[d] % size == 0]
    if x.ndim - first < 2 or not dims:
      return P()  # Scales of norms.
    split = max(dims, key=lambda d: x.shape[d])
    return P(*[self._axes if d == split else None for d in range(x.ndim)])

  def _sharding(self, spec: P) -> NamedSharding:
    return NamedSharding(self._mesh, spec)

  def _constrain(self, x: jax.Array, spec: P) -> jax.Array:
    return lax.with_sharding_constraint(x, self._sharding(spec))

  def init(self) -> Any:
    """(params, opt_state), created split."""

    def make(key: jax.Array) -> Any:
      params = Functional(Transformer, self._config).init(key)
      params = jax.tree.map(self._constrain, params, self._specs)
      return params, self._optimizer.init(params)

    shapes = jax.eval_shape(make, jax.random.key(0))
    by_shape = {
      x.shape: spec
      for x, spec in zip(
        jax.tree.leaves(shapes[0]), jax.tree.leaves(self._specs, is_leaf=_is_p)
      )
    }
    shardings = jax.tree.map(
      lambda x: self._sharding(by_shape.get(x.shape, P())), shapes
    )
    return jax.jit(make, out_shardings=shardings)(jax.random.key(0))

  def batch(self, tokens: Any) -> jax.Array:
    """Global int32 [num_micro_batches, devices, T] from this host's rows.

    Args:
      tokens: int32 [local devices, num_micro_batches, T].
    """
    return jax.make_array_from_process_local_data(
      self._sharding(P(None, _BATCH)), tokens.swapaxes(0, 1)
    )

  def _step(self, state: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
    params, opt_state = state
    zeros = jax.tree.map(jnp.zeros_like, params)
    zeros = jax.tree.map(self._constrain, zeros, self._specs)

    def add(carry: Any, tokens_BT: jax.Array) -> tuple[Any, None]:
      acc, total = carry
      loss, grads = jax.value_and_grad(self._sum_of_losses)(params, tokens_BT)
      grads = jax.tree.map(self._constrain, grads, self._specs)
      return (jax.tree.map(jnp.add, acc, grads), total + loss), None

    (grads, total), _ = lax.scan(add, (zeros, jnp.float32(0)), tokens)
    num = tokens.shape[0] * tokens.shape[1] * (tokens.shape[2] - 1)
    grads = jax.tree.map(lambda g: g / num, grads)
    updates, opt_state = self._optimizer.update(grads, opt_state, params)
    params = jax.tree.map(jnp.add, params, updates)
    params = jax.tree.map(self._constrain, params, self._specs)
    return (params, opt_state), total / num

  def _sum_of_losses(self, params: Any, tokens_BT: jax.Array) -> jax.Array:
    gather = self._gather
    rows = P(_BATCH)
    layers = params['layers']
    top = {
      k: gather(self._specs[k])(params[k]) for k in params if k != 'layers'
    }
    layer_specs = {k: P(*s[1:]) for k, s in self._specs['layers'].items()}
    places = positions.document_positions(tokens_BT, None)
    angles = positions.rope_angles(self._config, places)
    model = Transformer.of(self._config, params | top)
    graphdef, (layers, _) = model.stack()

    def layer(x_BTD: jax.Array, weights: Any) -> tuple[jax.Array, None]:
      weights = {k: gather(layer_specs[k])(w) for k, w in weights.items()}
      x_BTD = nnx.merge(graphdef, weights)(x_BTD, angles, Block.attend)
      return self._constrain(x_BTD, rows), None

    x_BTD = self._constrain(model.embedded(tokens_BT, places), rows)
    x_BTD, _ = lax.scan(jax.checkpoint(layer, prevent_cse=False), x_BTD, layers)
    logits = model.unembed(model.normed(x_BTD))[:, :-1]
    chosen = jnp.take_along_axis(logits, tokens_BT[:, 1:, None], axis=-1)
    return jnp.sum(jax.nn.logsumexp(logits, axis=-1) - chosen[..., 0])

  def _gather(self, spec: P) -> Callable[[jax.Array], jax.Array]:
    """Gathers weights; their gradient is constrained to the split form."""

    @jax.custom_vjp
    def whole(w: jax.Array) -> jax.Array:
      return self._constrain(w, P())

    whole.defvjp(
      lambda w: (whole(w), None), lambda _, g: (self._constrain(g, spec),)
    )
    return whole


def _is_p(x: Any) -> bool:
  return isinstance(x, P)


def time_on_host(order: dict[str, Any]) -> None:
  """Times the links, then a step of each (code or peer, number of hosts)."""
  world = make_mesh(intra=jax.local_device_count())
  links = cost_model.fit(measure.samples(world, _LINK_BYTES, repeats=3))
  sizes = Sizes(**order['sizes'])
  steps = [
    _make_step(sizes, name, num_hosts, order['collectives'])
    for name, num_hosts in order['cases']
  ]
  cases = host_steps.take_turns(steps, order['rounds'], num_warm_ups=1)
  host_steps.report(cases=cases, links=dataclasses.asdict(links))


def _make_step(
  sizes: Sizes, name: str, num_hosts: int, collectives: str
) -> host_steps.Step:
  """The compiled step of a case."""
  mesh, places = host_steps.mesh_of(num_hosts)
  tokens = np.stack([sizes.tokens(place) for place in places])
  if name in PEERS:
    peer = Peer(name, sizes, mesh)
    step, state, inputs = peer.step, peer.init(), peer.batch(tokens)
  else:
    code, sums_dtype = code_of(name)
    how = choose.for_mesh(collectives or 'xla', mesh, sums_dtype=sums_dtype)
    trainer = Trainer(
      functools.partial(loss_fn, sizes),
      optimizer(),
      mesh=mesh,
      paro='NNN' if name == COMPUTE else code,
      num_micro_batches=sizes.num_micro_batches,
      scanned=is_stack,
      collectives=how,
    )
    state = trainer.init(Functional(Transformer, sizes.config()).init)
    rows = tokens.reshape(-1, tokens.shape[-1])
    inputs = trainer.step_inputs({'tokens': rows})
    step = trainer.compiled_step()
  return host_steps.Step(
    name,
    num_hosts,
    mesh,
    step,
    state,
    lambda: inputs,
    num_micro_batches=sizes.num_micro_batches,
  )
