# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts by a pretrained language model that is not trained."""

from collections.abc import Sequence
import hashlib
import json
import os
import pathlib

import jax
import numpy as np

from antjax.ctr.bahe import encode
from antjax.ctr.llm_rec import untrained
from antjax.lm import (
  fingerprint,
  pretrained,
  pretrained_tokenizer,
  token_cache,
)
from antjax.report import progress


class TextEncoder:
  """Texts -> the mean of the model's last layer over their tokens.

  That is how sentence encoders such as MiniLM were trained to be read.

  Attributes:
    made_of: All that determines the vectors, as JSON.
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
    inner = pretrained_tokenizer.load_tokenizer(model, config.vocab_size)
    self._tokenizer = token_cache.RowTokenizer(inner, max_tokens)
    self.made_of = [
      fingerprint.of_model(model),
      fingerprint.of_tokenizer(model),
      max_tokens,
    ]
    untrained.keep_newest(inner, max_tokens)
    self._encoder = encode.Encoder(
      config, params, num_low=config.num_layers, max_tokens=max_tokens
    )

  def __call__(self, texts: Sequence[str], title: str = '') -> np.ndarray:
    """float32 [texts, D]; zeros for a text without characters.

    Args:
      texts: The texts.
      title: Title of the progress bar; '': no bar.
    """
    tokens, offsets = self._tokenizer(texts)
    if not title:
      return self._encoder(tokens, offsets)
    with progress.Progress(len(texts), name=title, unit='texts') as bar:
      return self._encoder(tokens, offsets, bar.advance_to)

  def kept(
    self, texts: Sequence[str], folder: pathlib.Path, title: str
  ) -> np.ndarray:
    """Vectors as of `__call__`, from a file in the folder if it is there.

    The file is named by model, tokenizer, length and texts: another one of them
    gets a file of its own.

    Args:
      texts: The texts.
      folder: Existing folder; process 0 writes the file.
      title: Title of the progress bar.
    """
    made_of = json.dumps([*self.made_of, list(texts)]).encode()
    digest = hashlib.sha256(made_of).hexdigest()
    path = folder / f'vectors-{digest[:16]}.npy'
    if path.exists():
      return np.load(path)
    vectors = self(texts, title)
    if jax.process_index() == 0:
      temporary = path.with_suffix('.new.npy')
      np.save(temporary, vectors)
      os.replace(temporary, path)
    return vectors
