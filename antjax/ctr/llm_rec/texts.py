# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Titles of items as texts, and the marks around them.

As in LLM-Rec's official recipe (github.com/WHUIR/LLMRec, after Tang et al.
2025, https://arxiv.org/abs/2310.14304): an item's text is its title and '; ',
tokenized without special tokens and cut to 40; a user's is the texts of their
last items. A model's family says which marks surround a text and where its
vector is read. OPT is pretrained on texts that begin with </s>: here they do,
in the recipe they do not (`marks_of(published=True)`).
"""

from collections.abc import Sequence

import numpy as np
import tokenizers

from antjax.ctr.texts import Marks
from antjax.lm.config import Config

_END = '; '
_UNNAMED = 'None'  # Stands for a missing title.
# Tokens that end a text, of Llama's and Qwen2's kin.
_ENDS = ('<|endoftext|>', '</s>', '<|end_of_text|>', '<|im_end|>', '<eos>')


class Titles:
  """Titles of items as a vocabulary for `TokenCache`; row 0 is the padding."""

  normalizer = 'llm_rec-title-1'

  def __init__(self, titles: Sequence[str]):
    """Takes titles [items]; the first one is not read."""
    self._titles = titles

  def __len__(self) -> int:
    return len(self._titles)

  def texts(self, start: int, stop: int) -> list[str]:
    """The items' texts; that of the padding is empty."""
    found = [(title or _UNNAMED) + _END for title in self._titles[start:stop]]
    return ['', *found[1:]] if start == 0 < stop else found


def marks_of(
  config: Config, tokenizer: tokenizers.Tokenizer, *, published: bool = False
) -> Marks:
  """The marks of a family: [CLS] in front for BERT, an end for the others.

  Args:
    config: Configuration of the model.
    tokenizer: Tokenizer that came with the model.
    published: Leave out OPT's first token, as the official code does.

  Raises:
    ValueError: The tokenizer lacks a token that is needed.
  """

  def one_of(*names: str) -> int:
    for name in names:
      token = tokenizer.token_to_id(name)
      if token is not None:
        return int(token)
    raise ValueError(
      f'the tokenizer has no token {" or ".join(names)}, which texts of this'
      ' family of models need; give the tokenizer that the model came with.'
    )

  if not config.causal and config.positions == 'relative':  # T5's encoder.
    return Marks((), (one_of('</s>'),), 'last')
  has_first = tokenizer.token_to_id('[CLS]') is not None  # ModernBERT's.
  if not config.causal and (config.positions == 'learned' or has_first):
    return Marks((one_of('[CLS]', '<s>'),), (), 'first')
  if config.positions == 'learned':  # OPT.
    end = one_of('</s>')
    return Marks((() if published else (end,)), (end,), 'last')
  # Llama and others, which the recipe does not know: what the tokenizer's own
  # template puts in front, if anything, and an end.
  encoded = tokenizer.encode('a')
  front = encoded.special_tokens_mask.index(0)
  return Marks(tuple(encoded.ids[:front]), (one_of(*_ENDS),), 'last')


def title_tokens(
  tokens: np.ndarray, offsets: np.ndarray, max_tokens: int, width: int = 0
) -> np.ndarray:
  """int32 [N, T], -1 behind a title's last token, of tokens one after another.

  Args:
    tokens: int32 [all].
    offsets: int64 [N + 1]: title i has tokens[offsets[i]:offsets[i + 1]].
    max_tokens: Tokens taken of a title.
    width: T; 0: as the longest title needs.
  """
  sizes = np.minimum(np.diff(offsets), max_tokens)
  places = np.arange(width or sizes.max())
  is_there = places < sizes[:, None]
  found = np.full(is_there.shape, -1, np.int32)
  found[is_there] = tokens[(offsets[:-1, None] + places)[is_there]]
  return found
