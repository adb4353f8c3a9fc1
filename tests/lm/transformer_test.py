# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The transformer: what it may see, and that its short cuts change nothing."""

import dataclasses
import math
import re

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
import numpy as np
import pytest

from antjax.layers.functional import Functional
from antjax.lm import attention, blocks, packed, positions, transformer
from antjax.lm.transformer import Transformer
from antjax.mesh.mesh import make_mesh
from antjax.plan import lm_cost
from tests.cases import first_fast
from tests.lm import tiny_models

CONFIG = transformer.Config(
  vocab_size=61,
  num_layers=2,
  embed_dim=32,
  num_heads=4,
  num_kv_heads=2,
  mlp_dim=48,
)
# fp32 sums in another order.
ATOL = 2e-5


def make(config=CONFIG, num_tokens=24, batch=2):
  rng = np.random.default_rng(1)
  tokens = rng.integers(0, config.vocab_size, (batch, num_tokens))
  return tiny_models.params_of(config), jnp.asarray(tokens, jnp.int32)


def test_a_token_changes_no_logits_before_it():
  params, tokens = make()
  at = 9
  other = tokens.at[:, at].set((tokens[:, at] + 1) % CONFIG.vocab_size)
  logits = jax.jit(Transformer.logits)
  model = Transformer.of(CONFIG, params)
  first, second = logits(model, tokens), logits(model, other)
  np.testing.assert_array_equal(first[:, :at], second[:, :at])
  assert np.all(np.any(first[:, at:] != second[:, at:], axis=-1))


@pytest.mark.slow
@pytest.mark.parametrize('method', ['plain', 'blocked'])
def test_packed_documents_are_as_if_alone(method):
  config = dataclasses.replace(CONFIG, attention=method)
  params, tokens = make(num_tokens=30, batch=1)
  lengths = (7, 12, 8)  # 3 tokens of padding follow.
  segments = np.repeat([1, 2, 3, 0], [*lengths, 3])[None].astype(np.int32)
  logits = jax.jit(Transformer.logits)
  model = Transformer.of(config, params)
  packed = logits(model, tokens, jnp.asarray(segments))
  start = 0
  for length in lengths:
    alone = logits(model, tokens[:, start : start + length])
    np.testing.assert_allclose(
      packed[:, start : start + length], alone, atol=ATOL, rtol=1e-4
    )
    start += length
  assert np.all(np.isfinite(packed))


def test_positions_restart_with_each_document():
  segments = jnp.asarray([[1, 1, 1, 2, 2, 0], [3, 3, 4, 5, 5, 5]])
  places = positions.document_positions(segments, segments)
  expected = [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 1, 2]]
  np.testing.assert_array_equal(places, expected)


def test_rotary_products_depend_on_distance_only():
  q, k = jax.random.normal(jax.random.key(2), (2, 1, 1, 1, 8))

  def product(i, j):
    turn = lambda x, at: positions.rotate(  # noqa: E731
      x, positions.rope_angles(CONFIG, jnp.full((1, 1), at))
    )
    return jnp.sum(turn(q, i) * turn(k, j))

  np.testing.assert_allclose(product(5, 2), product(45, 42), atol=1e-5)
  assert abs(product(5, 2) - product(5, 3)) > 1e-3


@pytest.mark.parametrize(
  'num_kv_heads, has_segments',
  first_fast((2, True), (2, False), (1, True), (4, True)),
)
def test_attention_methods_agree(num_kv_heads, has_segments):
  keys = jax.random.split(jax.random.key(3), 4)
  q = jax.random.normal(keys[0], (2, 37, 4, 8))
  k, v = jax.random.normal(keys[1], (2, 2, 37, num_kv_heads, 8))
  segments = mask = None
  if has_segments:
    segments = jnp.sort(jax.random.randint(keys[2], (2, 37), 0, 4), axis=1)
    mask = (segments[:, :, None] == segments[:, None])[:, None]
  weights = jax.random.normal(keys[3], q.shape)

  def run(attend):
    def total(q, k, v):
      return jnp.sum(attend(q, k, v) * weights)

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(q, k, v)

  expected = run(
    lambda q, k, v: jax.nn.dot_product_attention(
      q, k, v, mask=mask, is_causal=True, implementation='xla'
    )
  )
  for options in (
    {'method': 'plain'},
    {'method': 'blocked', 'block': 8},
    {'method': 'blocked', 'block': 64},
  ):
    actual = run(
      lambda q, k, v, o=options: attention.attend(q, k, v, segments, **o)
    )
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4),
      actual,
      expected,
    )


@pytest.mark.skipif(
  "jax.default_backend() != 'gpu'", reason='cuDNN needs an NVIDIA GPU'
)
def test_fused_attention_agrees_on_gpu():
  keys = jax.random.split(jax.random.key(3), 2)
  q = jax.random.normal(keys[0], (2, 128, 4, 64), jnp.bfloat16)
  k, v = jax.random.normal(keys[1], (2, 2, 128, 2, 64), jnp.bfloat16)
  segments = jnp.repeat(jnp.asarray([[1, 2], [1, 0]]), 64, axis=1)
  for ids in (None, segments):
    np.testing.assert_allclose(
      np.float32(attention.attend(q, k, v, ids, method='cudnn')),
      np.float32(attention.attend(q, k, v, ids, method='plain')),
      atol=0.05,  # bf16 probabilities.
    )


def test_the_method_is_chosen_by_device_dtype_and_length():
  choose = attention.choose
  assert choose((1, 4096, 8, 64), jnp.bfloat16, 'gpu') == 'cudnn'
  assert choose((1, 4096, 8, 64), jnp.float32, 'gpu') == 'blocked'
  assert choose((1, 4096, 8, 100), jnp.bfloat16, 'gpu') == 'blocked'
  # cuDNN refuses a mask of odd lengths, and BAHE attends to one token.
  assert choose((1, 255, 8, 64), jnp.bfloat16, 'gpu') == 'blocked'
  assert choose((8, 1, 8, 64), jnp.bfloat16, 'gpu') == 'plain'
  assert choose((1, 128, 8, 64), jnp.bfloat16, 'cpu') == 'plain'
  assert choose((1, 128, 8, 64), jnp.bfloat16, 'tpu') == 'plain'
  long = (1, 4096, 8, 64), jnp.float32, 'tpu'
  assert choose(*long) == 'splash'
  assert choose(*long, has_bias=True) == 'blocked'
  assert choose(*long, has_kernels=False) == 'blocked'


@pytest.mark.slow
def test_gradient_of_the_loss_is_its_slope():
  params, tokens = make(num_tokens=12)
  batch = {'tokens': tokens, 'segment_ids': jnp.ones_like(tokens)}

  @jax.jit
  def total(params):
    losses, weights = Transformer.of(CONFIG, params).loss(batch)
    return jnp.sum(losses * weights)

  grads = jax.grad(total)(params)
  # A direction in all parameters; small, and central, for fp32.
  leaves, treedef = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(4), len(leaves))
  direction = treedef.unflatten(
    [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
  )
  step = 2e-4

  def at(sign):
    return total(
      jax.tree.map(lambda x, d: x + sign * step * d, params, direction)
    )

  slope = (at(1) - at(-1)) / (2 * step)
  expected = sum(
    jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), grads, direction))
  )
  np.testing.assert_allclose(slope, expected, rtol=0.02)


@pytest.mark.parametrize('tie', first_fast(True, False))
def test_chunked_loss_is_the_whole_loss(tie):
  config = dataclasses.replace(CONFIG, tie_embeddings=tie)
  params, tokens = make(config, num_tokens=29)
  segments = jnp.sort(
    jax.random.randint(jax.random.key(5), tokens.shape, 0, 4), axis=1
  )
  batch = {'tokens': tokens, 'segment_ids': segments}

  def run(max_logits):
    def total(params):
      losses, weights = Transformer.of(config, params).loss(
        batch, max_logits=max_logits
      )
      return jnp.sum(losses * weights), (losses, weights)

    return jax.jit(jax.value_and_grad(total, has_aux=True))(params)

  whole, chunked = run(1 << 24), run(61 * 2 * 4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4),
    chunked,
    whole,
  )
  # Against the definition.
  scores = np.asarray(
    jax.nn.log_softmax(
      jax.jit(Transformer.logits)(
        Transformer.of(config, params), tokens, segments
      )
    )
  )
  segments, tokens = np.asarray(segments), np.asarray(tokens)
  for b in range(2):
    inside = [
      t
      for t in range(28)
      if segments[b, t] == segments[b, t + 1] and segments[b, t] > 0
    ]
    mean = -np.mean([scores[b, t, tokens[b, t + 1]] for t in inside])
    np.testing.assert_allclose(whole[0][1][0][b], mean, rtol=1e-4)
    assert whole[0][1][1][b] == len(inside)


@pytest.mark.slow
def test_loss_mask_leaves_targets_out():
  params, tokens = make()
  mask = jnp.zeros_like(tokens).at[:, 5].set(1)
  losses, weights = Transformer.of(CONFIG, params).loss(
    {'tokens': tokens, 'loss_mask': mask}
  )
  scores = jax.nn.log_softmax(
    Transformer.of(CONFIG, params).logits(tokens)[:, 4]
  )
  expected = -jnp.take_along_axis(scores, tokens[:, 5:6], axis=1)[:, 0]
  np.testing.assert_allclose(losses, expected, rtol=1e-4)
  np.testing.assert_array_equal(weights, [1, 1])


@pytest.mark.slow
@pytest.mark.parametrize(
  'options', [{'remat': 'layer'}, {'remat': 'dots', 'layers_per_step': 2}]
)
def test_how_layers_are_run_changes_no_gradient(options):
  params, tokens = make()

  def grads(**options):
    config = dataclasses.replace(CONFIG, **options)
    return jax.jit(
      jax.grad(
        lambda p: Transformer.of(config, p).loss({'tokens': tokens})[0].sum()
      )
    )(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
    grads(**options),
    grads(remat='none'),
  )


def test_the_backward_pass_holds_no_activations_and_no_copied_weights():
  params, tokens = make(num_tokens=20)
  config = dataclasses.replace(CONFIG, remat='none')

  def loss(params):
    return Transformer.of(config, params).loss({'tokens': tokens})[0].sum()

  # The closure of the backward pass is a tree of what it holds.
  held = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params))
  wide = (config.num_layers, tokens.size, config.mlp_dim)
  shapes = [x.shape for x in held]
  assert shapes.count(wide) == 2  # Gate and up, before the activation.
  assert shapes.count(params['layers']['down'].shape) == 1


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='text of XLA:CPU')
def test_no_product_on_cpus_is_of_two_transposed_matrices():
  # It takes twice the time of a product with one (XLA:CPU, jaxlib 0.12).
  params, tokens = make(dataclasses.replace(CONFIG, embed_dim=64))
  config = dataclasses.replace(CONFIG, embed_dim=64, remat='none')

  def loss(params):
    return Transformer.of(config, params).loss({'tokens': tokens})[0].sum()

  text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
  products = re.findall(r' dot\(.*lhs_contracting_dims=.*', text)
  assert len(products) > 20
  both = 'lhs_contracting_dims={0}, rhs_contracting_dims={1}'
  assert not [x for x in products if both in x]


def test_computes_in_the_dtype_of_the_parameters():
  params, tokens = make()
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  model = Transformer.of(CONFIG, low)
  assert jax.eval_shape(model.hidden, tokens).dtype == jnp.bfloat16
  scores = jax.eval_shape(model.logits, tokens)
  assert scores.dtype == jnp.float32
  loss = jax.jit(Transformer.loss)
  losses, _ = loss(model, {'tokens': tokens})
  assert losses.dtype == jnp.float32
  expected, _ = loss(Transformer.of(CONFIG, params), {'tokens': tokens})
  np.testing.assert_allclose(losses, expected, rtol=0.05)  # bf16


def test_counts_parameters_and_operations():
  params = jax.eval_shape(
    Functional(Transformer, CONFIG).init, jax.random.key(0)
  )
  count = sum(x.size for x in jax.tree.leaves(params))
  assert lm_cost.num_params(CONFIG) == count
  # 2 layers of q, k, v, out and three of the MLP; the output layer.
  matrices = 2 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48) + 61 * 32
  expected = 6 * matrices + 6 * 2 * 10 * 32
  assert lm_cost.flops_per_token(CONFIG, 10) == expected


@pytest.mark.parametrize(
  'change, message',
  [
    ({'num_kv_heads': 3}, 'num_heads=4 must be a multiple'),
    ({'num_layers': 0}, 'num_layers must be at least 1'),
    ({'layers_per_step': 3}, 'must divide num_layers=2'),
    ({'embed_dim': 30}, 'embed_dim=30 is no multiple'),
    ({'head_dim': 7}, 'even width'),
  ],
)
def test_wrong_shapes_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **change)


@pytest.mark.slow
def test_gelu_is_exact_and_differentiable_on_devices():
  x = np.linspace(-6, 6, 64, dtype=np.float32)
  exact = [0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.tolist()]
  # 1 + erf, PyTorch's form too, has an absolute error of 2^-24 in the tail.
  np.testing.assert_allclose(blocks._gelu(x), exact, rtol=1e-6, atol=5e-7)
  half = jnp.asarray(x, jnp.bfloat16)
  exact = [0.5 * v * math.erfc(-v / math.sqrt(2)) for v in half.tolist()]
  found = np.asarray(blocks._gelu(half), np.float32)
  np.testing.assert_allclose(found, exact, rtol=1e-2, atol=1e-6)
  check_grads(blocks._gelu, (x,), order=1, modes=('fwd', 'rev'), rtol=1e-2)

  def local(x):
    grad = jax.grad(lambda x: jnp.sum(blocks._gelu(x)))(x)
    return lax.pmean(jnp.sum(grad), ('inter', 'intra'))

  mapped = jax.shard_map(
    local,
    mesh=make_mesh(intra=4),
    in_specs=P(('inter', 'intra')),
    out_specs=P(),
  )
  want = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))(x)
  np.testing.assert_allclose(jax.jit(mapped)(x), want.sum() / 8, rtol=1e-5)


@pytest.mark.parametrize('is_causal', [True, False])
@pytest.mark.parametrize('method', ['plain', 'blocked'])
def test_lengths_are_masks_of_padding_behind(method, is_causal):
  lengths = jnp.asarray([37, 5, 0])
  mask = positions.token_mask(jnp.zeros((3, 37)), lengths)
  keys = jax.random.split(jax.random.key(3), 3)
  x = [jax.random.normal(key, (3, 37, 4, 8)) for key in keys]
  weights = mask[..., None, None] * jnp.cos(x[0])

  def run(ids):
    def total(q, k, v):
      mixed = attention.attend(
        q, k, v, ids, is_causal=is_causal, method=method, block=8
      )
      return jnp.sum(mixed * weights)

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(*x)

  jax.tree.map(np.testing.assert_array_equal, run(lengths), run(mask))


def test_a_model_takes_lengths():
  config = dataclasses.replace(CONFIG, causal=False)
  model = Transformer.of(config, tiny_models.params_of(config))
  tokens, lengths = jnp.ones((3, 6), jnp.int32), jnp.asarray([6, 2, 4])
  mask = positions.token_mask(tokens, lengths)
  want = jax.jit(Transformer.hidden)(model, tokens, mask)
  got = jax.jit(Transformer.hidden)(model, tokens, lengths)
  np.testing.assert_array_equal(got[mask > 0], want[mask > 0])
  lane = packed.Lane(tokens, lengths)
  flat = jax.jit(packed.hidden)(model, [lane]).reshape(want.shape)
  np.testing.assert_allclose(flat[mask > 0], want[mask > 0], atol=1e-5)
  with_ids = [
    Transformer.of(CONFIG, tiny_models.params_of(CONFIG)).loss(
      {'tokens': tokens, 'segment_ids': ids}
    )
    for ids in (mask, lengths)
  ]
  jax.tree.map(np.testing.assert_array_equal, *with_ids)


def test_cudnn_takes_lengths_of_texts_with_padding_behind(monkeypatch):
  found = {}

  def fused(q, k, v, **options):
    found.update(options)
    return q

  monkeypatch.setattr(jax.nn, 'dot_product_attention', fused)
  x = jnp.zeros((2, 4, 1, 8), jnp.bfloat16)
  for is_causal, wanted in ((True, None), (False, [3, 1])):
    attention.attend(
      x, x, x, jnp.asarray([3, 0]), is_causal=is_causal, method='cudnn'
    )
    assert found['mask'] is None
    lengths = found['key_value_seq_lengths']
    assert (lengths if lengths is None else lengths.tolist()) == wanted
