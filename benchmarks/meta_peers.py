# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The problem of `meta_problem` in PyTorch, in five forms.

- `loop`: `autograd.grad` task by task, as in the code of MeLU and learn2learn.
- `functional`: `torch.func.grad` of the inner loss, `torch.func.vmap` of tasks.
- `compiled`: the same function under `torch.compile`.
- `tuned`: the same under `torch.compile(mode='max-autotune')`.
- `bmm`: also tuned, but a weight per task in `torch.baddbmm` instead of `vmap`.

Two processes may share the tasks: each has one thread, bound to a core, and
gloo sums one message of all gradients.
"""

from collections.abc import Callable
import functools
import multiprocessing
import os
import pathlib
import tempfile
from typing import Any
import weakref

import numpy as np
import torch
from torch import distributed
import torch.nn.functional as F

from benchmarks import harness, meta_problem

Leaves = dict[str, torch.Tensor]  # 'w0', 'b0', ..., and 'rows' if they adapt.
GradFn = Callable[[Callable[[Leaves], torch.Tensor], Leaves], Leaves]


def _loss(leaves: Leaves, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
  """Mean cross entropy of the MLP's logits on x [N, I]."""
  num_layers = sum(name.startswith('w') for name in leaves)
  for i in range(num_layers):
    x = torch.addmm(leaves[f'b{i}'], x, leaves[f'w{i}'])
    if i < num_layers - 1:
      x = F.relu(x)
  return F.binary_cross_entropy_with_logits(x[:, 0], label)


def _task_loss(
  case: meta_problem.Case,
  num_support: int,
  grad_fn: GradFn,
  params: Leaves,
  vectors: torch.Tensor,
  index: torch.Tensor,
  label: torch.Tensor,
) -> torch.Tensor:
  """Adapts to the support rows of a task; returns the loss of its query rows.

  `vectors` are those of each row [S + Q, F, D] if only the MLP adapts, else the
  distinct rows of the task [R, D], read by `index` [S + Q, F].
  """

  def part_loss(rows: slice, leaves: Leaves) -> torch.Tensor:
    if case.adapted == 'mlp':
      x = vectors[rows]
    else:
      x = leaves['rows'][index[rows]]
    return _loss(leaves, x.flatten(1), label[rows])

  fast = dict(params)
  if case.adapted == 'all':
    fast['rows'] = vectors
  support = functools.partial(part_loss, slice(None, num_support))
  for _ in range(case.inner_steps):
    grads = grad_fn(support, fast)
    if case.order == 1:
      grads = {name: grad.detach() for name, grad in grads.items()}
    fast = {
      name: value - meta_problem.LEARNING_RATE * grads[name]
      for name, value in fast.items()
    }
  return part_loss(slice(num_support, None), fast)


def _vectors(case, rows, batch, task=slice(None)):
  """Gathers the `vectors` of `_task_loss` from the row buffer."""
  name = 'index' if case.adapted == 'mlp' else 'task_rows'
  return rows[batch[name][task]]


def _loop(case, num_support, params, rows, batch):
  """One step task by task."""
  params = {k: v.detach().requires_grad_() for k, v in params.items()}
  rows = rows.detach().requires_grad_()

  def grad_fn(loss_fn, leaves):
    grads = torch.autograd.grad(
      loss_fn(leaves), list(leaves.values()), create_graph=case.order == 2
    )
    return dict(zip(leaves, grads, strict=True))

  losses = [
    _task_loss(
      case,
      num_support,
      grad_fn,
      params,
      _vectors(case, rows, batch, t),
      batch['task_index'][t],
      batch['label'][t],
    )
    for t in range(len(batch['label']))
  ]
  loss = torch.stack(losses).mean()
  grads = torch.autograd.grad(loss, [*params.values(), rows])
  return dict(zip([*params, 'rows'], grads, strict=True)), loss.detach()


def _mean_loss(case, num_support, params, rows, batch):
  """The mean query loss of all tasks at once."""

  def grad_fn(loss_fn, leaves):
    return torch.func.grad(loss_fn)(leaves)

  task_loss = functools.partial(_task_loss, case, num_support, grad_fn, params)
  vectors = _vectors(case, rows, batch)
  losses = torch.func.vmap(task_loss)(
    vectors, batch['task_index'], batch['label']
  )
  return losses.mean()


def _bmm_loss(case, num_support, params, rows, batch):
  """The mean query loss of all tasks at once, their weights [T, I, O]."""
  vectors, label = _vectors(case, rows, batch), batch['label']
  task = torch.arange(len(label))[:, None, None]
  fast = {k: v.expand(len(label), *v.shape) for k, v in params.items()}
  num_layers = len(params) // 2
  if case.adapted == 'all':
    fast['rows'] = vectors

  def part_loss(part: slice, leaves: Leaves) -> torch.Tensor:
    if case.adapted == 'mlp':
      x = vectors[:, part]
    else:
      x = leaves['rows'][task, batch['task_index'][:, part]]
    x = x.flatten(2)
    for i in range(num_layers):
      x = torch.baddbmm(leaves[f'b{i}'][:, None], x, leaves[f'w{i}'])
      if i < num_layers - 1:
        x = F.relu(x)
    # The mean over rows, summed over tasks.
    return F.binary_cross_entropy_with_logits(
      x[..., 0], label[:, part], reduction='none'
    ).mean(dim=1)

  for _ in range(case.inner_steps):
    grads = torch.func.grad(
      lambda leaves: part_loss(slice(None, num_support), leaves).sum()
    )(fast)
    if case.order == 1:
      grads = {name: grad.detach() for name, grad in grads.items()}
    fast = {
      name: value - meta_problem.LEARNING_RATE * grads[name]
      for name, value in fast.items()
    }
  return part_loss(slice(num_support, None), fast).mean()


def make(
  case: dict[str, Any],
  num_support: int,
  problem: str,
  peer: str,
  processes: int = 1,
) -> meta_problem.Step:
  """Returns the step of a peer on a problem of `meta_problem.make`.

  Raises:
    ValueError: Processes do not share the tasks evenly, or are to share a
      table.
  """
  torch.compiler.reset()
  made, arrays = meta_problem.Case(**case), harness.load(problem)
  if processes > 1 and (made.num_rows or len(arrays['label']) % processes):
    raise ValueError(
      f'meta_peers.make(processes={processes}): they share'
      f' {len(arrays["label"])} tasks evenly, without a table.'
    )
  if made.num_rows:
    return _table_step(peer, made, num_support, arrays)
  after: Callable[[], None] = int  # Nothing.
  started: list[Any] = []
  if processes > 1:
    store = pathlib.Path(tempfile.mkdtemp()) / 'store'
    spawn = multiprocessing.get_context('spawn')
    for rank in range(1, processes):
      args = (rank, processes, str(store), made, num_support, arrays, peer)
      started.append(spawn.Process(target=_take_part, args=args, daemon=True))
      started[-1].start()
    _join(0, processes, str(store))
    after = functools.partial(_bind, 0)
  run = _make_gradients(peer, made, num_support, arrays, 0, processes)

  def answer() -> dict[str, np.ndarray]:
    loss, grads = run()
    return {name: x.numpy() for name, x in grads.items()} | {
      'loss': loss.numpy()
    }

  step = meta_problem.Step(run, answer, after)
  if started:
    weakref.finalize(step, _end, started)
  return step


def _join(rank: int, processes: int, store: str) -> None:
  torch.set_num_threads(1)
  os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
  distributed.init_process_group(
    'gloo', init_method=f'file://{store}', rank=rank, world_size=processes
  )


def _bind(rank: int) -> None:
  """Binds this thread, but not gloo's, to a core."""
  cores = sorted(os.sched_getaffinity(0))
  os.sched_setaffinity(0, {cores[rank % len(cores)]})


def _take_part(rank, processes, store, case, num_support, arrays, peer):
  """Takes part in the calls of process 0, which this one waits for."""
  _join(rank, processes, store)
  run = _make_gradients(peer, case, num_support, arrays, rank, processes)
  run()
  _bind(rank)
  while True:
    run()


def _end(started: list[Any]) -> None:
  for process in started:
    process.kill()
    process.join()
  distributed.destroy_process_group()


class _Gradients:
  """Gradients of a batch, and the tensors that they belong to."""

  def __init__(self, step: Callable, tensors: Leaves, batch: Leaves):
    self.tensors, self.rows = tensors, tensors.pop('rows')
    self._step, self._batch = step, batch

  def __call__(self) -> tuple[torch.Tensor, Leaves]:
    grads, loss = self._step(self.tensors, self.rows, self._batch)
    return loss, grads


def _make_gradients(
  peer: str,
  case: meta_problem.Case,
  num_support: int,
  arrays: dict,
  rank: int = 0,
  processes: int = 1,
) -> _Gradients:
  """Returns the function of loss and gradients of one peer."""
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
  batch = {
    name: tensors.pop(name).chunk(processes)[rank]
    for name in ('index', 'task_rows', 'task_index', 'label')
  }
  if peer == 'loop':
    step = functools.partial(_loop, case, num_support)
  else:
    loss_fn = _bmm_loss if peer == 'bmm' else _mean_loss
    grad_fn = torch.func.grad_and_value(
      lambda both, batch: loss_fn(case, num_support, *both, batch)
    )

    def step(params, rows, batch):
      (grads, row_grads), loss = grad_fn((params, rows), batch)
      return grads | {'rows': row_grads}, loss

  packed = _packed(step) if processes > 1 else step
  if peer not in ('loop', 'functional'):
    # Sizes are constants: dynamic shapes would only slow down the code.
    mode = None if peer == 'compiled' else 'max-autotune'
    packed = torch.compile(packed, dynamic=False, fullgraph=True, mode=mode)
  step = _summed(packed, processes) if processes > 1 else packed
  return _Gradients(step, tensors, batch)


def _packed(step: Callable) -> Callable:
  """The step with its results in one vector, the loss last."""

  def packed(params, rows, batch):
    grads, loss = step(params, rows, batch)
    named = {name: grads[name] for name in (*params, 'rows')}
    return torch.cat([x.flatten() for x in (*named.values(), loss)])

  return packed


def _summed(packed: Callable, processes: int) -> Callable:
  """Means over processes of what `packed` returns, as a step."""

  def step(params, rows, batch):
    message = packed(params, rows, batch)
    distributed.all_reduce(message)
    message /= processes
    like = params | {'rows': rows}
    *grads, loss = message.split([*(x.numel() for x in like.values()), 1])
    shaped = {
      name: grad.view(x.shape)
      for (name, x), grad in zip(like.items(), grads, strict=True)
    }
    return shaped, loss[0]

  return step


def _table_step(
  peer: str, case: meta_problem.Case, num_support: int, arrays: dict
) -> meta_problem.Step:
  """The step of a peer on a table: read rows, gradients, both optimizers.

  Row-wise Adagrad is written by hand, for distinct rows found before timing.
  """
  dim = arrays['rows'].shape[1]
  table = torch.from_numpy(meta_problem.table(case, dim))
  accumulator = torch.zeros(case.num_rows)
  places = torch.from_numpy(meta_problem.places(case, len(arrays['rows'])))
  gradients = _make_gradients(peer, case, num_support, arrays)
  tensors = gradients.tensors
  state = {}

  @torch.no_grad()
  def update(grads: Leaves) -> None:
    rows = grads.pop('rows')
    sums = accumulator[places] + rows.square().mean(dim=1)
    accumulator[places] = sums
    rates = meta_problem.TABLE_RATE / (sums.sqrt() + meta_problem.EPS)
    table.index_add_(0, places, rows * -rates[:, None])
    for name, grad in grads.items():
      tensors[name] -= meta_problem.DENSE_RATE * grad

  def run() -> torch.Tensor:
    gradients.rows = table[places]
    state['loss'], grads = gradients()
    update(dict(grads))
    return state['loss']

  def answer() -> dict[str, np.ndarray]:
    return {
      'loss': state['loss'].numpy(),
      'rows': table[places].numpy(),
      'w0': tensors['w0'].numpy(),
    }

  return meta_problem.Step(run, answer)
