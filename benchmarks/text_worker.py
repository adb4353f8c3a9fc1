# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The worker of `chaos_bench` and `straggler_bench`: a small LM on real text.

Under launch/agent.py it trains on leased sequences, with frequent checkpoints,
and notes its input of each step (see `chaos_lineage`). Under
launch/local_cluster.py, with a file of such steps, it repeats them without
faults. In both cases rank 0 reports each step in `<out>/progress.jsonl`; a
model with a witness writes its digest to `<out>/final/`, and on rank 0 the
whole arrays.
"""

from collections.abc import Callable, Iterator
import hashlib
import json
import os
import pathlib
import sys
import time
import traceback
from typing import Any

import grain
import jax
import numpy as np
import optax

from antjax.elastic.worker import Agent
from antjax.jobs import distributed, script
from antjax.jobs import job as job_lib
from antjax.layers.functional import Functional
from antjax.lm import Config, Transformer
from antjax.lm import tokenizer as tokenizer_lib
from antjax.mesh.mesh import make_mesh
from antjax.shards import position
from antjax.train.elastic import Plan
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer
from benchmarks import chaos_witness
from benchmarks.text_job import Job, open_source, OVER, RAISE

Batch = dict[str, np.ndarray]
_KEY = 'record_key'


def padded(batch: Batch, rows: int, generation: int) -> Batch:
  """A batch of the full size, with weights and the generation."""
  num = len(batch[_KEY])
  full = {k: np.resize(v, (rows, *v.shape[1:])) for k, v in batch.items()}
  return {
    **full,
    _KEY: full[_KEY].astype(np.int32),
    'weight': (np.arange(rows) < num).astype(np.float32),
    'generation': np.full((rows,), generation, np.float32),
  }


class _Note(grain.transforms.Map):
  """Notes the keys of each micro-batch, and pads it."""

  def __init__(self, add: Callable[..., None], rows: int, generation: int):
    self._add, self._rows, self._generation = add, rows, generation

  def map(self, batch: Batch) -> Batch:
    self._add(keys=batch[_KEY].tolist())
    return padded(batch, self._rows, self._generation)


class _Noting:
  """An agent that also notes when a step has all its micro-batches.

  The loop asks for the newest plan then, and once before the first step.
  """

  def __init__(self, agent: Agent, add: Callable[..., None], job: Job):
    self._agent, self._add, self._job = agent, add, job
    self._over = pathlib.Path(job.out) / OVER
    self._raise = pathlib.Path(job.out) / f'{RAISE}.{agent.worker}'
    self._last = 0.0
    self.worker = agent.worker

  def plan(self) -> Any:
    self._add(ends=1)
    if self._raise.exists():
      self._raise.unlink()
      raise RuntimeError('raised as asked')
    wait_s = self._last + self._job.step_s - time.monotonic()
    if wait_s > 0 and not self._over.exists():
      time.sleep(wait_s)
    self._last = time.monotonic()
    return self._agent.plan()

  def __getattr__(self, name: str) -> Any:
    return getattr(self._agent, name)


class Replay:
  """Repeats the steps of one worker, as its input and its control."""

  def __init__(self, job: Job, noted: dict[str, Any], rank: int):
    """Takes the input of all ranks, and the generation, of each step."""
    self.worker = str(rank)
    self._job, self._source = job, open_source(job)
    self._items = self._parts(noted, rank)
    self._num_left = len(noted['steps'])
    self.on_step = _progress(job, 0)

  def _parts(self, noted: dict[str, Any], rank: int) -> Iterator[Batch | None]:
    """Yields the micro-batches of each step, and then None."""
    for step, generation in zip(
      noted['steps'], noted['generations'], strict=True
    ):
      for keys in step[rank] if rank < len(step) else []:
        indices = [key % self._job.num_sequences for key in keys]
        rows = [self._source.read(i, i + 1)[0] for i in indices]
        batch = {n: np.stack([row[n] for row in rows]) for n in rows[0]}
        batch[_KEY] = np.array(keys)
        yield padded(batch, self._job.rows, generation)
      self._num_left -= 1
      yield None

  def __iter__(self) -> 'Replay':
    return self

  def __next__(self) -> Batch:
    batch = next(self._items, None)
    if batch is None:
      raise StopIteration
    return batch

  def plan(self) -> Plan:
    # More than any step has: each step ends when its input has no more.
    return Plan(1, {str(n): 1000 for n in range(jax.process_count())})

  def may_get_more(self) -> bool:
    return self._num_left > 0

  def is_stopping(self) -> bool:
    return False

  def on_batch_time(self, *args: Any) -> None:
    pass

  def on_commit(self, *args: Any) -> None:
    pass


def make_trainer(job: Job) -> tuple[Trainer, TrainState]:
  """The model with its witness, and its initial state."""
  path = pathlib.Path(job.data) / tokenizer_lib.FILE_NAME
  config = Config(
    vocab_size=tokenizer_lib.load(path).vocab_size,
    embed_dim=job.dim,
    mlp_dim=2 * job.dim,
    num_layers=job.num_layers,
    remat='none',
  )

  def loss_fn(params: Any, batch: Any, rng: Any) -> tuple[jax.Array, jax.Array]:
    del rng
    losses, _ = Transformer.of(config, params['model']).loss(batch)
    if job.has_witness:
      losses = chaos_witness.marked(
        params['witness'], losses, batch[_KEY], batch['generation']
      )
    return losses, batch['weight']

  parts = {
    'model': optax.chain(
      optax.clip_by_global_norm(1.0), optax.sgd(0.05, momentum=0.9)
    )
  }
  if job.has_witness:  # There are at most as many steps as records.
    parts['witness'] = chaos_witness.transform(job.num_keys)
  trainer = Trainer(
    loss_fn,
    optax.partition(parts, {name: name for name in parts}),
    mesh=make_mesh(intra=jax.local_device_count()),
    paro=job.paro,
    num_micro_batches=job.num_micro_batches,
  )

  def init(key: jax.Array) -> dict[str, Any]:
    params = {'model': Functional(Transformer, config).init(key)}
    if job.has_witness:
      params['witness'] = chaos_witness.init(job.num_keys)
    return params

  return trainer, trainer.init(init)


def write_final(
  job: Job, trainer: Trainer, state: TrainState, generation: int, worker: str
) -> None:
  """Writes the digest of the final parameters; on rank 0 also the arrays."""

  def is_witness(x: Any) -> bool:
    return isinstance(x, chaos_witness.WitnessState)

  leaves = jax.tree.leaves(state.opt_state, is_leaf=is_witness)
  (witness,) = filter(is_witness, leaves)
  whole = jax.jit(
    lambda x: x, out_shardings=jax.NamedSharding(trainer.mesh, jax.P())
  )((trainer.params(state), witness))
  params, witness = jax.device_get(whole)
  arrays = {
    jax.tree_util.keystr(path, simple=True, separator='.'): x
    for path, x in jax.tree.leaves_with_path(params)
  }
  used = witness.steps[chaos_witness.NAME]['keys'][: job.num_keys]
  arrays |= {'steps': used, 'generations': witness.generations}
  digest = hashlib.sha256()
  for name in sorted(arrays):
    digest.update(name.encode() + arrays[name].tobytes())
  path = pathlib.Path(job.out) / 'final' / f'{generation}.{worker}'
  path.parent.mkdir(parents=True, exist_ok=True)
  if jax.process_index() == 0:
    np.savez(f'{path}.npz', **arrays)
  said = {'step': int(state.step), 'digest': digest.hexdigest()}
  pathlib.Path(f'{path}.json').write_text(json.dumps(said))


def _writer(path: pathlib.Path, mode: str) -> Callable[..., None]:
  """Appends lines to a file, flushing each."""
  path.parent.mkdir(parents=True, exist_ok=True)
  file = path.open(mode, buffering=1)
  return lambda **note: print(json.dumps(note), file=file)


def _progress(
  job: Job, generation: int
) -> Callable[[int, dict[str, float]], None]:
  """A function that reports steps on rank 0 only."""
  if jax.process_index():
    return lambda step, values: None
  add = _writer(pathlib.Path(job.out) / 'progress.jsonl', 'a')

  def tell(step: int, values: dict[str, float]) -> None:
    named = {name: values[name] for name in ('loss', 'weight', 'grad_norm')}
    add(step=step, generation=generation, now=time.time(), **named)

  return tell


def train(job: Job, agent: Agent, generation: int) -> None:
  """Trains under an agent, to the end of the last epoch."""
  out = pathlib.Path(job.out)
  add = _writer(out / 'notes' / f'{generation}.{agent.worker}.jsonl', 'w')
  add(
    generation=generation,
    rank=jax.process_index(),
    num_workers=jax.process_count(),
  )
  tell = _progress(job, generation)
  trainer, state = make_trainer(job)

  def on_step(step: int, values: dict[str, float]) -> None:
    add(step=step)
    tell(step, values)

  script.stop_request.install()  # Saves on request.
  with script.stop_request.deferred(), agent:
    agent.describe(
      device_kind=jax.devices()[0].device_kind,
      num_devices=jax.local_device_count(),
    )
    dataset = agent.dataset(
      open_source(job),
      shard_size=job.shard_size,
      num_epochs=job.num_epochs,
      key_field=_KEY,
    )
    state = trainer.fit(
      state,
      dataset.batch(job.rows).map(_Note(add, job.rows, generation)),
      10**9,
      checkpoint_dir=str(out / 'checkpoints'),
      checkpoint_every=job.checkpoint_every,
      checkpoint_every_s=job.checkpoint_every_s,
      merge_input_states=position.merge_states,
      on_step=on_step,
      elastic=_Noting(agent, add, job),
      should_stop=script.stop_request,
    )
    if job.has_witness:
      write_final(job, trainer, state, generation, agent.worker)


def main() -> None:
  job = Job(**json.loads(sys.argv[1]))
  distributed.initialize()
  agent = job_lib.agent_from_environment()
  if agent is not None:
    train(job, agent, int(os.environ['ANTJAX_GENERATION']))
    return
  noted = json.loads(pathlib.Path(job.replay).read_text())
  control = Replay(job, noted, jax.process_index())
  trainer, state = make_trainer(job)
  state = trainer.fit(
    state, control, 10**9, on_step=control.on_step, elastic=control
  )
  write_final(job, trainer, state, 0, control.worker)


if __name__ == '__main__':
  try:
    main()
  except KeyboardInterrupt:
    sys.exit(143)  # Stopped on request, and saved.
  except Exception:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)  # At a normal exit JAX would wait for the others.
