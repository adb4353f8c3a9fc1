# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Seeded mistakes are found, right programs pass: in anybody's jitted step."""

import functools
import json

import jax
import jax.flatten_util
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import antjax
from antjax.jobs import lint_step
from antjax.mesh.paro import VALID_CODES
from antjax.plan.lint import lint
from antjax.plan.lint_report import LintError
from tests.plan import planner_test
from tests.train.state_shapes import state_shapes

M, L, D = 4, 3, 128  # Micro-batches, layers, width.
BOTH = ('data', 'fsdp')
WHOLE = P()


def _mesh(**axes):
  axes = axes or {'data': 2, 'fsdp': 4}
  types = (jax.sharding.AxisType.Auto,) * len(axes)
  return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=types)


def _shapes(mesh, spec=WHOLE, dtype=jnp.float32, stacked=False):
  def leaf(*shape, spec=spec):
    return jax.ShapeDtypeStruct(
      shape, dtype, sharding=NamedSharding(mesh, spec)
    )

  if stacked:
    layers = P(None, *spec)
    return {'first': leaf(D, 2 * D), 'w': leaf(L, 2 * D, 2 * D, spec=layers)}
  return {'first': leaf(D, 2 * D), 'second': leaf(2 * D, 72)}


def _loss(params, x):
  h = jnp.tanh(x @ params['first'].astype(x.dtype))
  if 'w' in params:

    def body(h, w):
      return jnp.tanh(h @ w), None

    return jnp.mean(jax.lax.scan(body, h, params['w'])[0] ** 2)
  return jnp.mean((h @ params['second'].astype(x.dtype)) ** 2)


def _psum(axes):
  return lambda tree: jax.tree.map(lambda x: jax.lax.psum(x, axes), tree)


def _gather(axes, dim=0):
  return lambda tree: jax.tree.map(
    lambda x: jax.lax.all_gather(x, axes, axis=dim, tiled=True), tree
  )


def _scatter(axes):
  return lambda tree: jax.tree.map(
    lambda x: jax.lax.psum_scatter(x, axes, tiled=True), tree
  )


def _then(*functions):
  return lambda tree: functools.reduce(lambda x, f: f(x), functions, tree)


def _ring(tree):
  """A sum over 'data' by a ring of whole arrays."""

  def one(x):
    return x + jax.lax.ppermute(x, 'data', [(0, 1), (1, 0)])

  return jax.tree.map(one, tree)


def _same(tree):
  return tree


def _manual(
  *,
  before=_same,  # Of parameters, once a step.
  each=_same,  # Of parameters, each micro-batch.
  input=_same,  # Of a micro-batch.
  inside=_same,  # Of a micro-batch's gradient.
  after=_same,  # Of the sums.
  updated=_same,  # Of the parameters after the update.
  spec=WHOLE,
  out=None,
  loss=_loss,
  fori=False,
  dtype=jnp.float32,
  stacked=False,
  axes=(),
  shapes=None,
):
  """A step in shard_map, its collectives written by hand."""
  mesh = _mesh(**dict(axes))

  def step(params, batch):
    params = before(params)

    def gradient(x):
      return inside(jax.grad(lambda p: loss(each(p), input(x)))(params))

    def micro(sums, x):
      return jax.tree.map(jnp.add, sums, gradient(x)), None

    zeros = jax.tree.map(jnp.zeros_like, gradient(batch[0]))
    if fori:
      num = M - (fori == 'unknown') * jnp.int32(batch[0, 0, 0] > 1e9)
      sums = jax.lax.fori_loop(
        0, num, lambda i, s: micro(s, batch[i])[0], zeros
      )
    else:
      sums, _ = jax.lax.scan(micro, zeros, batch)
    return updated(after(sums))

  shapes = shapes or _shapes(mesh, spec, dtype, stacked)
  specs = jax.tree.map(lambda x: x.sharding.spec, shapes)
  mapped = jax.shard_map(
    step,
    mesh=mesh,
    in_specs=(specs, P(None, mesh.axis_names)),
    out_specs=specs if out is None else out,
    check_vma=False,
  )
  batch = jax.ShapeDtypeStruct(
    (M, 64, D),
    dtype,
    sharding=NamedSharding(mesh, P(None, mesh.axis_names)),
  )
  return jax.jit(mapped), (shapes, batch), mesh


def _auto(*, params=WHOLE, grads=None, sums=None, activation=None):
  """A step that XLA's partitioner splits, by constraints."""
  mesh = _mesh()

  def constrain(x, spec):
    sharding = NamedSharding(mesh, spec)
    return jax.lax.with_sharding_constraint(x, sharding)

  def loss(p, x):
    h = jnp.tanh(x @ p['first'])
    if activation is not None:
      h = constrain(h, activation)
    return jnp.mean((h @ p['second']) ** 2)

  def step(p, batch):
    def micro(total, x):
      g = jax.grad(loss)(p, x)
      if grads is not None:
        g = jax.tree.map(lambda x: constrain(x, grads), g)
      return jax.tree.map(jnp.add, total, g), None

    total, _ = jax.lax.scan(micro, jax.tree.map(jnp.zeros_like, p), batch)
    if sums is not None:
      total = jax.tree.map(lambda x: constrain(x, sums), total)
    return jax.tree.map(lambda a, b: a - 1e-3 * b, p, total)

  shapes = _shapes(mesh, params)
  data = jax.ShapeDtypeStruct(
    (M, 64, D), jnp.float32, sharding=NamedSharding(mesh, P(None, BOTH))
  )
  return jax.jit(step), (shapes, data), mesh


def _one_leaf(tree):
  return {**tree, 'second': jax.lax.psum(tree['second'], BOTH)}


def _other_leaf(tree):
  return {**tree, 'first': jax.lax.psum(tree['first'], BOTH)}


def _clipped(tree):
  tree = _psum(BOTH)(tree)
  norm = sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)) ** 0.5
  return jax.tree.map(lambda x: x / jnp.maximum(norm, 1.0), tree)


def _gathering_loss(params, x):
  """Gathers three times what depends on the micro-batch: XLA hoists nothing."""
  tree = params
  whole = 0.0
  for i in range(1, 4):
    scaled = jax.tree.map(lambda p: p * jnp.mean(x**i), tree)
    whole = whole + _loss(_JOIN(scaled), x)
  return whole


def _joined_sum(tree):
  flat, unflatten = jax.flatten_util.ravel_pytree(tree)
  return unflatten(jax.lax.psum(flat, BOTH))


def _joined_columns(tree):
  first, second = tree['first'], tree['second']
  joined = jax.lax.psum(jnp.concatenate([first.T, second], 1), BOTH)
  return {'first': joined[:, : len(first)].T, 'second': joined[:, len(first) :]}


def _half(tree):
  return jax.tree.map(lambda x: x[: x.shape[0] // 2], tree)


_SUM = _psum(BOTH)
_SPLIT = _then(_scatter('fsdp'), _scatter('data'))
_JOIN = _then(_gather('data'), _gather('fsdp'))
_FSDP = {'spec': P('fsdp'), 'each': _gather('fsdp')}  # AD sums over fsdp.
_ZERO3 = {'spec': P(('fsdp', 'data'))}
_LAST = {'axes': {'fsdp': 4, 'data': 2}}
_CUBE = {'axes': {'data': 2, 'fsdp': 2, 'model': 2}}
_CUBE_SUM = _psum(('data', 'fsdp', 'model'))

# Settings of `_manual`; of `_auto`, where a name begins with XLA.
MISTAKES = {
  'all in one message': {'inside': _joined_sum},
  'joined by their columns': {'inside': _joined_columns},
  'summed in the scan': {'inside': _SUM},
  'summed in a fori_loop': {'inside': _SUM, 'fori': True},
  'the slow axis alone': {'inside': _psum('data'), 'after': _psum('fsdp')},
  'one leaf in the loop': {'inside': _one_leaf, 'after': _other_leaf},
  'clipped at each micro-batch': {'inside': _clipped},
  'stacked layers in the loop': {'inside': _SUM, 'stacked': True},
  'FSDP, summed outside each time': {**_FSDP, 'inside': _psum('data')},
  'FSDP in a fori_loop': {**_FSDP, 'inside': _psum('data'), 'fori': True},
  'in a loop of unknown length': {'inside': _SUM, 'fori': 'unknown'},
  'in bfloat16': {'inside': _SUM, 'dtype': jnp.bfloat16},
  'on three axes': {'inside': _CUBE_SUM, **_CUBE},
  'the slow axis last': {'inside': _SUM, **_LAST},
  'a ring in the loop': {'inside': _then(_psum('fsdp'), _ring)},
  'scattered and gathered again': {
    'inside': _then(_scatter('data'), _gather('data')),
    'after': _psum('fsdp'),
  },
  'whole weights, gathered': {
    'spec': P('data'),
    'before': _gather('data'),
    'each': _then(_half, _gather('data')),
    'after': _SUM,
    'out': P(),
  },
  'gathered three times': {**_ZERO3, 'loss': _gathering_loss},
  'each lane gathers all': {
    **_ZERO3,
    'each': _then(_gather('fsdp'), _gather('data')),
  },
  'each lane sums all': {'after': _then(_psum('fsdp'), _psum('data'))},
  'summed twice': {'after': _then(_SUM, _SUM)},
  'each lane gathers the update': {
    'after': _then(_psum('fsdp'), _scatter('data')),
    'updated': _gather('data'),
  },
  'XLA sums in the loop': {},
  'XLA, gradients held to be whole': {'grads': P(), 'sums': P('fsdp')},
  'XLA, FSDP on the fast axis': {'params': P('fsdp')},
  'XLA, activations on all devices': {'params': P('fsdp'), 'activation': P()},
}
RIGHT = {
  'summed once': {'after': _SUM},
  'summed once, stacked': {'after': _SUM, 'stacked': True},
  'summed once in a fori_loop': {'after': _SUM, 'fori': True},
  'after a loop of unknown length': {'after': _SUM, 'fori': 'unknown'},
  'split over all, unknown length': {
    **_ZERO3,
    'each': _JOIN,
    'fori': 'unknown',
  },
  'scattered, summed outside, gathered': {
    'after': _then(_scatter('fsdp'), _psum('data'), _gather('fsdp'))
  },
  'FSDP, summed once outside': {**_FSDP, 'after': _psum('data')},
  'gradients split in the loop': {'inside': _SPLIT, 'updated': _JOIN},
  'parameters split over all': {**_ZERO3, 'each': _JOIN},
  'optimizer split over all': {'after': _SPLIT, 'updated': _JOIN},
  'negatives of all devices': {'after': _SUM, 'input': _gather(BOTH)},
  'in bfloat16': {'after': _SUM, 'dtype': jnp.bfloat16},
  'on three axes': {'after': _CUBE_SUM, **_CUBE},
  'the slow axis last': {'after': _SUM, **_LAST},
}
_FAST = {
  *(
    'summed in the scan',
    'joined by their columns',
    'stacked layers in the loop',
    'the slow axis last',
  ),
  *('gathered three times', 'each lane sums all', 'XLA sums in the loop'),
  *('XLA, activations on all devices', 'parameters split over all'),
  'in a loop of unknown length',
  *('FSDP, summed once outside', 'negatives of all devices'),
}


def _cases(programs):
  return [
    pytest.param(
      *(name, settings),
      marks=() if name in _FAST else pytest.mark.slow,
      id=name,
    )
    for name, settings in programs.items()
  ]


def _report(name, settings):
  make = _auto if name.startswith('XLA') else _manual
  step, args, mesh = make(**settings)
  return lint(step, *args, mesh=mesh, slow='data', params=args[0])


@pytest.mark.parametrize('name, settings', _cases(MISTAKES))
def test_mistakes_are_found(name, settings):
  report = _report(name, settings)
  assert report.findings, str(report)
  assert report.sent > report.least
  with pytest.raises(LintError, match='sends more than necessary'):
    report.check()


@pytest.mark.parametrize('name, settings', _cases(RIGHT))
def test_right_programs_have_no_findings(name, settings):
  report = _report(name, settings)
  assert not report.findings, str(report)
  assert report.lines  # All of them cross the slow axis.
  report.check()


@pytest.mark.parametrize(
  'mistaken, is_bucket, leaf',
  [
    ([], False, None),
    (['0'], False, 'layers.0 or layers.1 or 6 more'),
    (['0', '1'], False, 'layers.0 or layers.1 or 6 more'),
    (['0', '1', '2'], True, 'arrays not attributed'),
  ],
)
def test_some_of_many_equal_leaves_are_found(mistaken, is_bucket, leaf):
  """Summed in the loop each by itself, or in a bucket."""
  mesh = _mesh()
  layers = [str(i) for i in range(8)]
  each = jax.ShapeDtypeStruct(
    (D, D), jnp.float32, sharding=NamedSharding(mesh, P())
  )
  params = {'layers': dict.fromkeys(layers, each)}

  def loss(p, h):
    return jnp.mean(
      functools.reduce(lambda h, k: jnp.tanh(h @ p['layers'][k]), layers, h)
      ** 2
    )

  def inside(tree):
    ours = {k: tree['layers'][k] for k in mistaken}
    summed = (_joined_sum if is_bucket else _SUM)(ours) if ours else {}
    return {'layers': {**tree['layers'], **summed}}

  def after(tree):
    rest = {k: x for k, x in tree['layers'].items() if k not in mistaken}
    return {'layers': {**tree['layers'], **_SUM(rest)}}

  settings = {'inside': inside, 'after': after, 'loss': loss}
  step, args, _ = _manual(**settings, shapes=params)
  report = lint(step, *args, mesh=mesh, slow='data', params=params)
  assert [line.leaf for line in report.findings] == [leaf] * bool(mistaken)
  for line in report.findings:
    assert line.runs == M and str(M) in line.finding
    assert line.sent == M * len(mistaken) * D * D * 4 // 4 == M * line.least


def test_layers_in_the_second_dim_and_heads_are_told_from_activations():
  """As MaxText keeps them: [width, layers, heads, width of a head]."""
  mesh, layers, heads = _mesh(), 2, 8
  shapes = {
    'w': ((D, layers, heads, 16), P('fsdp')),
    'out': ((heads, layers, 16, D), P(None, None, None, 'fsdp')),
  }
  params = {
    name: jax.ShapeDtypeStruct(
      shape, jnp.float32, sharding=NamedSharding(mesh, spec)
    )
    for name, (shape, spec) in shapes.items()
  }

  def loss(p, h):
    def layer(h, w):
      y = jnp.tanh(jnp.einsum('bd,dnh->bnh', h, w['w']))
      return jnp.einsum('bnh,nhd->bd', y, w['out']), None

    by_layer = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), p)
    return jnp.mean(jax.lax.scan(layer, h, by_layer)[0] ** 2)

  def step(p, batch):
    def micro(total, x):
      return jax.tree.map(jnp.add, total, jax.grad(loss)(p, x)), None

    return jax.lax.scan(micro, jax.tree.map(jnp.zeros_like, p), batch)[0]

  data = jax.ShapeDtypeStruct(
    (M, 64, D), jnp.float32, sharding=NamedSharding(mesh, P(None, BOTH))
  )
  report = lint(
    jax.jit(step, out_shardings={k: v.sharding for k, v in params.items()}),
    *(params, data),
    mesh=mesh,
    slow='data',
    params=params,
  )
  (line,) = report.lines
  assert line.leaf == 'out or w' and line.finding
  assert (line.runs, line.sent) == (M, M * line.least), str(report)


def test_the_leaf_its_bytes_and_the_place_are_named():
  report = _report('one leaf', MISTAKES['one leaf in the loop'])
  (line,) = report.findings
  assert line.leaf == 'second'
  # Each of 8 devices sends its eighth of 256 x 72 floats to the other group
  # and takes it back summed: (2 - 1) / 2 of it twice, at each micro-batch.
  assert line.least == 256 * 72 * 4 // 4
  assert (line.runs, line.sent) == (M, M * line.least)
  assert 'while/body' in line.source and 'psum' in line.source


@pytest.mark.parametrize(
  'code',
  [
    code if code == 'GGG' else pytest.param(code, marks=pytest.mark.slow)
    for code in VALID_CODES
  ],
)
def test_paro_codes_have_no_findings(code):
  trainer = planner_test.trainer_of(code, scanned=planner_test.scanned)
  state = state_shapes(trainer, planner_test.init_params())
  rows = planner_test.S * 8 * 2
  inputs = trainer.step_inputs(np.ones((rows, 10), np.float32))
  report = lint(
    trainer.compiled_step(),
    *(state, inputs),
    mesh=trainer.mesh,
    slow='inter',
    params=state.params,
  )
  assert not report.findings, str(report)


def test_the_parameters_of_a_trainer_are_known_by_the_names_of_its_users_mesh():
  mesh = _mesh(fsdp=4, data=2)
  trainer = antjax.Trainer(
    lambda params, batch, rng: jnp.mean((batch @ params['w']) ** 2, 1),
    optax.sgd(0.1),
    mesh=mesh,
    inter='data',
    intra='fsdp',
    paro='GGG',
    num_micro_batches=2,
  )
  state = trainer.init({'w': np.ones((D, D), np.float32)})
  inputs = trainer.step_inputs(np.ones((16, D), np.float32))
  report = lint(
    trainer.compiled_step(),
    *(state, inputs),
    mesh=mesh,
    slow='data',
    params=state.params,
  )
  assert {line.leaf for line in report.lines} == {'w'}
  assert not report.findings, str(report)


def test_a_golden_file_is_written_held_and_names_what_is_more(tmp_path):
  golden = tmp_path / 'step.json'
  once = _report('once', RIGHT['summed once'])
  twice = _report('twice', MISTAKES['summed twice'])
  once.check(golden)
  assert json.loads(golden.read_text()) == {
    'all-reduce of first': 128 * 256 * 4 // 4,
    'all-reduce of second': 256 * 72 * 4 // 4,
  }
  once.check(golden)
  with pytest.raises(LintError, match=r'all-reduce of first: 65,536'):
    twice.check(golden)
  golden.unlink()
  twice.check(golden)  # Accepted.
  twice.check(golden)
  once.check(golden)  # Less is well.


def test_wrong_arguments_are_refused():
  step, args, mesh = _manual(after=_SUM)
  with pytest.raises(
    ValueError, match="slow='dcn' is not an axis .* data, fsdp"
  ):
    lint(step, *args, mesh=mesh, slow='dcn', params=args[0])
  with pytest.raises(ValueError, match='is not jitted; pass jax.jit'):
    lint(lambda *args: args, *args, mesh=mesh, slow='data', params=args[0])


def clean_report():
  return _report('once', RIGHT['summed once'])


def bad_report():
  return _report('twice', MISTAKES['summed twice'])


@pytest.mark.parametrize(
  'step, says',
  [
    ('bad_report', 'The step sends more than necessary'),
    ('nowhere', 'needed is package.module:function'),
    ('_mesh', 'returned Mesh; needed is what'),
  ],
)
def test_the_command_ends_with_an_error(step, says):
  config = lint_step.Config(step=f'tests.plan.lint_test:{step}')
  with pytest.raises((SystemExit, ValueError), match=says):
    lint_step.main(config)


def test_the_command_prints_the_report(capsys):
  lint_step.main(lint_step.Config(step='tests.plan.lint_test:clean_report'))
  assert 'all-reduce of first' in capsys.readouterr().out
