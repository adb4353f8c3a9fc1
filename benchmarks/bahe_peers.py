# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The problem of `bahe_bench` in PyTorch: all tokens through all layers.

Uses models of transformers with sdpa attention, which is PyTorch's flash kernel
on CPU, and fused AdamW; bfloat16 is by autocast of float32 weights.
"""

from typing import Any

import torch
import torch.nn.functional as F
import transformers

from benchmarks import bahe_bench, harness


class FullText:
  """Training of a whole language model and a head."""

  def __init__(self, case: dict[str, Any], folder: str, problem: str):
    """Reads the model; see `bahe_forms.Form`."""
    arrays = {
      name: torch.from_numpy(x) for name, x in harness.load(problem).items()
    }
    options = {}
    if case['model'] == 'minilm':
      # No dropout: antjax has none, and it would disable the flash kernel.
      options = {
        'add_pooling_layer': False,
        'hidden_dropout_prob': 0.0,
        'attention_probs_dropout_prob': 0.0,
      }
    self._model = transformers.AutoModel.from_pretrained(
      folder, attn_implementation='sdpa', dtype=torch.float32, **options
    ).train()
    self._head = {
      name: torch.nn.Parameter(arrays[name]) for name in bahe_bench.HEAD
    }
    self._dtype = getattr(torch, case['dtype'])
    parameters = [*self._model.parameters(), *self._head.values()]
    self._optimizer = torch.optim.AdamW(
      parameters, lr=bahe_bench.LEARNING_RATE, fused=True
    )
    tokens = arrays['tokens'].long()
    self._text = tokens[arrays['behaviors'].long()].flatten(1)
    self._title = tokens[arrays['title'].long()]
    self._label = arrays['label']
    self.num_examples = len(self._label)

  def _loss(self) -> torch.Tensor:
    """Mean cross entropy of the batch."""
    with torch.autocast(
      'cpu', torch.bfloat16, enabled=self._dtype == torch.bfloat16
    ):
      x = torch.cat(
        [self._vector(self._text), self._vector(self._title)], dim=1
      )
      head = self._head
      x = F.relu(torch.addmm(head['b0'], x, head['w0']))
      logits = torch.addmm(head['b1'], x, head['w1'])[:, 0]
    return F.binary_cross_entropy_with_logits(logits.float(), self._label)

  def _vector(self, tokens: torch.Tensor) -> torch.Tensor:
    options = (
      {} if self._model.config.model_type == 'bert' else {'use_cache': False}
    )
    output = self._model(input_ids=tokens, **options).last_hidden_state
    return output.float().mean(dim=1)

  def gradient(self) -> float:
    """Adds a micro-batch's gradient; returns the loss."""
    loss = self._loss()
    loss.backward()
    return float(loss.detach())

  def update(self) -> None:
    """Runs the optimizer and zeros the gradient."""
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=False)

  def warm_up(self) -> dict[str, Any]:
    """Runs once; returns facts about the form."""
    facts = {
      'bytes': self._bytes_per_example(),
      'loss': self.gradient(),
      'num_examples': self.num_examples,
    }
    self.update()
    return facts

  def _bytes_per_example(self) -> float:
    """Bytes of the tensors kept for the backward pass.

    Parameters and temporary buffers of operators do not count, so the peak is
    higher.
    """
    own = {p.untyped_storage().data_ptr() for p in self._model.parameters()}
    own |= {p.untyped_storage().data_ptr() for p in self._head.values()}
    saved: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
      storage = x.untyped_storage()
      if storage.data_ptr() not in own:
        saved[storage.data_ptr()] = storage.nbytes()
      return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
      loss = self._loss()
      total = sum(saved.values())  # While the graph keeps all of them alive.
    del loss
    return total / self.num_examples
