# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The problem of `meta_problem` in PyTorch, in three forms.

- `loop`: `autograd.grad` task by task, as in the code of MeLU and learn2learn.
- `functional`: `torch.func.grad` of the inner loss, `torch.func.vmap` of tasks.
- `compiled`: the same function under `torch.compile`.

All three share the model and the inner loop below; they differ in its
differentiation.
"""

from collections.abc import Callable
import functools
from typing import Any

import numpy as np
import torch
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


def make(
  case: dict[str, Any], num_support: int, problem: str, peer: str
) -> meta_problem.Step:
  """Returns the step of a peer on a problem of `meta_problem.make`."""
  torch.compiler.reset()
  made, arrays = meta_problem.Case(**case), harness.load(problem)
  if made.num_rows:
    return _table_step(peer, made, num_support, arrays)
  run = _make_gradients(peer, made, num_support, arrays)

  def answer() -> dict[str, np.ndarray]:
    loss, grads = run()
    return {name: x.numpy() for name, x in grads.items()} | {
      'loss': loss.numpy()
    }

  return meta_problem.Step(run, answer)


class _Gradients:
  """Gradients of a batch, and the tensors that they belong to."""

  def __init__(self, step: Callable, tensors: Leaves, batch: Leaves):
    self.tensors, self.rows = tensors, tensors.pop('rows')
    self._step, self._batch = step, batch

  def __call__(self) -> tuple[torch.Tensor, Leaves]:
    grads, loss = self._step(self.tensors, self.rows, self._batch)
    return loss, grads


def _make_gradients(
  peer: str, case: meta_problem.Case, num_support: int, arrays: dict
) -> _Gradients:
  """Returns the function of loss and gradients of one peer."""
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
  batch = {
    name: tensors.pop(name)
    for name in ('index', 'task_rows', 'task_index', 'label')
  }
  if peer == 'loop':
    step = functools.partial(_loop, case, num_support)
  else:
    grad_fn = torch.func.grad_and_value(
      lambda both, batch: _mean_loss(case, num_support, *both, batch)
    )

    def step(params, rows, batch):
      (grads, row_grads), loss = grad_fn((params, rows), batch)
      return grads | {'rows': row_grads}, loss

    if peer == 'compiled':
      # Sizes are constants: dynamic shapes would only slow down the code.
      step = torch.compile(step, dynamic=False, fullgraph=True)

  return _Gradients(step, tensors, batch)


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
