# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trainer: init, step, fit and evaluate for any loss on any pytree."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
from typing import Any, Literal

import jax
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import optax

from antjax.collectives.choose import Collectives, for_code
from antjax.embedding.key_store import KeyStore
from antjax.embedding.vocabulary import Vocabulary
from antjax.mesh import compiler
from antjax.mesh.mesh import INTER, INTRA, on_own_mesh, own_mesh
from antjax.mesh.paro import PaRO
from antjax.metrics.metric import Metric
from antjax.train import elastic_loop, initial, loop
from antjax.train import loss_scale as loss_scale_lib
from antjax.train import predict as predict_lib
from antjax.train import step as step_lib
from antjax.train.batches import BatchPlacer
from antjax.train.elastic_step import ElasticStep
from antjax.train.fit_options import FitOptions, Metrics
from antjax.train.keys import Keys
from antjax.train.rows_ahead import RowsAhead
from antjax.train.sparse_tables import SparseTables
from antjax.train.state import Layout, PyTree, TrainState
from antjax.train.step_spec import StepSpec


class Trainer:
  """Trains a pytree of parameters under one PaRO code.

  The model does not depend on antjax: `loss_fn` sees whole parameters and one
  device's part of the batch.
  """

  def __init__(
    self,
    loss_fn: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    inter: str = INTER,
    intra: str = INTRA,
    auto_specs: Callable[[str], PartitionSpec | None] | None = None,
    paro: str | PaRO = 'NNN',
    tables: SparseTables | None = None,
    collectives: str | Collectives = 'xla',
    num_micro_batches: int = 1,
    compute_dtype: Any = None,
    trainable: Callable[[str], bool] | None = None,
    scanned: Callable[[str], bool] | None = None,
    mutable: Callable[[str], bool] | None = None,
    regather: bool = True,
    overlap: bool | None = None,
    early_sums: bool = False,
    late_params: bool = False,
    loss_scale: float | Literal['dynamic'] | None = None,
    remat_policy: Callable[..., bool] | bool = False,
    min_shard_size: int = 1024,
    row_staleness: Literal[0, 1] = 0,
    vocabularies: Mapping[str, Vocabulary | KeyStore] | None = None,
    constants: PyTree = None,
    check_vma: bool = True,
  ):
    """Describes a training job; nothing is compiled or allocated yet.

    Args:
      loss_fn: `(params, batch, rng) -> losses [B]`, or a tuple: `(losses,
        metrics)`, `(losses, weights)`, `(losses, weights, metrics)` or
        `(losses, weights, metrics, updates)`. The step minimizes sum(weights *
        losses) / sum(weights) over all devices; the weights are constants. The
        step's metrics contain the weighted mean over all devices of each
        metric, a scalar or one number per example. `updates` has the new values
        of `mutable` leaves. With tables the arguments are `(params, rows,
        batch, rng)`, and `tables.lookup(rows, batch['ids'])` returns the
        vectors.
      optimizer: Any optax transform. It sees whole gradients and parameters, in
        their true shapes, and receives the loss as `value`.
      mesh: Mesh from `make_mesh`, or your own, over whose other axes the loss
        may shard arrays with `with_sharding_constraint`.
      inter: Name of the axis between groups; always 'inter' in the loss.
      intra: Name of the axis inside a group; always 'intra' in the loss.
      auto_specs: Leaf name -> sharding of the leaf over the other axes, in the
        state and when a step gathers it. None: no sharding.
      paro: PaRO code: levels of parameters, gradients and optimizer state.
      tables: Embedding tables, which have their own row optimizers.
      collectives: Collectives over both mesh axes, if the code has such, see
        `PaRO.global_moves`: a `Collectives`, or its algorithm (`for_mesh`).
      num_micro_batches: Number of micro-batches in a device's batch.
      compute_dtype: Dtype of the step's copy of the parameters, e.g. bfloat16,
        or leaf name -> dtype. The optimizer state has an fp32 master.
      trainable: Leaf name -> whether it is trained; all by default.
      scanned: Leaf name -> whether it is a stack of layers [L, ...] that the
        model runs with `antjax.scan_layers`. Stacks are sharded inside their
        layers and gathered one layer at a time.
      mutable: Leaf name -> whether the loss returns its new values: statistics
        of a batch norm, an average of parameters, a count. These leaves are not
        trained, are not sharded and keep their dtype. All micro-batches of a
        step read the same values. The new value is the mean over micro-batches
        and devices, weighted by sums of weights, or the maximum for integers.
      regather: Whether to gather stacks again in the backward pass. False keeps
        gathered layers: less communication, more memory.
      overlap: Whether to gather the next layer of a stack, and reduce the
        gradient of the previous one, while a layer computes. Needs memory for
        one more layer and full rematerialization in `scan_layers`. None: except
        on CPUs, whose compiler does not overlap.
      early_sums: Whether, with `overlap`, a stack's gradient sums are sent to
        other groups layer by layer in the last micro-batch, under IIG, NIG and
        GIG. The loss must run a stack by one `scan_layers` outside of loops.
      late_params: Whether, with `overlap`, updated layers come back from other
        groups one by one in the next step's first micro-batch, under codes that
        end but do not begin with G. The loss is as for `early_sums`. `evaluate`
        and `predict` gather over all devices for every batch.
      loss_scale: Scale of the differentiated loss, for float16 gradients.
        'dynamic' adapts it and skips steps that overflow.
      remat_policy: True recomputes the whole loss in the backward pass. A
        policy of `jax.checkpoint_policies` saves what it selects.
      min_shard_size: Leaves with fewer elements are not sharded.
      row_staleness: 1 lets `fit` fetch the rows of the next step during this
        one. They miss its updates, except after a save or evaluation.
      vocabularies: Table name -> vocabulary. Features of these tables hold keys
        (integers or texts), not ids. A step admits those of all processes, and
        resets reassigned rows. Each process has a part of a `KeyStore`.
      constants: Arrays on `mesh` that no step changes. `loss_fn` and
        `predict_fn` find each device's shards in batch['constants']. They are
        neither in the state nor in checkpoints.
      check_vma: False allows Pallas kernels in the loss, see `attention`; a
        `psum` there then has the gradient of an untyped `jax.shard_map`.

    Raises:
      ValueError: The mesh lacks these axes, or a code or count is invalid.
    """
    mesh = own_mesh(mesh, inter, intra, 'Trainer')
    if overlap is None:
      overlap = compiler.overlaps(mesh)
    if (early_sums or late_params) and not overlap:
      raise ValueError(
        'Trainer(early_sums=True, late_params=True): both need overlap=True,'
        ' which is off on CPUs unless asked for.'
      )
    if row_staleness not in (0, 1) or (row_staleness and tables is None):
      raise ValueError(
        f'Trainer(row_staleness={row_staleness}): use 0, or 1 with tables.'
      )
    self.mesh, self.tables, self.paro = mesh, tables, PaRO.from_code(paro)
    self.collectives = for_code(collectives, mesh, self.paro)
    constants = jax.tree.map(lambda x: on_own_mesh(x, mesh), constants)
    self._constants = constants
    self.optimizer, factor = loss_scale_lib.choose(loss_scale, optimizer)
    self.row_staleness = row_staleness
    if remat_policy:
      policy = None if remat_policy is True else remat_policy
      loss_fn = jax.checkpoint(loss_fn, policy=policy)
    self._layout_of = functools.partial(
      Layout.of,
      mesh=mesh,
      paro=self.paro,
      optimizer=self.optimizer,
      tables=tables,
      trainable=trainable,
      scanned=scanned,
      mutable=mutable,
      compute_dtype=compute_dtype,
      sums_dtype=self.collectives.sums_dtype,
      late_params=late_params,
      min_shard_size=min_shard_size,
      auto_specs=auto_specs,
    )
    self._spec_of = functools.partial(
      StepSpec,
      loss_fn=loss_fn,
      num_micro_batches=num_micro_batches,
      how=self.collectives,
      loss_scale=factor,
      regather=regather,
      overlap=overlap,
      early_sums=early_sums,
      constants=jax.tree.map(lambda x: x.sharding.spec, constants),
      check_vma=check_vma,
    )
    self._layout: Layout | None = None
    self._made: dict[Any, Any] = {}  # Programs of the layout.
    keys = Keys(vocabularies, tables, row_staleness) if vocabularies else None
    self.keys = keys
    self.placer = BatchPlacer(
      mesh, self.paro, tables, num_micro_batches, keys, constants
    )

  def init(self, params: PyTree, seed: int = 0) -> TrainState:
    """Creates a new state, with each leaf sharded at its own level.

    `params` may be a function that creates the parameters from a random key; no
    device then ever holds all of them.
    """
    layout, state = initial.new_state(params, seed, self._layout_of)
    if layout != self._layout:
      self._layout, self._made = layout, {}
    self._made.pop('elastic_step', None)
    return state

  @property
  def layout(self) -> Layout:
    """Static description of the state; known after `init`."""
    if self._layout is None:
      raise RuntimeError('Trainer: call init() first; it fixes the layout.')
    return self._layout

  def params(self, state: TrainState, trained_only: bool = False) -> PyTree:
    """Returns the user's tree, whole on every device, with fp32 masters.

    With `trained_only`, leaves that are not trained are None, as optimizers see
    them.
    """
    tree = self._once('params', predict_lib.make_params, self.layout)(state)
    return predict_lib.trained(self.layout, tree) if trained_only else tree

  def opt_state(self, state: TrainState) -> PyTree:
    """Returns the optimizer state of whole parameters, on every device."""
    make = predict_lib.make_opt_state
    return self._once('opt_state', make, self.layout)(state)

  def _once(self, name: Any, make: Callable[..., Any], *args: Any) -> Any:
    if name not in self._made:
      self._made[name] = make(*args)
    return self._made[name]

  @property
  def vocabularies(self) -> dict[str, Vocabulary | KeyStore]:
    """Returns the current vocabulary of each table, by table name."""
    return {} if self.keys is None else self.keys.vocabularies

  def bytes_per_device(self) -> dict[str, int]:
    """Bytes of state on each device, by part; tables by stack."""
    tables = {} if self.tables is None else self.tables.bytes_per_device()
    return self.layout.bytes_per_device() | {
      f'tables/{name}': size for name, size in tables.items()
    }

  def step(
    self,
    state: TrainState,
    batch: PyTree,
    num_micro_batches: Sequence[int] | None = None,
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs one optimizer step; `state` is donated.

    Args:
      state: State from `init` or an earlier step.
      batch: Pytree of arrays with this process's rows. Leading dims are
        multiples of local devices x micro-batches. With tables, batch['ids']
        holds ids.
      num_micro_batches: Number of micro-batches to run in each group, from 0 to
        the Trainer's. A group skips the last parts of its devices' batches. The
        first use compiles once more; other counts do not.

    Returns:
      (state, metrics), where metrics are scalars on the devices; see
        `make_step`.

    Raises:
      ValueError: The batch does not divide, or the code does not allow counts.
    """
    inputs = self.placer.place(batch, counts=num_micro_batches)
    return self.compiled_step()(self.placer.with_new_rows(state), inputs)

  def compiled_step(self) -> Callable[..., Any]:
    """The jitted step: `(state, StepInput) -> (state, metrics)`."""
    return self._once('step', step_lib.make_step, self.step_spec())

  def compiled_steps(self) -> Callable[..., Any]:
    """`compiled_step` for several steps per call; see `FitOptions`."""
    return self._once('steps', step_lib.make_steps, self.step_spec())

  def step_spec(self) -> StepSpec:
    """Returns the parts of the step; known after `init`."""
    return self._spec_of(self.layout)

  def elastic_step(self) -> ElasticStep:
    """The step in its host-loop form; `fit(elastic=...)` runs it."""
    args = self.step_spec(), None, self._constants
    return self._once('elastic_step', ElasticStep, *args)

  def step_inputs(
    self, batch: PyTree, num_micro_batches: Sequence[int] | None = None
  ) -> step_lib.StepInput:
    """Returns a batch as the compiled step takes it, e.g. to lower the step."""
    return self.placer.place(batch, counts=num_micro_batches)

  def fit(
    self,
    state: TrainState,
    batches: Iterable[PyTree],
    num_steps: int,
    **options: Any,
  ) -> TrainState:
    """Trains up to step `num_steps`, or until no process has data left.

    If `checkpoint_dir` has checkpoints, state and input position are restored
    from the newest one. If `should_stop` returns True on any process, all
    processes stop after the same step, save, and raise KeyboardInterrupt.

    Args:
      state: State from `init`.
      batches: Batches of this process. If the iterator has get_state and
        set_state, as Grain's iterators do, its position is saved and restored.
      num_steps: Total number of steps, counted from the start of the run.
      **options: The fields of `FitOptions`.

    Raises:
      KeyboardInterrupt: `should_stop` stopped training; the state is saved.
      RuntimeError: The loss or gradient became nan or infinite; no later state
        is saved.
      ValueError: The checkpoint is of another model, the input position cannot
        be restored here, or the code or mesh does not support `elastic`.
    """
    chosen = FitOptions(**options)
    chosen.check(
      self.row_staleness, self.keys is not None, self.placer.home is not None
    )
    if chosen.elastic is not None:
      args = state, batches, num_steps, chosen, self.elastic_step(), self.keys
      return elastic_loop.fit(*args)
    spec = self.step_spec()
    return loop.fit(
      state,
      batches,
      num_steps,
      chosen,
      spec=spec,
      step=self.compiled_step(),
      steps=self.compiled_steps(),
      placer=self.placer,
      rows_ahead=RowsAhead(spec) if self.row_staleness else None,
    )

  def evaluate(
    self,
    state: TrainState,
    batches: Iterable[PyTree],
    predict_fn: Callable[..., Mapping[str, jax.Array]],
    metrics: Mapping[str, Metric],
    *,
    params: PyTree = None,
  ) -> Metrics:
    """Computes metrics over the batches of all processes, equal on each.

    Args:
      state: Training state, which is not donated.
      batches: Batches of this process; rows are added if they do not divide
        among its devices, and the outputs are cut.
      predict_fn: `(params, batch, rng)` or, with tables, `(params, rows, batch,
        rng)` -> arrays by name: 'prediction' and 'label', optionally 'weight'
        and 'group', of equal shape, with the leading dim sharded over devices.
        Pass the same function each time to compile it only once.
      metrics: Fresh metrics by name.
      params: Parameters to use instead of those of the state, such as averages.
    """
    outputs = self.outputs(state, batches, predict_fn, params=params)
    return predict_lib.evaluate(outputs, metrics)

  def predict(
    self,
    state: TrainState,
    batches: Iterable[PyTree],
    predict_fn: Callable[..., Mapping[str, jax.Array]],
    *,
    params: PyTree = None,
  ) -> dict[str, np.ndarray]:
    """Computes outputs [B, ...] of a `predict_fn` (see `evaluate`) on the host.

    Every process gets the rows of all processes. If there is a 'weight', rows
    whose weights are all 0 are omitted, and so is a weight [B] itself.
    """
    outputs = self.outputs(state, batches, predict_fn, params=params)
    return predict_lib.collect(outputs)

  def outputs(
    self,
    state: TrainState,
    batches: Iterable[PyTree],
    predict_fn: Callable[..., Mapping[str, jax.Array]],
    *,
    params: PyTree = None,
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields the outputs of a `predict_fn` for each batch of this process.

    They are arrays [B, ...] by name, on the host. All processes iterate until
    none has a batch left.
    """
    if params is not None:
      state = predict_lib.with_params(self.layout, state, params)
    args = self.step_spec(), predict_fn
    predict = self._once(predict_fn, predict_lib.make_predict, *args)
    return predict_lib.outputs(predict, self.placer, state, batches)
