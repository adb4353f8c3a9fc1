# %% [markdown]
"""
# DLRM

Will a user like a film? A DLRM multiplies the vectors of all features with each
other and feeds the products to an MLP. Its tables are split over the devices,
its dense layers under any PaRO code; rows and layers each have an optimizer.
"""

# %%
import jax

jax.config.update('jax_platforms', 'cpu')  # Leave out on GPU or TPU,
jax.config.update('jax_num_cpu_devices', 8)  # and this too.

import antjax
from antjax.data import output_folder, records
from antjax.jobs import prepare_data
from antjax.metrics import ranking
from flax import nnx
import jax.numpy as jnp
import numpy as np
import optax

# %% tags=["parameters"]
SOURCE = ''  # Folder with MovieLens; '' downloads MovieLens-1M.
NUM_EXAMPLES, BATCH = 400_000, 4096
NUM_TESTS = 20_000

# %% [markdown]
"""
## Data

MovieLens-1M as examples: a rating of 4 or 5 is a click, and the newest ratings
of all are held out. Times are left out here, so a history is not read.
"""

# %%
prepare_data.main(
  prepare_data.Config(
    views=('examples',),
    source=SOURCE,
    out='data/ml-1m',
    allow_other_counts=SOURCE != '',
  )
)


def read(split):
  names = ['user', 'item', 'ids', 'label', 'user_count', 'item_count']
  source = output_folder.open_split('data/ml-1m/examples', split)
  return records.whole_columns(source, names)


train, test = read('train'), read('test')
print(f'{len(train["label"])} examples, {train["label"].mean():.2f} clicks')

# %% [markdown]
"""
## Tables

`column` is one feature of three columns, each with a table of its own: one
gather serves all of them. Small tables are copied to every device, large ones
are spread.
"""

# %%
DIM = 16
COLUMNS = ('gender', 'age', 'occupation')
mesh = antjax.make_mesh(intra=4)


def table(name, num_rows, level):
  rows = antjax.RowWiseAdagrad(0.05)
  return antjax.TableSpec(
    name, num_rows, DIM, level=level, optimizer=rows, init_scale=0.05
  )


tables = antjax.EmbeddingTables(
  [
    table('user', int(train['user'].max()) + 1, 'global'),
    table('item', int(train['item'].max()) + 1, 'global'),
    *(table(name, 32, 'none') for name in COLUMNS),
  ],
  {'user': 'user', 'item': 'item', 'column': COLUMNS},
  mesh=mesh,
)

# %% [markdown]
"""
## Model

The two numbers are how often training saw the user and the film. A user or film
that training has not seen is row 0, the unknown one. Most users of the test are
such, so training forgets a third of its users, or that row would never learn.
"""


# %%
class Net(nnx.Module):
  def __init__(self, rngs):
    num_vectors = 2 + len(COLUMNS) + 1
    num_products = num_vectors * (num_vectors - 1) // 2
    self.bottom = nnx.Linear(2, DIM, rngs=rngs)
    self.hidden = nnx.Linear(num_products + DIM, 64, rngs=rngs)
    self.top = nnx.Linear(64, 1, rngs=rngs)

  def __call__(self, vectors, numbers):
    dense = nnx.relu(self.bottom(numbers))
    parts = [vectors['user'][:, None], vectors['item'][:, None]]
    x = jnp.concatenate([*parts, vectors['column'], dense[:, None]], axis=1)
    products = jnp.einsum('bid,bjd->bij', x, x)
    i, j = jnp.tril_indices(x.shape[1], -1)
    flat = jnp.concatenate([products[:, i, j], dense], axis=1)
    return self.top(nnx.relu(self.hidden(flat)))[:, 0]


graph = nnx.graphdef(Net(nnx.Rngs(0)))


def logits(params, rows, batch):
  vectors = tables.lookup(rows, batch['ids'])
  return nnx.merge(graph, params)(vectors, batch['numbers'])


def loss_fn(params, rows, batch, rng):
  del rng
  return optax.sigmoid_binary_cross_entropy(
    logits(params, rows, batch), batch['label']
  )


# %% [markdown]
"""
## Training

Two passes over half of the examples. `num_micro_batches` divides a device's
part of a batch; the result is the same, the memory of activations half.
"""


# %%
def make_batch(data, index, forget=None):
  counts = np.stack([data['user_count'], data['item_count']], 1)[index]
  if forget is not None:
    counts[forget, 0] = 0
  is_new = counts == 0
  ids = {name: data[name][index] for name in ('user', 'item')}
  ids['user'] = np.where(is_new[:, 0], 0, ids['user']).astype(np.int32)
  ids['item'] = np.where(is_new[:, 1], 0, ids['item']).astype(np.int32)
  ids['column'] = data['ids'][index]
  numbers = (np.log1p(counts) / 5).astype(np.float32)
  return {'ids': ids, 'numbers': numbers, 'label': data['label'][index]}


def make_batches(size=BATCH, num_examples=NUM_EXAMPLES, num_epochs=2):
  rng = np.random.default_rng(0)
  chosen = rng.permutation(len(train['label']))[:num_examples]
  for _ in range(num_epochs):
    rng.shuffle(chosen)
    for start in range(0, len(chosen) - size + 1, size):
      index = chosen[start : start + size]
      yield make_batch(train, index, rng.random(size) < 0.33)


trainer = antjax.Trainer(
  loss_fn,
  optax.adamw(1e-3),
  mesh=mesh,
  paro='IIG',
  tables=tables,
  num_micro_batches=2,
)
losses = []
state = trainer.fit(
  trainer.init(lambda key: nnx.state(Net(nnx.Rngs(key)), nnx.Param)),
  make_batches(),
  num_steps=1000,
  on_step=lambda step, metrics: losses.append(float(metrics['loss'])),
)
print(f'{len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}')

# %% [markdown]
"""
## Scores

AUC of held-out examples, beside that of a film's share of
clicks in training.
"""


# %%
def predict_fn(params, rows, batch, rng):
  del rng
  return {'prediction': logits(params, rows, batch), 'label': batch['label']}


held = make_batch(test, np.arange(NUM_TESTS))
auc = trainer.evaluate(state, [held], predict_fn, {'AUC': ranking.AUC()})
size = int(train['item'].max()) + 1
shown = np.bincount(train['item'], minlength=size)
clicked = np.bincount(train['item'], train['label'], minlength=size)
share = (clicked + 1) / (shown + 2)
items = held['ids']['item']
simple = ranking.AUC()
simple.update(share[items], held['label'])
print('DLRM:', auc, 'share of clicks:', simple.compute())
assert auc['AUC'] > 0.7
