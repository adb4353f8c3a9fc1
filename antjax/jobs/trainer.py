# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Creates the trainer from a job's flags: --paro=auto, links, memory."""

from collections.abc import Callable
import functools
import re
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from antjax.collectives import choose, cost_model, measure
from antjax.jobs import job as job_lib
from antjax.jobs.training_config import TrainingConfig
from antjax.lm import attention, lora
from antjax.mesh import mesh as mesh_lib
from antjax.mesh.gather import gather_json
from antjax.mesh.paro import PaRO
from antjax.plan import planner
from antjax.plan.step_time import Hiding
from antjax.report import report, terminal
from antjax.train.state import TrainState
from antjax.train.trainer import Trainer

_REPEATS = 5  # Of a measured product.


def matmul_flops(dtype: Any, size: int | None = None) -> float:
  """FLOP/s of one device in a large matrix product, all devices at work.

  Devices that share cores share their speed too. The best of a few runs, of
  width 512 on CPU and 8192 elsewhere.
  """
  devices = jax.local_devices()
  if size is None:
    size = 512 if devices[0].platform == 'cpu' else 8192
  mesh = Mesh(np.asarray(devices), ('device',))
  sharding = NamedSharding(mesh, P('device'))
  product = jax.jit(
    lambda x: jnp.einsum('dij,djk->dik', x, x),
    in_shardings=sharding,
    out_shardings=sharding,
  )
  x = jax.device_put(
    np.full((len(devices), size, size), 1 / size, jnp.dtype(dtype)), sharding
  )
  jax.block_until_ready(product(x))
  times = []
  for _ in range(_REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(product(x))
    times.append(time.perf_counter() - start)
  return 2 * size**3 / min(times)


@functools.cache
def links_of(mesh: Mesh, links_file: str = '') -> cost_model.Links:
  """Speeds of a mesh's links: from a file, or timed now by all processes."""
  if links_file:
    return cost_model.load(links_file)
  if mesh.size > 1:
    return measure.measure(mesh)
  return cost_model.Links(1e9, 1e9)  # Nothing moves.


def hiding_of(
  mesh: Mesh, *, overlap: bool | None = None, **options: bool
) -> Hiding:
  """What the compiler of a mesh's devices hides of communication.

  The options are those of `Trainer`: early_sums, late_params.
  """
  device = mesh.devices.flat[0]
  kind = 'gpu' if device.platform == 'gpu' else device.device_kind
  return Hiding.of(kind, overlap=overlap is not False, **options)


def memory_of_device() -> int | None:
  """Bytes of memory of a device; None if it does not say."""
  return (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')


def choose_paro(
  code: str,
  params: Any,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  links_file: str = '',
  device_bytes: int | None = None,
  hiding: Hiding | None = None,
  **options: Any,
) -> PaRO:
  """A code as given, or the planner's for 'auto'; the same on all processes.

  Logs why. All processes call it, before the devices are used for anything
  else: without a file it times their links. `options` are `planner.plan`'s;
  without `device_bytes` a device says how much memory it has.

  Raises:
    ValueError: No such code, or none fits into the devices.
  """
  if code != 'auto':
    return PaRO.from_code(code)
  plan = planner.plan(
    params,
    optimizer,
    num_groups=mesh_lib.num_groups(mesh),
    group_size=mesh_lib.group_size(mesh),
    links=links_of(mesh, links_file),
    device_bytes=memory_of_device() if device_bytes is None else device_bytes,
    hiding=hiding_of(mesh) if hiding is None else hiding,
    **options,
  )
  # Devices may state a little more or less memory: process 0 decides for all.
  chosen, reason, fits = gather_json(
    [plan.best.code, plan.reason, plan.best.fits]
  )[0]
  if not fits:
    raise ValueError(f'paro=auto: {reason}')
  logging.info('paro=auto: %s', reason)
  return PaRO.from_code(chosen)


def is_stack(name: str) -> bool:
  """Whether a leaf holds a language model's layers, for `scanned`.

  Not the layers of a Flax module, which have numbers and are separate.
  """
  return re.search(r'\.layers\.(?!\d)', name) is not None


def make_trainer(
  config: TrainingConfig,
  job: job_lib.Job,
  loss_fn: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  params: Any,
  *,
  compute_dtype: str = 'float32',
  activation_bytes: int = 0,
  compute_s: float = 0.0,
  device_bytes: int | None = None,
  trainable: Callable[[str], bool] | None = None,
  scanned: Callable[[str], bool] | None = None,
  regather: bool = True,
  **options: Any,
) -> Trainer:
  """The trainer that a job's settings ask for; `options` are `Trainer`'s.

  float16 scales the loss. For --paro=auto, which takes elastic codes only under
  an agent: the bytes of activations at the peak of a micro-batch, the seconds
  that a device computes on one (0 where nobody knows, and then communication
  alone decides), and the memory of a device (None: what it says).
  """
  dtype = jnp.dtype(compute_dtype)
  shared: dict[str, Any] = {
    'num_micro_batches': config.num_micro_batches,
    'compute_dtype': None if dtype == jnp.float32 else lora.computing(dtype),
    'trainable': trainable,
    'scanned': scanned,
    'regather': regather,
    'min_shard_size': config.min_shard_size,
  }
  names = ('overlap', 'early_sums', 'late_params')
  layers = {name: options[name] for name in names if name in options}
  links, sums_dtype = None, choose.sums_dtype_of(config.sums_dtype)
  if config.collectives == 'auto':
    links = links_of(job.mesh, config.links)
  paro = choose_paro(
    config.paro,
    params,
    optimizer,
    job.mesh,
    links_file=config.links,
    device_bytes=device_bytes,
    activation_bytes=activation_bytes,
    compute_s=compute_s,
    # Under agents groups do unequal numbers of micro-batches.
    elastic_only=job.agent is not None,
    hiding=hiding_of(job.mesh, **layers),
    sums_dtype=sums_dtype,
    late_params=layers.get('late_params', False),
    **shared,
  )
  if options.get('early_sums') and not paro.sums_cross_early:
    logging.warning(
      'early_sums changes nothing under paro=%s: under IIG, NIG and GIG sums'
      ' leave early.',
      paro.code,
    )
  if options.get('late_params') and not paro.params_come_back:
    logging.warning(
      'late_params changes nothing under paro=%s: under NNG, NIG, NGG, ING, IIG'
      ' and IGG parameters come back from other groups.',
      paro.code,
    )
  return Trainer(
    loss_fn,
    optimizer,
    mesh=job.mesh,
    paro=paro,
    collectives=choose.for_mesh(
      config.collectives, job.mesh, links=links, sums_dtype=sums_dtype
    ),
    loss_scale='dynamic' if dtype == jnp.float16 else None,
    # Stacks are those of language models.
    check_vma=scanned is None or attention.check_vma(job.mesh),
    **shared,
    **options,
  )


def compiled_bytes(
  trainer: Trainer, state: TrainState, batch: Any
) -> tuple[dict[str, int], int]:
  """What the compiler says of a step, if it does, and bytes of the batch.

  'arguments', and 'temporary' for what is live beside them.
  """
  inputs = trainer.step_inputs(batch)
  step: Any = trainer.compiled_step()
  analysis = step.lower(state, inputs).compile().memory_analysis()
  if analysis is None:
    logging.info('The compiler says nothing of memory on this backend.')
    return {}, 0
  size = sum(
    x.nbytes
    if isinstance(x, np.ndarray)
    else x.addressable_shards[0].data.nbytes
    for x in jax.tree.leaves(inputs)
  )
  return {
    'arguments': int(analysis.argument_size_in_bytes),
    'temporary': int(analysis.temp_size_in_bytes),
  }, size


def account(
  trainer: Trainer,
  state: TrainState,
  job: job_lib.Job,
  *,
  activations: int,
  frozen_share: float,
  batch_fn: Callable[[], Any] | None,
  **extra: Any,
) -> dict[str, Any]:
  """Bytes on a device, planned and compiled; shows them before the first step.

  Under an agent nothing is compiled: the step is several programs there. Nor is
  it without `batch_fn`, which makes a batch like those of training. `extra` are
  further entries, such as the bytes of a 'table'.
  """
  found: dict[str, Any] = {
    'state': trainer.bytes_per_device(),
    'activations': activations,
    'frozen_share': frozen_share,
    'compiled': {},
    **extra,
  }
  if batch_fn is not None and job.agent is None:
    compiled, size = compiled_bytes(trainer, state, batch_fn())
    if compiled:
      found['compiled'] = compiled
      found['batch'] = size - found.get('table', 0)
  if job.is_main:
    _show(found)
  return found


def _show(memory: dict[str, Any]) -> None:
  sizes = dict(memory['state'])
  if 'table' in memory:
    sizes['table of behaviors'] = memory['table']
  sizes['activations (planned)'] = memory['activations']
  sizes['together'] = sum(sizes.values())
  compiled = memory['compiled']
  sizes |= {f'{name} (compiled)': size for name, size in compiled.items()}
  if compiled:
    sizes['together (compiled)'] = sum(compiled.values())
  rows = [(name, report.format_bytes(size)) for name, size in sizes.items()]
  rows.append(('frozen share of parameters', f'{memory["frozen_share"]:.1%}'))
  if 'num_absent' in memory:
    rows.append(('parameters left out', f'{memory["num_absent"]:,}'))
  terminal.show_table('Memory of a device', ('', ''), rows, show_header=False)
