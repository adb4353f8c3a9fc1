# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of state, configuration and input position, together.

Checkpoints do not depend on the PaRO code, the mesh or the number of processes,
see `canonical`.
"""

from collections.abc import Mapping
import functools
import math
import os
import time
from typing import Any

from absl import logging
from etils import epath
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from antjax import paths
from antjax.mesh.gather import gather_json
from antjax.train import canonical, lease, object_store, residuals
from antjax.train.block_files import restore_args_of
from antjax.train.checkpoint_folder import Claim, room, TreeHandler
from antjax.train.input_position import decode_position, encode_position
from antjax.train.keys import Keys
from antjax.train.sparse_tables import home_of
from antjax.train.state import Layout, TrainState

_POLL_S = 0.01
# 2: 'params' is the user's tree. 1: all is in 'state', by dotted names.
_FORMAT = 2
HOME = 'home'  # Item, and names in 'meta', of tables with one.
_LEFT = 'residuals'  # Item and entry of 'meta' of states that have some.
_MAX_CAUSE = 240  # Characters; a script's --verbosity=1 shows the whole.


def latest_step(directory: str | os.PathLike[str]) -> int | None:
  """Step of the newest committed checkpoint in a folder, or None."""
  return max(steps(directory), default=None)


def steps(directory: str | os.PathLike[str]) -> list[int]:
  """Steps of the committed checkpoints in a folder, in order."""
  paths.check(directory, 'checkpoints')
  directory = paths.origin(directory)
  object_store.prepare(directory)
  folder = epath.Path(directory)
  if not folder.is_dir():
    return []
  return sorted(ocp.utils.checkpoint_steps(folder))


class Checkpointer:
  """Writes and reads one run's checkpoints; use as a context manager."""

  def __init__(
    self,
    directory: str,
    layout: Layout,
    *,
    keep: int = 3,
    best_metric: str | None = None,
    best_mode: str = 'min',
  ):
    """Opens (and creates) a folder.

    Args:
      directory: A path, or a gs:// or s3:// URL.
      layout: Layout of the model to save or to restore into.
      keep: Number of newest checkpoints to keep.
      best_metric: Metric by which the best checkpoint is also kept, if given.
      best_mode: 'min' or 'max'.
    """
    if keep < 1 or best_mode not in ('min', 'max'):
      raise ValueError(
        f'Checkpointer(keep={keep}, best_mode={best_mode!r}): keep must be at'
        " least 1 and best_mode 'min' or 'max'."
      )
    self._claim: Claim | None = None
    paths.check(directory, 'Checkpointer: directory')
    directory = paths.origin(directory)
    object_store.prepare(directory)
    if not paths.is_url(directory):
      self._claim = Claim(directory)
    self.directory = directory
    self._layout = layout
    self._best_metric = best_metric
    preserve: Any = policies.LatestN(keep)
    rank = None
    if best_metric is not None:
      rank = functools.partial(_rank, name=best_metric, mode=best_mode)
      best = policies.BestN(
        get_metric_fn=rank,
        n=1,
        keep_checkpoints_without_metrics=False,
      )
      preserve = policies.AnyPreservationPolicy([preserve, best])
    self._handlers = {
      name: TreeHandler() for name in ('params', 'state', _LEFT)
    }
    self._num_bytes = 0  # Size of the arrays of the last checkpoint.
    self._is_broken = False  # After a failed `save`, the manager hangs.
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item, handler in self._handlers.items():
      for args in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
        registry.add(item, args, handler)
    self._manager = ocp.CheckpointManager(
      directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=preserve,
        best_fn=rank,  # Without it no metric is written, and none read.
        enable_async_checkpointing=True,
        # Blocks of tables are written before `save` returns.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        temporary_path_class=self._claim and self._claim.path_class(),
      ),
      handler_registry=registry,
    )

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, kind: Any = None, *rest: Any) -> None:
    is_fault = kind is not None and not issubclass(kind, KeyboardInterrupt)
    if self._is_broken or (is_fault and jax.process_count() > 1):
      return  # A wait might never end.
    self.wait()
    self._manager.close()

  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, which may be unfinished, or None."""
    return self._manager.latest_step()

  def newest(self) -> int | None:
    """Step of the newest complete checkpoint, or None; equal everywhere."""
    # As seen by process 0.
    return gather_json(self._manager.latest_step())[0]

  def is_committed(self, step: int) -> bool:
    """Whether the checkpoint started by `save` is complete; does not wait.

    Only process 0 reads the folder, because the others may see changes late.

    Raises:
      RuntimeError: This process knows that it could not be written.
    """
    self._check()
    if self._manager.is_saving_in_progress():
      return False
    self._check()
    if jax.process_index() == 0 and step not in ocp.utils.checkpoint_steps(
      self.directory
    ):
      raise RuntimeError(
        f'Checkpointer: step {step} was not written to {self.directory}; see'
        f' the log. {room(self.directory, self._num_bytes)}'
      )
    return True

  def _check(self) -> None:
    errors = [h.error for h in self._handlers.values() if h.error is not None]
    for error in errors:
      raise RuntimeError(
        f'Checkpointer: a checkpoint could not be written to {self.directory}:'
        f' {error} {room(self.directory, self._num_bytes)}'
      ) from error
    self._manager.check_for_errors()

  def wait(self) -> None:
    """Blocks until the last `save` is committed.

    Raises:
      RuntimeError: This process could not write its part. It does not wait for
        the others, which wait for it.
    """
    while self._manager.is_saving_in_progress():
      self._check()
      time.sleep(_POLL_S)
    self._manager.wait_until_finished()

  def save(
    self,
    step: int,
    state: TrainState,
    *,
    input_state: Any = None,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    keys: Mapping[str, Any] | None = None,
    about_keys: Mapping[str, Any] | None = None,
  ) -> list[Any]:
    """Starts writing, and returns when the state may be changed again.

    Call it on all processes at the same step.

    Args:
      step: Number of steps that led to `state`.
      state: Training state.
      input_state: Input position of this process, see `encode_position`, or
        None.
      config: JSON-able configuration of the run.
      metrics: Metrics, for `best_metric`.
      keys: Vocabularies (`Keys.state`).
      about_keys: What goes with them (`Keys.about`).

    Returns:
      The input positions of all processes.

    Raises:
      RuntimeError: Another run has taken the folder.
      ValueError: The metrics lack `best_metric`.
    """
    if metrics is not None and self._best_metric not in (None, *metrics):
      raise ValueError(
        f'Checkpointer(best_metric={self._best_metric!r}): the metrics are'
        f' {sorted(metrics)}; give one of them.'
      )
    self.wait()
    lease.check(self.directory)
    input_states = self._gather(encode_position(input_state))
    meta = {
      'format': _FORMAT,
      'model': canonical.describe(self._layout),
      'paro': self._layout.paro.code,
      'mesh': dict(self._layout.mesh.shape),
      'num_processes': jax.process_count(),
      'input_states': input_states,
      'config': dict(config or {}),
    }
    if keys:
      meta['keys'] = dict(about_keys or {})
    named = canonical.of_state(self._layout, state, for_files=True)
    named = canonical.without_empty(named)
    trees = canonical.to_items(self._layout, named)
    items: dict[str, Any] = {
      name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()
    }
    if state.residuals:
      meta[_LEFT] = self._layout.sums_dtype
      trees[_LEFT] = state.residuals
      items[_LEFT] = ocp.args.PyTreeSave(state.residuals)
    if home := home_of(self._layout.tables):
      oldest = min(self._manager.all_steps(), default=0)
      tables, folder = self._layout.tables, str(self.directory)
      found = home.save(tables, state.tables, step, folder, oldest)
      items[HOME] = ocp.args.PyTreeSave(found)
      meta[HOME] = sorted(home.specs)
    items['meta'] = ocp.args.JsonSave(meta)
    if keys:
      items['keys'] = ocp.args.PyTreeSave(dict(keys))
    self._num_bytes = sum(x.nbytes for x in jax.tree.leaves(trees))
    self._is_broken = True
    self._manager.save(
      step,
      args=ocp.args.Composite(**items),
      metrics=None if metrics is None else dict(metrics),
    )
    self._is_broken = False
    return [decode_position(x) for x in input_states]

  def _gather(self, input_state: Any) -> list[Any]:
    """Gathers all processes' positions; takes over the folder."""
    if self._claim is None:
      return gather_json(input_state)
    if jax.process_index() == 0:
      self._claim.take(self._manager.all_steps())
    said = gather_json([input_state, self._claim.token])
    self._claim.token = said[0][1]
    return [position for position, _ in said]

  def restore(self, step: int | None = None) -> tuple[TrainState, list[Any]]:
    """Reads a checkpoint, the newest by default.

    Returns:
      (state on this mesh at this code's levels, input positions of all
      processes that saved it).

    Raises:
      ValueError: There is no checkpoint, it is damaged, or of another model.
    """
    step = self.newest() if step is None else step
    if step is None:
      raise ValueError(f'Checkpointer: {self.directory} has no checkpoint.')
    meta = self.read_item(step, 'meta', ocp.args.JsonRestore())
    where = f'step {step} of {self.directory}'
    canonical.check_model(self._layout, meta['model'], where)
    target = canonical.restore_target(self._layout)
    found = self.read_state(step, meta, target)
    logging.info(
      'Restored %s (saved as %s on mesh %s).', where, meta['paro'], meta['mesh']
    )
    positions = [decode_position(x) for x in meta['input_states']]
    left = self._residuals(step, meta)
    if home := home_of(self._layout.tables):
      home.restore(step, self.read_item(step, HOME, ocp.args.PyTreeRestore()))
    return canonical.to_state(self._layout, found, left), positions

  def _residuals(self, step: int, meta: Mapping[str, Any]) -> Any:
    """The residuals of a checkpoint of the same layout, or zeros."""
    wanted = self._layout.residual_shapes()
    if not wanted:
      return {}
    here = self._layout.paro.code, dict(self._layout.mesh.shape)
    if _LEFT in meta and here == (meta['paro'], meta['mesh']):
      return self._read_tree(step, _LEFT, wanted)
    logging.warning(
      'sums_dtype=%s: residuals start at zero, step %d has none of %s on %s.',
      *(self._layout.sums_dtype, step, *here),
    )
    shardings = jax.tree.map(lambda x: x.sharding, wanted)
    return jax.jit(lambda: residuals.zeros(wanted), out_shardings=shardings)()

  def read_state(
    self, step: int, meta: Mapping[str, Any], target: dict[str, Any]
  ) -> dict[str, Any]:
    """Reads a state, see `canonical`.

    `meta` is the item 'meta' of the checkpoint; `target` has shapes, dtypes and
    shardings by name, of a whole state or of its parameters only.

    Raises:
      ValueError: See `read_item`.
    """
    asked = canonical.without_empty(target)
    is_old = meta.get('format', 1) == 1  # Dotted names, all in one item.
    trees = {'state': asked}
    if not is_old:
      trees = canonical.to_items(self._layout, asked)
    found = {}
    for name, tree in trees.items():
      found[name] = self._read_tree(step, name, tree, is_old)
    if not is_old:
      found['state'] = canonical.from_items(self._layout, found)
    return canonical.with_empty(found['state'], target)

  def _read_tree(
    self, step: int, name: str, tree: Any, is_part: bool = False
  ) -> Any:
    restore_args = jax.tree.map(restore_args_of, tree)
    return self.read_item(
      step,
      name,
      ocp.args.PyTreeRestore(
        item=tree, restore_args=restore_args, partial_restore=is_part
      ),
    )

  def restore_keys(self, step: int, keys: Keys) -> None:
    """Restores the vocabularies of a checkpoint.

    Raises:
      ValueError: It has others, or none of some.
    """
    said = self.read_item(step, 'meta', ocp.args.JsonRestore()).get('keys', {})
    # Older ones list the tables.
    about = said if isinstance(said, dict) else {name: {} for name in said}
    keys.check(about)
    if not about:
      return
    targets = keys.targets()
    restore_args, item = (
      jax.tree.map(f, targets, is_leaf=lambda x: x is None)
      for f in (restore_args_of, lambda x: x or 0)
    )
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args)
    keys.set_state(self.read_item(step, 'keys', args), about)

  def read_item(self, step: int, item: str, args: Any) -> Any:
    """Reads an item of a step: 'params', 'state', 'meta' or 'keys'.

    Raises:
      ValueError: It cannot be read; the message says what to do.
    """
    try:
      return self._manager.restore(
        step, args=ocp.args.Composite(**{item: args})
      )[item]
    except (MemoryError, jax.errors.JaxRuntimeError):
      raise  # The files may be intact.
    # Damage causes many errors, such as a bare Exception of TensorStore.
    except Exception as error:
      older = sorted(one for one in self._manager.all_steps() if one < step)
      then = f'resumes from step {older[-1]}' if older else 'starts over'
      cause = ' '.join(f'{type(error).__name__}: {error}'.split())
      raise ValueError(
        f'Checkpointer: step {step} of {self.directory} cannot be read'
        f' ({cause[:_MAX_CAUSE]}). Older steps there:'
        f' {", ".join(map(str, older)) or "none"}. If step {step} is damaged,'
        f' move {self.directory}/{step} away: the run then {then}.'
      ) from error


def _rank(metrics: Mapping[str, float], name: str, mode: str) -> float:
  """The larger, the better a checkpoint; a missing value ranks worst."""
  value = float(metrics.get(name, math.nan)) * (1 if mode == 'max' else -1)
  return -math.inf if math.isnan(value) else value
