# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The peer of `benchmarks.lm_bench`: transformers under `torch.compile`."""

import numpy as np
import torch
import transformers

from benchmarks import harness
from benchmarks import lm_bench as problem_lib

# Titles per batch of similar length: the fastest measured of 16 to 64.
_GROUP = 32


class Peer:
  """Training and encoding."""

  def __init__(self, folder: str, problem: str):
    """Reads the model and the problem."""
    self._problem = harness.load(problem)
    config = transformers.AutoConfig.from_pretrained(folder)
    self._is_encoder = config.model_type == 'bert'
    options = {'attn_implementation': 'sdpa', 'dtype': torch.float32}
    if self._is_encoder:  # antjax has no dropout.
      options |= {
        'add_pooling_layer': False,
        'hidden_dropout_prob': 0.0,
        'attention_probs_dropout_prob': 0.0,
      }
    kind = 'AutoModel' if self._is_encoder else 'AutoModelForCausalLM'
    self._model = getattr(transformers, kind).from_pretrained(folder, **options)
    self._model.config.use_cache = False
    self._base = self._model.base_model
    self._tokens = torch.from_numpy(self._problem['tokens'].astype(np.int64))
    self._target = torch.from_numpy(self._problem['target'])
    self._optimizer = torch.optim.AdamW(
      self._model.parameters(),
      lr=problem_lib.LEARNING_RATE,
      weight_decay=1e-3,
      fused=True,
    )
    self._compiled = torch.compile(self._loss, dynamic=False)
    self._hidden = torch.compile(self._means, dynamic=True)

  def _loss(self) -> torch.Tensor:
    if self._is_encoder:
      means = self._base(self._tokens).last_hidden_state.mean(1)
      return (means - self._target).square().mean()
    return self._model(self._tokens, labels=self._tokens).loss

  def step(self) -> float:
    """A whole step; returns the loss."""
    loss = self._compiled()
    self._optimizer.zero_grad(set_to_none=False)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
    self._optimizer.step()
    return float(loss.detach())

  def _means(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    x = self._base(tokens, attention_mask=mask).last_hidden_state
    weights = mask[..., None].to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1)

  @torch.inference_mode()
  def _vectors(self) -> torch.Tensor:
    titles, lengths = self._problem['titles'], self._problem['lengths']
    order = np.argsort(lengths, kind='stable')
    found = []
    for start in range(0, len(order), _GROUP):
      rows = order[start : start + _GROUP]
      longest = int(lengths[rows].max())
      tokens = torch.from_numpy(titles[rows, :longest].astype(np.int64))
      sizes = torch.from_numpy(lengths[rows].astype(np.int64))
      mask = torch.arange(longest)[None] < sizes[:, None]
      found.append(self._hidden(tokens, mask.long()))
    return torch.cat(found)[torch.from_numpy(np.argsort(order))]

  def encode(self) -> None:
    """Encodes the titles."""
    self._vectors()

  def first(self, encodes: bool) -> list[float]:
    """First numbers of some vectors, if any, and the first step's loss."""
    vectors = self._vectors()[:4, 0].tolist() if encodes else []
    return [*vectors, self.step()]
