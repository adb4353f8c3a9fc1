# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LLM-Rec in PyTorch and transformers, in three forms.

`published` is the step of the official code: 11 items per example, each padded
to 42 tokens, and users padded to the longest of the batch. `deduplicated`
encodes the distinct items of a batch once, with items and users sorted by
length in separately padded groups. `shared` does the same for negatives shared
by the whole batch. All use transformers' sdpa attention, fused AdamW, no
dropout (antjax has none), and for bfloat16 autocast of float32 weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers

from benchmarks import harness
from benchmarks import llm_rec_bench as problem_lib

_PADDED = problem_lib.MAX_TITLE_TOKENS + 2
# Number of texts per group, sorted by length: the fastest measured of 8 to 64.
_ITEM_GROUP, _USER_GROUP = 32, 8
_EVAL_BATCH = 128  # As in the official code.


class Peer:
  """Training and evaluation of one form."""

  def __init__(
    self, form: str, case: dict[str, Any], folder: str, problem: str
  ):
    """Reads the model; see `llm_rec_forms.Form`."""
    self._form, self._problem = form, harness.load(problem)
    self._model = transformers.AutoModel.from_pretrained(
      folder,
      attn_implementation='sdpa',
      dtype=torch.float32,
      add_pooling_layer=False,
      hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0,
    ).train()
    self._dtype = getattr(torch, case['dtype'])
    self._optimizer = torch.optim.AdamW(
      self._model.parameters(),
      lr=problem_lib.LEARNING_RATE,
      weight_decay=1e-3,
      fused=True,
    )
    self._num_batches, self._next = case['num_batches'], 0
    width = self._model.config.hidden_size
    self._catalogue = torch.randn(len(self._problem['domains']), width)

  # Texts.

  def _item(self, item: int) -> np.ndarray:
    start, stop = self._problem['offsets'][item : item + 2]
    return np.append(problem_lib.CLS, self._problem['tokens'][start:stop])

  def _user(self, history: np.ndarray) -> np.ndarray:
    titles = [self._item(i)[1:] for i in history if i]
    return np.concatenate([[problem_lib.CLS], *titles])

  def _encode(
    self, texts: Sequence[np.ndarray], length: int | None = None
  ) -> torch.Tensor:
    """Vectors of one padded batch, [texts, D]."""
    length = length or max(map(len, texts))
    tokens = np.zeros((len(texts), length), np.int64)
    for row, text in zip(tokens, texts, strict=True):
      row[: len(text)] = text
    sizes = np.array([len(text) for text in texts])
    mask = torch.from_numpy(np.arange(length)[None] < sizes[:, None])
    with torch.autocast(
      'cpu', torch.bfloat16, enabled=self._dtype == torch.bfloat16
    ):
      output = self._model(torch.from_numpy(tokens), attention_mask=mask.long())
    return output.last_hidden_state[:, 0].float()

  def _sorted(self, texts: Sequence[np.ndarray], size: int) -> torch.Tensor:
    """The same in groups of texts of similar length."""
    order = np.argsort([len(text) for text in texts], kind='stable')
    parts = [
      self._encode([texts[i] for i in order[start : start + size]])
      for start in range(0, len(texts), size)
    ]
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]

  # Training.

  def _loss(self, i: int) -> torch.Tensor:
    span = slice(i * problem_lib.BATCH, (i + 1) * problem_lib.BATCH)
    users = [self._user(h) for h in self._problem['history'][span]]
    target = self._problem['target'][span]
    if self._form == 'shared':
      return self._shared_loss(i, users, target)
    items = np.concatenate(
      [target[:, None], self._problem['negatives'][span]], axis=1
    )
    if self._form == 'published':
      user = self._encode(users)
      texts = [self._item(item) for item in items.ravel()]
      item = self._encode(texts, _PADDED)
    else:
      ids, where = np.unique(items, return_inverse=True)
      user = self._sorted(users, _USER_GROUP)
      item = self._sorted([self._item(i) for i in ids], _ITEM_GROUP)
      item = item[torch.from_numpy(where.ravel())]
    item = item.view(*items.shape, -1)
    scores = torch.einsum('bd,bjd->bj', user, item)
    return F.cross_entropy(scores, torch.zeros(len(target), dtype=torch.long))

  def _shared_loss(
    self, i: int, users: Sequence[np.ndarray], target: np.ndarray
  ) -> torch.Tensor:
    """Scores targets and unseen shared items of the domain."""
    problem = self._problem
    ids = np.unique(np.append(target, problem['shared'][i]))
    user = self._sorted(users, _USER_GROUP)
    item = self._sorted([self._item(i) for i in ids], _ITEM_GROUP)
    span = slice(i * problem_lib.BATCH, (i + 1) * problem_lib.BATCH)
    history = problem['history'][span]
    is_seen = (ids[None, None] == history[:, :, None]).any(axis=1)
    domains = problem['domains']
    is_out = is_seen | (domains[ids][None] != domains[target][:, None])
    place = np.searchsorted(ids, target)
    is_out[np.arange(len(target)), place] = False
    scores = (user @ item.T).masked_fill(torch.from_numpy(is_out), -torch.inf)
    return F.cross_entropy(scores, torch.from_numpy(place))

  def step(self) -> float:
    """A whole step; returns the loss."""
    loss = self._loss(self._next % self._num_batches)
    self._next += 1
    self._optimizer.zero_grad(set_to_none=False)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
    self._optimizer.step()
    return float(loss.detach())

  def warm_up(self) -> dict[str, Any]:
    """Runs a first step; returns its loss."""
    loss = self.step()
    self.users()
    self.items()
    return {'loss': loss, 'facts': {}}

  # Evaluation.

  @torch.inference_mode()
  def users(self, top: int = 20) -> None:
    """Encodes and ranks users."""
    history = self._problem['history'][: problem_lib.NUM_USERS]
    texts = [self._user(h) for h in history]
    if self._form == 'published':
      vectors = self._encode(texts)
    else:
      vectors = self._sorted(texts, _ITEM_GROUP)
    scores = vectors @ self._catalogue.T
    torch.topk(scores, min(top, scores.shape[1]))

  @torch.inference_mode()
  def items(self) -> None:
    """Encodes items."""
    num = min(problem_lib.NUM_ITEMS, len(self._problem['domains']) - 1)
    texts = [self._item(i) for i in range(1, 1 + num)]
    if self._form == 'published':
      for start in range(0, num, _EVAL_BATCH):
        self._encode(texts[start : start + _EVAL_BATCH], _PADDED)
    else:
      self._sorted(texts, _EVAL_BATCH)
