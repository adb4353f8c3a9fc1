# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models against their papers' equations in numpy, row by row."""

import itertools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.networks import load
from antjax.networks.network import ScenarioMoments
from tests.networks.small_inputs import CONFIG, inputs, SIZES


def made(name):
  """A model whose parameters are all random, and they as float64."""
  model = load.make(name, SIZES, CONFIG, rngs=nnx.Rngs(0))
  graphdef, state = nnx.split(model)
  rng = np.random.default_rng(3)
  params = jax.tree.map(
    lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32),
    nnx.to_pure_dict(state),
  )
  own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  return jax.jit(lambda x: nnx.merge(graphdef, params)(x)), own


def relu(x):
  return np.maximum(x, 0)


def linear(p, x):
  return x @ p['kernel'] + p.get('bias', 0)


def mlp(p, x):
  for i in range(len(p['layers'])):
    x = relu(linear(p['layers'][i], x))
  return x


def deep(p, x):
  return linear(p['out'], mlp(p['mlp'], x))[0]


def own_linear(p, x, d):
  """A layer of scenario d."""
  return x @ p['kernel'][:, d] + (p['bias'][d] if 'bias' in p else 0)


def tower(p, x, d):
  layers = [p['layers'][i] for i in range(len(p['layers']))]
  for layer in layers[:-1]:
    x = relu(own_linear(layer, x, d))
  return own_linear(layers[-1], x, d)[0]


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def experts(p, x, number):
  """Outputs of experts that are beside each other in the first layer."""
  first = np.split(relu(linear(p['first'], x)), number)
  return deeper(p, first, linear)


def own_experts(p, x, d, number):
  first = np.split(relu(own_linear(p['first'], x, d)), number)
  return deeper(p, first, lambda layer, h: own_linear(layer, h, d))


def deeper(p, found, apply):
  for i in range(len(p['rest'])):
    layer = p['rest'][i]
    found = [relu(apply(layer[e], h)) for e, h in enumerate(found)]
  return found


def mixed(scores, found):
  return sum(g * h for g, h in zip(softmax(scores), found, strict=True))


def rows(x):
  """(vectors [F, D], first order, scenario) of each row, float64."""
  return zip(
    np.asarray(x.fields_BFD, np.float64),
    np.asarray(x.first_order_B, np.float64),
    np.asarray(x.scenario_B),
    strict=True,
  )


def check(model, x, expected):
  np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4)


def test_fm_is_all_pairs():
  model, p = made('fm')
  x = inputs(8)
  expected = [
    p['bias'] + first + sum(a @ b for a, b in itertools.combinations(v, 2))
    for v, first, _ in rows(x)
  ]
  check(model, x, expected)


def test_dcnv2():
  model, p = made('dcnv2')
  x = inputs(8)
  expected = []
  for v, _, _ in rows(x):
    x0 = crossed = v.reshape(-1)
    for i in range(CONFIG.cross_layers):
      crossed = x0 * linear(p['cross'][i], crossed) + crossed
    both = np.concatenate([crossed, mlp(p['mlp'], x0)])
    expected.append(linear(p['out'], both)[0])
  check(model, x, expected)


def test_xdeepfm_has_the_maps_of_its_paper():
  model, p = made('xdeepfm')
  x = inputs(8)
  expected = []
  for v, first, _ in rows(x):
    maps, sums = v, []
    for i, number in enumerate(CONFIG.cin_widths):
      kernel = np.asarray(p['maps'][i]['kernel'])  # Map, new map, field.
      maps = np.stack(
        [
          sum(
            kernel[j, h, k] * maps[j] * v[k]
            for j in range(len(maps))
            for k in range(len(v))
          )
          for h in range(number)
        ]
      )
      sums.append(maps.sum(axis=1))
    explicit = linear(p['cin_out'], np.concatenate(sums))[0]
    expected.append(first + explicit + deep(p['deep'], v.reshape(-1)))
  check(model, x, expected)


def test_mmoe():
  model, p = made('mmoe')
  x = inputs(8)
  expected = []
  for v, _, d in rows(x):
    v = v.reshape(-1)
    found = experts(p['experts'], v, CONFIG.num_experts)
    h = mixed(own_linear(p['gates'], v, d), found)
    expected.append(tower(p['towers'], h, d))
  check(model, x, expected)


def test_ple_of_two_levels():
  model, p = made('ple')
  x = inputs(8)
  num_scenarios, own = SIZES.num_scenarios, CONFIG.num_specific
  shared = CONFIG.num_experts
  expected = []
  for v, _, d in rows(x):
    v, level = v.reshape(-1), p['levels'][0]
    # All scenarios' experts, theirs beside each other, then the shared ones.
    found = experts(level['experts'][0], v, num_scenarios * own + shared)
    mine = found[d * own : (d + 1) * own] + found[num_scenarios * own :]
    x_d = mixed(linear(level['gates'][d], v), mine)
    x_s = mixed(linear(level['shared_gate'], v), found)
    last = p['last']
    seen = own_experts(last['specific'], x_d, d, own)
    seen += experts(last['shared'], x_s, shared)
    h = mixed(own_linear(last['gates'], x_d, d), seen)
    expected.append(tower(p['towers'], h, d))
  check(model, x, expected)


@pytest.mark.parametrize('trains', [True, False])
def test_star(trains):
  model, p = made('star')
  x = inputs(9)
  flat = np.asarray(x.flat, np.float64)
  scenarios = np.asarray(x.scenario_B)
  rng = np.random.default_rng(5)
  shape = SIZES.num_scenarios, SIZES.flat_width
  mean, variance = rng.normal(size=shape), rng.uniform(0.5, 2, size=shape)
  if trains:
    for d in range(SIZES.num_scenarios):
      mean[d] = flat[scenarios == d].mean(axis=0)
      variance[d] = flat[scenarios == d].var(axis=0)
  else:
    moments = [jnp.asarray(a, jnp.float32) for a in (mean, variance)]
    x = x._replace(moments=ScenarioMoments(*moments))
  norm, expected = p['norm'], []
  for v, d in zip(flat, scenarios, strict=True):
    h = (v - mean[d]) / np.sqrt(variance[d] + 1e-5)
    h = norm['scale'] * norm['own_scale'][d] * h
    h = h + norm['bias'] + norm['own_bias'][d]
    layers = [p['layers'][i] for i in range(len(p['layers']))]
    for i, layer in enumerate(layers):
      kernel = layer['kernel'] * layer['own_kernel'][:, d]
      h = h @ kernel + layer['bias'] + layer['own_bias'][d]
      h = relu(h) if i < len(layers) - 1 else h
    expected.append(h[0] + deep(p['auxiliary'], v))
  check(model, x, expected)


def test_pepnet_stops_the_gradient_where_the_paper_does():
  model, p = made('pepnet')
  x = inputs(8)
  prior = SIZES.user_fields + SIZES.item_fields

  def forward(v, v_of_gates):
    """In numpy; the gates see `v_of_gates` where the gradient is stopped."""

    def gate(hidden, out):
      return 2 / (1 + np.exp(-linear(out, relu(hidden))))

    flat = v.reshape(-1)
    seen = np.concatenate([v[SIZES.scenario_field], v_of_gates.reshape(-1)])
    scale = gate(linear(p['ep_hidden'], seen), p['ep_gate'])
    h = scale * flat
    frozen = np.concatenate(
      [v_of_gates[SIZES.scenario_field], v_of_gates.reshape(-1)]
    )
    stopped = gate(linear(p['ep_hidden'], frozen), p['ep_gate'])
    stopped = stopped * v_of_gates.reshape(-1)
    seen = np.concatenate([*(v[f] for f in prior), stopped])
    parts = np.split(linear(p['pp_hidden']['first'], seen), len(CONFIG.widths))
    for i, hidden in enumerate(parts):
      h = relu(linear(p['layers'][i], h)) * gate(hidden, p['pp_gates'][i])
    return linear(p['layers'][len(parts)], h)[0]

  vectors = [v for v, _, _ in rows(x)]
  check(model, x, [forward(v, v) for v in vectors])
  grads = jax.grad(
    lambda fields: jnp.sum(model(x._replace(fields_BFD=fields)))
  )(x.fields_BFD)
  v, step = vectors[0], 1e-5
  for f, i in ((0, 1), (2, 0), (SIZES.scenario_field, 2)):
    up, down = v.copy(), v.copy()
    up[f, i] += step
    down[f, i] -= step
    slope = (forward(up, v) - forward(down, v)) / (2 * step)
    np.testing.assert_allclose(grads[0, f, i], slope, rtol=1e-2, atol=1e-4)


def test_adasparse_prunes():
  model, p = made('adasparse')
  x = inputs(8)
  num_pruned, expected = 0, []
  for v, _, _ in rows(x):
    scenario, h = v[SIZES.scenario_field], v.reshape(-1)
    for i in range(len(p['layers'])):
      seen = np.concatenate([scenario, h])
      share = 1 / (1 + np.exp(-linear(p['pruners'][i], seen)))
      num_pruned += np.sum(share < 0.25)
      factor = np.where(share < 0.25, 0, 2 * share)
      h = linear(p['layers'][i], factor * h)
      h = relu(h) if i < len(p['layers']) - 1 else h
    expected.append(h[0])
  assert num_pruned > 10
  check(model, x, expected)


def test_m2m():
  model, p = made('m2m')
  x = inputs(8)

  def leaky(y):
    return np.where(y > 0, y, 0.01 * y)

  def meta(layer, known, h):
    kernel = linear(layer['kernel'], known).reshape(len(h), -1)
    return leaky(h @ kernel + linear(layer['bias'], known))

  expected = []
  for v, _, d in rows(x):
    known = relu(linear(p['know'], p['scenarios'][d]))
    found = experts(p['experts'], v.reshape(-1), CONFIG.num_experts)
    scores = [
      linear(p['score'], meta(p['attention'], known, np.append(h, p['task'])))
      for h in found
    ]
    read = mixed(np.concatenate(scores), found)
    for i in range(CONFIG.num_layers):
      read = leaky(meta(p['tower'][i], known, read) + read)
    expected.append(linear(p['out'], read)[0])
  check(model, x, expected)


def test_hamur():
  model, p = made('hamur')
  x = inputs(8)
  expected = []
  for v, _, d in rows(x):
    h = v.reshape(-1)
    hyper = p['hyper']['layers']
    core = linear(hyper[1], relu(linear(hyper[0], h)))
    core = core.reshape(CONFIG.rank, CONFIG.rank)
    for i in range(len(CONFIG.widths)):
      h = relu(linear(p['layers'][i], h))
      adapter = p['adapters'][i]
      one, two, three, four = (adapter['factors'][k] for k in range(4))
      down = own_linear(two, core @ own_linear(one, h, d), d)
      down = 1 / (1 + np.exp(-down))
      up = own_linear(four, core @ own_linear(three, down, d), d)
      up = (up - up.mean()) / np.sqrt(up.var() + 1e-6)
      h = h + adapter['scale'][d] * up + adapter['bias'][d]
    expected.append(linear(p['layers'][len(CONFIG.widths)], h)[0])
  check(model, x, expected)


def test_apg():
  model, p = made('apg')
  x = inputs(8)
  expected = []
  for v, _, _ in rows(x):
    scenario, h = v[SIZES.scenario_field], v.reshape(-1)
    for i in range(len(CONFIG.widths)):
      layer = p['layers'][i]
      make = layer['core']['layers']
      core = linear(make[1], relu(linear(make[0], scenario)))
      core = np.eye(CONFIG.rank) + core.reshape(CONFIG.rank, CONFIG.rank)
      h = relu(linear(layer['out'], core @ linear(layer['into'], h)))
    expected.append(linear(p['out'], h)[0])
  check(model, x, expected)


def test_shared_bottom():
  model, p = made('shared_bottom')
  x = inputs(8)
  expected = [
    tower(p['towers'], mlp(p['bottom'], v.reshape(-1)), d)
    for v, _, d in rows(x)
  ]
  check(model, x, expected)


def test_sar_net():
  model, p = made('sar_net')
  x = inputs(8)
  expected = []
  for v, _, d in rows(x):
    h = p['scale'][d] * v.reshape(-1) + p['bias'][d]
    found = own_experts(p['specific'], h, d, CONFIG.num_specific)
    found += experts(p['shared'], h, CONFIG.num_experts)
    expected.append(deep(p['deep'], mixed(own_linear(p['gates'], h, d), found)))
  check(model, x, expected)


def test_autoint():
  model, p = made('autoint')
  x = inputs(8)
  expected = []
  for v, _, _ in rows(x):
    for i in range(CONFIG.num_layers):
      query, key, value, rest = np.split(
        linear(p['layers'][i]['project'], v), 4, 1
      )
      heads = [
        np.split(part, CONFIG.num_heads, 1) for part in (query, key, value)
      ]
      mix_of_heads = [
        np.stack([softmax(k @ one) @ u for one in q])
        for q, k, u in zip(*heads, strict=True)
      ]
      v = relu(np.concatenate(mix_of_heads, axis=1) + rest)
    expected.append(linear(p['out'], v.reshape(-1))[0])
  check(model, x, expected)


def test_finalmlp():
  model, p = made('finalmlp')
  x = inputs(8)
  expected = []
  for v, _, _ in rows(x):
    streams = []
    for name, fields in (
      ('user', SIZES.user_fields),
      ('item', SIZES.item_fields),
    ):
      score = linear(p[name]['gate'], v[list(fields)].reshape(-1))
      gated = 2 / (1 + np.exp(-score)) * v.reshape(-1)
      streams.append(mlp(p[name]['mlp'], gated))
    logit = linear(p['linear'], np.concatenate(streams))[0]
    parts = [np.split(stream, CONFIG.num_heads) for stream in streams]
    for form, one, two in zip(p['form'], *parts, strict=True):
      logit += one @ form @ two
    expected.append(logit)
  check(model, x, expected)


def histories(x):
  """(clicked vectors, oldest first; the candidate's) of each row."""
  keys, is_there, query = (np.asarray(a, np.float64) for a in x.histories[0])
  return [
    (k[there > 0], q) for k, there, q in zip(keys, is_there, query, strict=True)
  ]


def test_din():
  model, p = made('din')
  x = inputs(8)
  expected = []
  for (v, _, _), (keys, query) in zip(rows(x), histories(x), strict=True):
    attended = np.zeros(SIZES.dim)
    for key in keys:
      pair = np.concatenate([query, key, query - key, query * key])
      hidden = mlp(p['attention'][0]['mlp'], pair)
      attended += linear(p['attention'][0]['out'], hidden)[0] * key
    attended /= SIZES.histories[0]
    expected.append(deep(p['deep'], np.append(v.reshape(-1), attended)))
  check(model, x, expected)


def test_bst():
  model, p = made('bst')
  x = inputs(8)

  def norm(q, y):
    y = y - y.mean(axis=1, keepdims=True)
    y = y / np.sqrt(y.var(axis=1, keepdims=True) + 1e-6)
    return y * q['scale'] + q['bias']

  expected, position = [], p['sequences'][0]['position']
  for (v, _, _), (keys, query) in zip(rows(x), histories(x), strict=True):
    # The candidate, then the clicks: the newest is one ago.
    ago = np.arange(len(keys), 0, -1)
    y = np.concatenate(
      [
        query[None] + position[:1],
        keys + position[ago],
      ]
    )
    for i in range(CONFIG.num_layers):
      layer = p['sequences'][0]['layers'][i]
      parts = np.split(linear(layer['project'], y), 3, axis=1)
      found = []
      for q, k, u in zip(
        *(np.split(part, CONFIG.num_heads, axis=1) for part in parts),
        strict=True,
      ):
        scale = q.shape[1] ** -0.5
        found.append(np.stack([softmax(scale * (k @ one)) @ u for one in q]))
      attended = linear(layer['out'], np.concatenate(found, axis=1))
      y = norm(layer['norms'][0], y + attended)
      hidden = linear(layer['up'], y)
      hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
      y = norm(layer['norms'][1], y + linear(layer['down'], hidden))
    joined = np.append(v.reshape(-1), y.mean(axis=0))
    expected.append(deep(p['deep'], joined))
  check(model, x, expected)
