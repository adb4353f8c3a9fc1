# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click networks over tasks' features, and labels that are ratings."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.meta import maml, meta_loss, task_network
from antjax.meta.task_network import LabelKind, RatingLevels, TaskNetwork
from antjax.networks import load
from tests.cases import slow_but
from tests.meta import small_tasks

CONFIG = load.NetworkConfig(
  widths=(8, 4), tower_widths=(4,), expert_widths=(6,), gate_width=5, rank=2
)
# Each in the derivative that has all terms; the first order is one more of the
# same program's outputs, whatever the network.
FAST = ('dcnv2', 1)


def vectors(dims, rows=5):
  rng = np.random.default_rng(0)
  return {
    name: jnp.asarray(rng.normal(size=(rows, dim)), jnp.float32)
    for name, dim in dims.items()
  }


def network(kind, dims, **options):
  options = {'embedding_dim': 4, 'rngs': nnx.Rngs(0)} | options
  return TaskNetwork(kind, CONFIG, dims, **options)


@pytest.mark.parametrize('num_outputs', [1, 5])
@pytest.mark.parametrize(
  'kind',
  slow_but(['dlrm', 'melu', 'pepnet'], 'dlrm', 'melu'),
)
def test_one_output_or_several_a_row(kind, num_outputs):
  dims = {'user': 4, 'item': 4}
  model = network(kind, dims, num_outputs=num_outputs)
  has_several = num_outputs > 1 and kind != 'pepnet'
  shape = (5, num_outputs) if has_several else (5,)
  assert model(vectors(dims), {}).shape == shape


@pytest.mark.parametrize('kind', ['dlrm', 'melu', 'dcnv2'])
def test_numeric_inputs_matter(kind):
  dims = {'a': 4}
  model = network(kind, dims, num_numeric=2)
  zero, one = (
    model(vectors(dims), {'numeric': jnp.full((5, 2), x)}) for x in (0.0, 1.0)
  )
  assert not np.allclose(zero, one)


def test_an_interaction_needs_two_vectors():
  with pytest.raises(ValueError, match='needs two vectors, and there is 1'):
    network('dlrm', {'a': 4})


@pytest.mark.parametrize(
  'kind, need',
  [
    ('din', 'history'),
    ('star', 'moments'),
    ('esmm', 'labels'),
    ('examples.apg:APG', 'scenario'),
  ],
)
def test_what_tasks_have_not_is_refused(kind, need):
  with pytest.raises(ValueError, match=f"kind={kind}: it needs '{need}'"):
    network(kind, {'user': 4, 'item': 4})


@pytest.mark.parametrize(
  'kind, order',
  slow_but(
    [
      FAST,
      *(
        (name, 2)
        for name, found in load.NETWORKS.items()
        if not found.needs & {*task_network.LACKING, 'support'}
        and name not in ('lr', 'fm')  # No network.
      ),
    ],
    FAST,
  ),
)
def test_every_other_network_adapts_its_decision_layers(kind, order):
  model, params, rows = small_tasks.make_model(kind, (8, 4))
  inner = maml.InnerLoop(adapt='decision', learning_rate=0.1, order=order)
  losses = meta_loss.meta_loss_fn(model, inner)

  @jax.jit
  def run(params):
    return jax.value_and_grad(
      lambda p: losses(p, rows, small_tasks.make_batch(), None)[0].mean()
    )(params)

  loss, grads = run(params)
  sizes = [jnp.abs(g).max() for g in jax.tree.leaves(grads)]
  assert np.isfinite(loss) and np.isfinite(sizes).all() and max(sizes) > 0


def test_one_number_a_row_becomes_a_distribution_of_ratings():
  levels = RatingLevels()
  guess = levels.predictions(jnp.asarray([-2.0, 0.0, 9.0]))
  assert guess['prediction'][1] == pytest.approx(3.0, abs=1e-5)
  np.testing.assert_array_equal(guess['median'], [1.0, 3.0, 5.0])
  assert (np.diff(guess['prediction']) > 0).all()
  with pytest.raises(ValueError, match="labels of kind 'sale'"):
    LabelKind.of('sale')


def test_levels_give_the_best_guess_for_each_error():
  levels = RatingLevels()
  shares = np.asarray(
    [
      [0.1, 0.1, 0.1, 0.3, 0.4],
      [0.6, 0.1, 0.1, 0.1, 0.1],
      [0.0, 0.0, 0.0, 0.0, 1.0],
    ]
  )
  guess = levels.predictions(jnp.log(shares + 1e-12))
  ratings = np.arange(1, 6)
  np.testing.assert_allclose(guess['prediction'], shares @ ratings, rtol=1e-5)
  errors = (shares[:, :, None] * np.abs(ratings[:, None] - ratings)).sum(1)
  np.testing.assert_array_equal(guess['median'], ratings[errors.argmin(1)])


def test_the_loss_is_the_cross_entropy_of_the_nearest_level():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
  loss = RatingLevels().loss(logits, jnp.asarray([1.0, 3.4, 9.0]))
  log_shares = nnx.log_softmax(logits)
  np.testing.assert_allclose(
    loss, [-log_shares[0, 0], -log_shares[1, 2], -log_shares[2, 4]], rtol=1e-6
  )


@pytest.mark.parametrize('kind', ['dlrm', 'melu'])
def test_features_may_have_widths_of_their_own(kind):
  model = network(kind, {'a': 4, 'b': 2})
  mixed = vectors({'a': 4, 'b': 2})
  # The same as a model of one width that gets the mapped vector.
  plain = network(kind, {'a': 4, 'b': 4})
  plain.model = model.model
  mapped = {**mixed, 'b': mixed['b'] @ model.project['b'].kernel[...]}
  np.testing.assert_allclose(model(mixed, {}), plain(mapped, {}), rtol=1e-6)
