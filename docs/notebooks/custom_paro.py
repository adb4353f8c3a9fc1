# %% [markdown]
"""
# Your model under PaRO

A model of plain JAX, its layers in a stack, trained under three codes. They
hold and move different things and learn the same. The task: which genre does a
user watch next, from the films watched before, in MovieLens-1M.
"""

# %%
import jax

jax.config.update('jax_platforms', 'cpu')  # Leave out on GPU or TPU,
jax.config.update('jax_num_cpu_devices', 8)  # and this too.

import antjax
from antjax.data.sequence_data import SequenceData
from antjax.jobs import prepare_data
import jax.numpy as jnp
import numpy as np
import optax

# %% tags=["parameters"]
SOURCE = ''  # Folder with MovieLens; '' downloads MovieLens-1M.
NUM_STEPS, BATCH = 60, 512

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
print(f'{data.num_items - 1} films of {len(data.domain_names)} genres')

# %% [markdown]
"""
## Model

Nothing here knows of devices, but for `scan_layers`: it runs a stack of layers,
and lets the Trainer gather one of them at a time.
"""

# %%
WIDTH, LAYERS, HISTORY = 128, 6, 20


def init(key):
  keys = jax.random.split(key, 3)
  shape = (LAYERS, WIDTH, WIDTH)
  return {
    'films': jax.random.normal(keys[0], (data.num_items, WIDTH)) * 0.1,
    'layers': {
      'w': jax.random.normal(keys[1], shape) / WIDTH**0.5,
      'b': jnp.zeros((LAYERS, WIDTH)),
    },
    'out': jax.random.normal(keys[2], (WIDTH, len(data.domain_names))) * 0.1,
  }


def layer(x, params):
  h = jax.nn.relu(x @ params['w'] + params['b'])
  return x + h / LAYERS**0.5


def loss_fn(params, batch, rng):
  del rng
  is_film = (batch['history'] > 0)[..., None]
  vectors = params['films'][batch['history']] * is_film
  x = vectors.sum(1) / jnp.maximum(is_film.sum(1), 1)
  x = antjax.scan_layers(layer, x, params['layers'])
  logits = x @ params['out']
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['genre']
  )
  is_right = logits.argmax(-1) == batch['genre']
  return losses, {'accuracy': is_right.astype(jnp.float32)}


def make_batches(num_batches, size=BATCH):
  rng = np.random.default_rng(0)
  for _ in range(num_batches):
    index = rng.integers(train.num_examples, size=size)
    user, position = train.examples(index)
    yield {
      'history': train.histories(user, position, HISTORY),
      'genre': data.domains[train.targets(user, position)],
    }


# %% [markdown]
"""
## Three codes

`NNN` copies everything to all devices, `GGG` splits everything over all of
them, `IIG` splits parameters and gradients inside a group of four.
"""

# %%
mesh = antjax.make_mesh(intra=4)
curves = {}
for code in ('NNN', 'IIG', 'GGG'):
  trainer = antjax.Trainer(
    loss_fn,
    optax.adam(1e-3),
    mesh=mesh,
    paro=code,
    scanned=lambda name: name.startswith('layers'),
  )
  curve = curves[code] = []
  state = trainer.fit(
    trainer.init(init, seed=0),
    make_batches(NUM_STEPS),
    num_steps=NUM_STEPS,
    on_step=lambda step, metrics: curve.append(float(metrics['loss'])),
  )
  sizes = trainer.bytes_per_device()
  print(f'{code}: loss {curve[0]:.4f} -> {curve[-1]:.4f}, bytes: {sizes}')
for code, curve in curves.items():
  np.testing.assert_allclose(curve, curves['NNN'], rtol=1e-4, err_msg=code)

# %% [markdown]
"""
## Unequal groups

Under an elastic code each group may do its own number of micro-batches in a
step, without a compilation: a slow host does fewer. Sums and weights cross the
slow links, so the gradient is that of all examples used.
"""

# %%
trainer = antjax.Trainer(
  loss_fn, optax.adam(1e-3), mesh=mesh, paro='IIG', num_micro_batches=4
)
state = trainer.init(init, seed=0)
(batch,) = make_batches(1)
for counts in ([4, 4], [4, 1], [4, 0]):
  state, metrics = trainer.step(state, batch, num_micro_batches=counts)
  print(counts, f'weight {metrics["weight"]:.0f}, loss {metrics["loss"]:.4f}')
