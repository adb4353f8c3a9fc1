# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models against their papers' equations in numpy, row by row."""

import dataclasses
import itertools
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.networks import load
from antjax.networks.network import ScenarioMoments
from tests.cases import first_fast
from tests.networks.small_inputs import CONFIG, inputs, SIZES

EXAMPLES = {
  'adasparse': 'examples.adasparse:AdaSparse',
  'apg': 'examples.apg:APG',
  'm2m': 'examples.m2m:M2M',
  'sar_net': 'examples.sar_net:SARNet',
}


def made(
  name,
  num_outputs=1,
  num_scenarios=SIZES.num_scenarios,
  dense_width=0,
  **settings,
):
  """A model whose parameters are all random, and they as float64."""
  config = dataclasses.replace(CONFIG, **settings)
  sizes = dataclasses.replace(
    SIZES,
    num_outputs=num_outputs,
    num_scenarios=num_scenarios,
    dense_width=dense_width,
  )
  # Nothing is initialized, which would compile a program for each leaf.
  model = nnx.eval_shape(
    lambda: load.make(EXAMPLES.get(name, name), sizes, config, rngs=nnx.Rngs(0))
  )
  graphdef, state = nnx.split(model)
  rng = np.random.default_rng(3)

  def random(path, leaf):
    start = path[-1].key in ('scale', 'var')
    return jnp.asarray(start + 0.3 * rng.normal(size=leaf.shape), jnp.float32)

  params = jax.tree.map_with_path(random, nnx.to_pure_dict(state))
  own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  return jax.jit(lambda x: nnx.merge(graphdef, params)(x)), own


class Row(NamedTuple):
  """A row of inputs: vectors [F, D], also flat; its history's keys are there.

  `d` is its scenario, `s` the scenario's vector.
  """

  v: np.ndarray
  flat: np.ndarray
  first: float
  d: int
  s: np.ndarray
  keys: np.ndarray
  query: np.ndarray


def rows(x):
  x = jax.tree.map(lambda a: np.asarray(a, np.float64), x)
  keys, is_there, query = x.histories[0]
  for i, v in enumerate(x.fields_BFD):
    yield Row(
      v,
      v.reshape(-1),
      x.first_order_B[i],
      int(x.scenario_B[i]),
      v[SIZES.scenario_field],
      keys[i][is_there[i] > 0],
      query[i],
    )


def relu(x):
  return np.maximum(x, 0)


def leaky(x):
  return np.where(x > 0, x, 0.01 * x)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def norm(p, x, epsilon=1e-6):
  """Over the last axis, which may have a scale and a bias of each row."""
  x = x - x.mean(axis=-1, keepdims=True)
  x = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + epsilon)
  return x * p['scale'] + p['bias']


def linear(p, x):
  return x @ p['kernel'] + p.get('bias', 0)


def chain(layers, x):
  """Linear layers with ReLU between them."""
  for i in range(len(layers)):
    x = linear(layers[i], relu(x) if i else x)
  return x


def mlp(p, x):
  return relu(chain(p['layers'], x))


def deep(p, x):
  return linear(p['out'], mlp(p['mlp'], x))[0]


def own_linear(p, x, d):
  """A layer of scenario d."""
  return x @ p['kernel'][:, d] + (p['bias'][d] if 'bias' in p else 0)


def tower(p, x, d, task=0):
  p = p['tasks'][task]
  for i in range(len(p['layers'])):
    x = own_linear(p['layers'][i], relu(x) if i else x, d)
  return x[0]


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


def attend(parts, num_heads, scale=1.0):
  """Queries, keys and values [M, D] -> the heads' outputs side by side."""
  found = [
    np.stack([softmax(scale * (k @ one)) @ u for one in q])
    for q, k, u in zip(*(np.split(part, num_heads, axis=1) for part in parts))
  ]
  return np.concatenate(found, axis=1)


# The equations: parameters and a row -> its logit.


def fm(p, row):
  pairs = sum(a @ b for a, b in itertools.combinations(row.v, 2))
  return p['bias'] + row.first + pairs


def dlrm(p, row, number=None, top_vectors=True):
  v = row.v if number is None else np.stack([*row.v, number])
  pairs = [v[i] @ v[j] for i in range(len(v)) for j in range(i)]
  seen = v if top_vectors else v[len(row.v) :]
  return linear(p['head'], mlp(p['top'], np.append(seen, pairs)))[0]


def dlrm_dcn(p, row, number=()):
  x = x0 = np.append(row.flat, number)
  for i in range(CONFIG.cross_layers):
    low = x @ p['cross'][i]['layers'][0]['kernel']
    x = x0 * linear(p['cross'][i]['layers'][1], low) + x
  return linear(p['head'], mlp(p['top'], x))[0]


def dcnv2(p, row):
  crossed = row.flat
  for i in range(CONFIG.cross_layers):
    crossed = row.flat * linear(p['cross'][i], crossed) + crossed
  both = np.concatenate([crossed, mlp(p['mlp'], row.flat)])
  return linear(p['out'], both)[0]


def gdcn(p, row):
  both = np.concatenate([_gated(p, row), mlp(p['mlp'], row.flat)])
  return linear(p['out'], both)[0]


def gdcn_serial(p, row):
  return linear(p['out'], mlp(p['mlp'], _gated(p, row)))[0]


def _gated(p, row):
  crossed = row.flat
  for i in range(CONFIG.cross_layers):
    share = sigmoid(linear(p['gates'][i], crossed))
    crossed = row.flat * linear(p['cross'][i], crossed) * share + crossed
  return crossed


def masknet(p, row):
  n = norm(p, row.v, 1e-5).reshape(-1)
  blocks = [_masked(p, i, row, n) for i in range(CONFIG.num_blocks)]
  return deep(p['out'], np.concatenate(blocks))


def masknet_serial(p, row):
  h = norm(p, row.v, 1e-5).reshape(-1)
  for i in range(len(CONFIG.widths)):
    h = _masked(p, i, row, h)
  return linear(p['out'], h)[0]


def _masked(p, i, row, h):
  q = p['blocks'][i]
  mask = chain(q['mask']['layers'], row.flat)
  return relu(norm(q['norm'], linear(q['hidden'], mask * h), 1e-5))


def wukong(p, row):
  x = row.v
  for i in range(CONFIG.num_layers):
    q = p['layers'][i]
    y = q['compress']['map']['kernel']
    pairs = norm(q['norm_pairs'], (x @ x.T @ y).reshape(-1))
    fmb = chain(q['pairs']['layers'], pairs).reshape(-1, SIZES.dim)
    lcb = q['linear']['map']['kernel'].T @ x
    rest = x if i else q['residual']['map']['kernel'].T @ x
    x = norm(q['norm'], np.concatenate([fmb, lcb]) + rest)
  return deep(p['deep'], x.reshape(-1))


def xdeepfm(p, row):
  v, maps, sums = row.v, row.v, []
  for i, number in enumerate(CONFIG.cin_widths):
    kernel = p['maps'][i]['kernel']  # Map, new map, field.
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
  return row.first + explicit + deep(p['deep'], row.flat)


def autoint(p, row):
  v = row.v
  for i in range(CONFIG.num_layers):
    *parts, rest = np.split(linear(p['layers'][i]['project'], v), 4, 1)
    v = relu(attend(parts, CONFIG.num_heads) + rest)
  return linear(p['out'], v.reshape(-1))[0]


def finalmlp(p, row):
  streams = []
  for name, fields in (
    ('user', SIZES.user_fields),
    ('item', SIZES.item_fields),
  ):
    score = linear(p[name]['gate'], row.v[list(fields)].reshape(-1))
    streams.append(mlp(p[name]['mlp'], 2 * sigmoid(score) * row.flat))
  logit = linear(p['linear'], np.concatenate(streams))[0]
  parts = [np.split(stream, CONFIG.num_heads) for stream in streams]
  return logit + sum(
    one @ form @ two for form, one, two in zip(p['form'], *parts, strict=True)
  )


def din(p, row):
  attended = np.zeros(SIZES.dim)
  for key in row.keys:
    q = row.query
    hidden = mlp(
      p['attention'][0]['mlp'], np.concatenate([q, key, q - key, q * key])
    )
    attended += linear(p['attention'][0]['out'], hidden)[0] * key
  attended /= SIZES.histories[0]
  return deep(p['deep'], np.append(row.flat, attended))


def bst(p, row):
  position = p['sequences'][0]['position']
  # The candidate, then the clicks: the newest is one ago.
  ago = np.arange(len(row.keys), 0, -1)
  y = np.concatenate([row.query + position[:1], row.keys + position[ago]])
  for i in range(CONFIG.num_layers):
    layer = p['sequences'][0]['layers'][i]
    parts = np.split(linear(layer['project'], y), 3, axis=1)
    scale = (SIZES.dim // CONFIG.num_heads) ** -0.5
    found = attend(parts, CONFIG.num_heads, scale)
    y = norm(layer['norms'][0], y + linear(layer['out'], found))
    hidden = leaky(linear(layer['up'], y))
    y = norm(layer['norms'][1], y + linear(layer['down'], hidden))
  return deep(p['deep'], np.append(row.flat, y.mean(axis=0)))


def hstu(p, row):
  x = np.concatenate([row.keys, row.query[None]])
  plain = {'scale': 1, 'bias': 0}
  places = SIZES.histories[0] + 1
  for i in range(CONFIG.num_layers):
    layer, y = p['sequences'][0]['layers'][i], []
    made = linear(layer['project'], norm(plain, x))
    u, *parts = np.split(made * sigmoid(made), 4, axis=1)
    v, q, k = (np.split(part, CONFIG.num_heads, axis=1) for part in parts)
    for m in range(len(x)):
      found = []
      for h in range(CONFIG.num_heads):
        score = k[h][: m + 1] @ q[h][m] + layer['bias'][np.arange(m, -1, -1)]
        found.append(score * sigmoid(score) / places @ v[h][: m + 1])
      y.append(np.concatenate(found))
    x = x + linear(layer['out'], norm(plain, np.stack(y)) * u)
  return deep(p['deep'], np.append(row.flat, x[-1]))


def shared_bottom(p, row, task=0):
  return tower(p['towers'], mlp(p['bottom'], row.flat), row.d, task)


def mmoe(p, row, task=0):
  found = experts(p['experts'], row.flat, CONFIG.num_experts)
  h = mixed(own_linear(p['gates'][task], row.flat, row.d), found)
  return tower(p['towers'], h, row.d, task)


def ple(p, row, task=0):
  """Of two levels."""
  level, last, own = p['levels'][0], p['last'], CONFIG.num_specific
  num_groups, shared = len(level['gates']), CONFIG.num_experts
  k = task * SIZES.num_scenarios + row.d
  # All groups' experts, theirs beside each other, then the shared ones.
  found = experts(level['experts'][0], row.flat, num_groups * own + shared)
  mine = found[k * own : (k + 1) * own] + found[num_groups * own :]
  x_k = mixed(linear(level['gates'][k], row.flat), mine)
  x_s = mixed(linear(level['shared_gate'], row.flat), found)
  seen = own_experts(last['specific'][task], x_k, row.d, own)
  seen += experts(last['shared'], x_s, shared)
  h = mixed(own_linear(last['gates'][task], x_k, row.d), seen)
  return tower(p['towers'], h, row.d, task)


def esmm(p, row, task=0):
  shares = [sigmoid(deep(p['tasks'][k], row.flat)) for k in range(task + 1)]
  share = np.prod(shares)
  return np.log(share / (1 - share))


def aitm(p, row, task=0):
  z = mlp(p['bottoms'][0], row.flat)
  for k in range(task):
    carried = relu(linear(p['carry'][k], z))
    both = np.stack([mlp(p['bottoms'][k + 1], row.flat), carried])
    query, key, value = np.split(linear(p['attend'][k], both), 3, axis=1)
    z = mixed((query * key).sum(axis=1) / len(z) ** 0.5, value)
  return deep(p['towers'][task], z)


def sar_net(p, row):
  h = p['scale'][row.d] * row.flat + p['bias'][row.d]
  found = own_experts(p['specific'][0], h, row.d, CONFIG.num_specific)
  found += experts(p['shared'], h, CONFIG.num_experts)
  return deep(p['deep'], mixed(own_linear(p['gates'][0], h, row.d), found))


def m2m(p, row):
  def meta(layer, known, h):
    kernel = linear(layer['kernel'], known).reshape(len(h), -1)
    return leaky(h @ kernel + linear(layer['bias'], known))

  known = relu(linear(p['know'], p['scenarios'][row.d]))
  found = experts(p['experts'], row.flat, CONFIG.num_experts)
  scores = [
    linear(p['score'], meta(p['attention'], known, np.append(h, p['task'])))
    for h in found
  ]
  read = mixed(np.concatenate(scores), found)
  for i in range(CONFIG.num_layers):
    read = leaky(meta(p['tower'][i], known, read) + read)
  return linear(p['out'], read)[0]


def adasparse(p, row):
  h = row.flat
  for i in range(len(p['layers'])):
    h = relu(h) if i else h
    share = sigmoid(linear(p['pruners'][i], np.concatenate([row.s, h])))
    h = linear(p['layers'][i], np.where(share < 0.25, 0, 2 * share) * h)
  return h[0]


def apg(p, row):
  h = row.flat
  for i in range(len(CONFIG.widths)):
    layer = p['layers'][i]
    core = chain(layer['core']['layers'], row.s)
    core = np.eye(CONFIG.rank) + core.reshape(CONFIG.rank, CONFIG.rank)
    h = relu(linear(layer['out'], core @ linear(layer['into'], h)))
  return linear(p['out'], h)[0]


def pepnet(p, row, v_of_gates=None):
  """The gates see `v_of_gates` where the gradient is stopped."""
  frozen = row.v if v_of_gates is None else v_of_gates

  def gate(hidden, out):
    return 2 * sigmoid(linear(out, relu(hidden)))

  def ep_gate(s):
    seen = np.concatenate([s, frozen.reshape(-1)])
    return gate(linear(p['ep_hidden'], seen), p['ep_gate'])

  h = ep_gate(row.v[SIZES.scenario_field]) * row.v.reshape(-1)
  stopped = ep_gate(frozen[SIZES.scenario_field]) * frozen.reshape(-1)
  prior = SIZES.user_fields + SIZES.item_fields
  seen = np.concatenate([*(row.v[f] for f in prior), stopped])
  parts = np.split(linear(p['pp_hidden']['first'], seen), len(CONFIG.widths))
  for i, hidden in enumerate(parts):
    h = relu(linear(p['layers'][i], h)) * gate(hidden, p['pp_gates'][i])
  return linear(p['layers'][len(parts)], h)[0]


@pytest.mark.parametrize(
  'equation',
  [
    fm,
    dlrm,
    dlrm_dcn,
    dcnv2,
    xdeepfm,
    autoint,
    finalmlp,
    masknet,
    masknet_serial,
    gdcn,
    gdcn_serial,
    wukong,
    din,
    bst,
    hstu,
    shared_bottom,
    mmoe,
    ple,
    *first_fast(pepnet, sar_net, m2m, adasparse, apg),
  ],
  ids=lambda f: f.__name__,
)
def test_a_logit_is_that_of_the_paper(equation):
  name = equation.__name__.removesuffix('_serial')
  rank = 3 if name == 'dlrm_dcn' else None
  model, p = made(name, parallel=name == equation.__name__, cross_rank=rank)
  x = inputs(8)
  expected = [equation(p, row) for row in rows(x)]
  np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', ['dlrm', 'published', 'dlrm_dcn'])
def test_numbers_make_a_vector_of_a_dlrm(kind):
  name, top_vectors = kind.replace('published', 'dlrm'), kind == 'dlrm'
  sizes = {'dense_width': 3, 'bottom_widths': (6,)}
  model, p = made(name, top_vectors=top_vectors, **sizes)
  dense = np.random.default_rng(7).normal(size=(8, 3)).astype(np.float32)
  x = inputs(8)._replace(dense_BX=jnp.asarray(dense))
  more = {} if name == 'dlrm_dcn' else {'top_vectors': top_vectors}
  equation = {'dlrm': dlrm, 'dlrm_dcn': dlrm_dcn}[name]
  expected = [
    equation(p, row, mlp(p['bottom'], numbers), **more)
    for row, numbers in zip(rows(x._replace(dense_BX=None)), dense)
  ]
  np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'equation',
  [mmoe, esmm, *first_fast(aitm, shared_bottom, ple)],
  ids=lambda f: f.__name__,
)
def test_each_task_has_its_logit(equation):
  model, p = made(equation.__name__, num_outputs=3)
  x = inputs(8)
  expected = [[equation(p, row, k) for k in range(3)] for row in rows(x)]
  found = model(x)
  found = getattr(found, 'all_BT', found)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_adasparse_prunes_in_this_test():
  _, p = made('adasparse')
  seen = [np.concatenate([row.s, row.flat]) for row in rows(inputs(8))]
  assert np.sum(sigmoid(linear(p['pruners'][0], np.stack(seen))) < 0.25) > 10


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
    for i in range(len(p['layers'])):
      layer = p['layers'][i]
      kernel = layer['kernel'] * layer['own_kernel'][:, d]
      h = (relu(h) if i else h) @ kernel + layer['bias'] + layer['own_bias'][d]
    expected.append(h[0] + deep(p['auxiliary'], v))
  np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4)


def test_pepnet_stops_the_gradient_where_the_paper_does():
  model, p = made('pepnet')
  x = inputs(8)
  row = next(rows(x))
  grads = jax.grad(
    lambda fields: jnp.sum(model(x._replace(fields_BFD=fields)))
  )(x.fields_BFD)
  step = 1e-5
  for f, i in ((0, 1), (2, 0), (SIZES.scenario_field, 2)):
    up, down = row.v.copy(), row.v.copy()
    up[f, i] += step
    down[f, i] -= step
    slope = pepnet(p, row._replace(v=up), row.v)
    slope = (slope - pepnet(p, row._replace(v=down), row.v)) / (2 * step)
    np.testing.assert_allclose(grads[0, f, i], slope, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_an_empty_history_is_nothing_whatever_its_keys_are():
  model, _ = made('din')
  x = inputs(8)
  history = x.histories[0]
  is_there = history.is_there_BM.at[1].set(False)

  def logits(keys):
    return model(
      x._replace(
        histories=(history._replace(keys_BMD=keys, is_there_BM=is_there),)
      )
    )

  keys = history.keys_BMD
  wild = jnp.where(is_there[..., None], keys, jnp.nan)
  np.testing.assert_array_equal(logits(wild), logits(keys))
  grads = jax.grad(lambda keys: logits(keys).sum())(keys)
  np.testing.assert_array_equal(grads[1], 0)
