# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts by a pretrained language model that is not trained."""

from collections.abc import Sequence

import jax
import numpy as np

from antjax.ctr.bahe import encode
from antjax.ctr.llm_rec import text_cosine
from antjax.lm import pretrained, pretrained_tokenizer, token_cache
from antjax.train import progress


class TextEncoder:
  """Texts -> the mean of the model's last layer over their tokens.

  That is how sentence encoders such as MiniLM were trained to be read.
  """

  def __init__(self, model: str, max_tokens: int):
    """Reads model and tokenizer.

    Args:
      model: Hugging Face folder or GGUF file.
      max_tokens: Tokens of a text at most; the newest are kept.
    """
    host = jax.local_devices(backend='cpu')[0]
    config, params = pretrained.load_pretrained(
      model, shardings=jax.sharding.SingleDeviceSharding(host)
    )
    inner = pretrained_tokenizer.load_tokenizer(model)
    self._tokenizer = token_cache.Tokenizer(inner, max_tokens)
    text_cosine.keep_newest(inner, max_tokens)
    self._encoder = encode.Encoder(
      config, params, num_low=config.num_layers, max_tokens=max_tokens
    )

  def __call__(self, texts: Sequence[str], title: str = '') -> np.ndarray:
    """float32 [texts, D]; zeros for a text without characters.

    Args:
      texts: The texts.
      title: Of a progress bar; '': none.
    """
    tokens, offsets = self._tokenizer(texts)
    if not title:
      return self._encoder(tokens, offsets)
    with progress.Progress(len(texts), name=title, unit='texts') as bar:
      done = 0

      def on_texts(num: int) -> None:
        nonlocal done
        bar.update(num, num_examples=num - done)
        done = num

      return self._encoder(tokens, offsets, on_texts)
