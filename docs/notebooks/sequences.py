# %% [markdown]
"""
# Sequential recommendation

SASRec reads the films that a user watched, in time, and says at each place
which comes next. Its parts are in the library: prepared sequences, the encoder,
the loss with sampled negatives, and exact ranks. Here they are put together by
hand; `launch/llm_rec_baselines.py` does it with validation, early stopping and
more models.
"""

# %%
import jax

jax.config.update('jax_platforms', 'cpu')  # Leave out on GPU or TPU,
jax.config.update('jax_num_cpu_devices', 8)  # and this too.

import antjax
from antjax.ctr.llm_rec import encoders, next_item, ranking
from antjax.data import sequence_events
from antjax.data.sequence_data import SequenceData
from antjax.jobs import prepare_data
import numpy as np
import optax

# %% tags=["parameters"]
SOURCE = ''  # Folder with MovieLens; '' downloads MovieLens-1M.
NUM_STEPS, BATCH = 200, 128
NUM_TESTS = 1000  # Users that are ranked for at the end.

# %% [markdown]
"""
## Data

Users with their films in time. Training sees all but the last two of each; a
long history is cut into runs of 30.
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
LENGTH = 30
starts, stops = data.training().windows(LENGTH)
print(f'{len(starts)} runs of {data.num_users} users')

# %% [markdown]
"""
## Model

The encoder is a transformer of two layers whose parameters are sharded by PaRO;
the films have a table, whose rows have an optimizer of their own.
"""

# %%
mesh = antjax.make_mesh(intra=4)
model = next_item.NextItemModel(
  encoders.SASRecConfig(dim=48, max_length=LENGTH, dropout=0.2),
  data.num_items,
  learning_rate=2e-3,
)
tables = model.tables(mesh)


def loss_fn(params, rows, batch, rng):
  ids = batch['ids']
  return model.loss(params, ids, tables.lookup(rows, ids), rng)


# %% [markdown]
"""
The loss returns losses and weights: a run's weight is its number of films, so
that each film counts once, however long its run is.

## Training
"""


# %%
def make_batches(num_batches, size=BATCH, num_negatives=4, seed=0):
  rng = np.random.default_rng(seed)
  for _ in range(num_batches):
    i = rng.integers(len(starts), size=size)
    runs = sequence_events.newest(data.events, starts[i], stops[i], LENGTH + 1)
    drawn = rng.integers(1, data.num_items, (size, num_negatives))
    yield model.prepare(runs, drawn)


trainer = antjax.Trainer(
  loss_fn, optax.adamw(2e-3), mesh=mesh, paro='IIG', tables=tables
)
losses = []
state = trainer.fit(
  trainer.init(model.init_params, seed=0),
  make_batches(NUM_STEPS),
  num_steps=NUM_STEPS,
  on_step=lambda step, metrics: losses.append(float(metrics['loss'])),
)
print(f'loss {np.mean(losses[:10]):.2f} -> {np.mean(losses[-10:]):.2f}')

# %% [markdown]
"""
## Ranks

Each user's last film, among all films but those watched before.
"""

# %%
rows = tables.to_canonical(state.tables)['item']['table']
trained = next_item.TrainedNextItem(model, trainer.params(state), rows)
user, position = (x[:NUM_TESTS] for x in data.examples('test'))
targets = data.all_events.targets(user, position)
history = data.all_events.whole_histories(user, position)
newest = data.all_events.histories(user, position, LENGTH)
ranks = ranking.full_ranks(
  trained.user_vectors(newest), trained.item_vectors(), targets, history
)
order = np.argsort(np.argsort(-data.counts))
popular = ranking.full_ranks(
  np.ones((len(user), 1), np.float32),
  -order[:, None].astype(np.float32),
  targets,
  history,
)
for name, found in (('SASRec', ranks), ('popularity', popular)):
  print(f'{name}: recall@10 {np.mean(found < 10):.3f}')
assert np.mean(ranks < 10) > np.mean(popular < 10)

# %% [markdown]
"""
One user's newest films and what follows them:
"""

# %%
vector = trained.user_vectors(newest[:1])
scores = (vector @ trained.item_vectors().T)[0]
scores[[0, *history[0]]] = -np.inf
print('watched: ', ', '.join(data.titles[i] for i in newest[0][-3:] if i))
print('next:    ', ', '.join(data.titles[i] for i in np.argsort(-scores)[:3]))
