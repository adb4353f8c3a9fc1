# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The problem that `bahe_bench` and its peer solve; numpy only.

A click model reads a user's history of `text_length` tokens and an item's
title. The history is behaviours of `TOKENS_PER_BEHAVIOR` tokens each, of as
many distinct ones as MovieLens-1M has, few of them often. A text's vector is
the mean of the language model's outputs; both vectors go into a small MLP, and
the loss is the mean binary cross entropy. The data is synthetic, and so are the
weights: speed does not depend on their values.
"""

import dataclasses
from typing import Any

import numpy as np

TEXT_LENGTHS = (256, 512, 1024, 2048)
# Of MovieLens-1M's behaviours, weighted by how often they occur: 13.3 with
# MiniLM's tokenizer, 15.4 with SmolLM2's.
TOKENS_PER_BEHAVIOR = 16
# Of launch/prepare_data.py: distinct behaviours and training examples.
NUM_BEHAVIORS = 3706
NUM_EXAMPLES = 800_167
# Examples of an optimizer step; forms work it off in micro-batches that suit
# them.
STEP_EXAMPLES = 32
HEAD_WIDTH = 64
LEARNING_RATE = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A language model, a length of texts, a dtype to compute in.

  Attributes:
    model: A name of `MODELS`.
    text_length: Tokens of a user's history.
    dtype: 'float32' or 'bfloat16'.
  """

  model: str
  text_length: int
  dtype: str

  @property
  def name(self) -> str:
    """The case's name on the command line."""
    return f'{self.model}-{self.text_length}-{self.dtype}'

  @property
  def num_behaviors(self) -> int:
    """Behaviours of a user."""
    return self.text_length // TOKENS_PER_BEHAVIOR

  @property
  def micro_batch(self) -> int:
    """Examples that a form with texts works off at a time."""
    return max(1, 2048 // self.text_length)


# config.json of each model, and the layers below the cut, half of all.
_BERT = {
  'architectures': ['BertModel'],
  'model_type': 'bert',
  'hidden_act': 'gelu',
  'layer_norm_eps': 1e-12,
  'type_vocab_size': 2,
  # MiniLM has 512. Both sides get more, for texts that long.
  'max_position_embeddings': 2048,
}
_LLAMA = {
  'architectures': ['LlamaForCausalLM'],
  'model_type': 'llama',
  'hidden_act': 'silu',
  'rms_norm_eps': 1e-5,
  'rope_theta': 100_000.0,
  'max_position_embeddings': 8192,
  'tie_word_embeddings': True,
  'attention_bias': False,
  'mlp_bias': False,
}
MODELS: dict[str, dict[str, Any]] = {
  'minilm': {
    **_BERT,
    'vocab_size': 30_522,
    'hidden_size': 384,
    'num_hidden_layers': 6,
    'num_attention_heads': 12,
    'intermediate_size': 1536,
  },
  'smollm2': {
    **_LLAMA,
    'vocab_size': 49_152,
    'hidden_size': 576,
    'num_hidden_layers': 30,
    'num_attention_heads': 9,
    'num_key_value_heads': 3,
    'intermediate_size': 1536,
  },
}
# Layers and sizes for --quick.
_TINY = {
  'vocab_size': 101,
  'hidden_size': 16,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 24,
}
TINY: dict[str, dict[str, Any]] = {
  'minilm': {**_BERT, **_TINY},
  'smollm2': {**_LLAMA, **_TINY, 'num_key_value_heads': 1},
}
CASES = tuple(
  Case(model=model, text_length=length, dtype=dtype)
  for model in MODELS
  for dtype in ('float32', 'bfloat16')
  for length in TEXT_LENGTHS
)


def fields(model: str, is_quick: bool) -> dict[str, Any]:
  """A model's config.json."""
  return dict((TINY if is_quick else MODELS)[model])


def num_low(config: dict[str, Any]) -> int:
  """Layers below the cut."""
  return config['num_hidden_layers'] // 2


def make(case: Case, config: dict[str, Any], num_examples: int, seed: int = 0):
  """A batch, the behaviours' tokens and the head.

  Returns:
    tokens: int32 [NUM_BEHAVIORS, TOKENS_PER_BEHAVIOR].
    behaviors: int32 [B, M], rows of `tokens`.
    title: int32 [B], rows of `tokens`.
    label: float32 [B].
    w0, b0, w1, b1: float32, the head on a user's and a title's vector.
  """
  rng = np.random.default_rng(seed)
  width = 2 * config['hidden_size']
  draws = rng.zipf(1.2, (num_examples, case.num_behaviors + 1)) % NUM_BEHAVIORS
  shape = (NUM_BEHAVIORS, TOKENS_PER_BEHAVIOR)
  problem = {
    'tokens': rng.integers(1, config['vocab_size'], shape),
    'behaviors': draws[:, 1:],
    'title': draws[:, 0],
    'label': rng.integers(0, 2, num_examples),
    'w0': rng.normal(0, width**-0.5, (width, HEAD_WIDTH)),
    'b0': np.zeros(HEAD_WIDTH),
    'w1': rng.normal(0, HEAD_WIDTH**-0.5, (HEAD_WIDTH, 1)),
    'b1': np.zeros(1),
  }
  integers = ('tokens', 'behaviors', 'title')
  return {
    name: x.astype(np.int32 if name in integers else np.float32)
    for name, x in problem.items()
  }
