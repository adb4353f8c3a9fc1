# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cost per training example with long textual behaviors, in four forms.

  python -m benchmarks.bahe_bench > results.jsonl

prints one JSON line per case, for antjax (`bahe_forms`) and a peer in PyTorch
(`bahe_peers`). A click model reads a user's history of `text_length` tokens and
an item's title. The history consists of behaviors of `TOKENS_PER_BEHAVIOR`
tokens each, with as many distinct ones as in MovieLens-1M, few of them
frequent. A text's vector is the mean of the language model's outputs. Both
vectors are inputs of a small MLP, and the loss is the mean binary cross
entropy. Data and weights are synthetic, since speed does not depend on their
values.

The forms: `full_text`, all tokens through the whole language model in antjax,
and `peer`, the same in PyTorch and transformers; `dedup`, the distinct
behaviors of a micro-batch through the frozen low half, and their vectors
through the high half; `bahe`, stored vectors through the high half.

Seconds per example are those of a micro-batch's gradient, from tokens or ids in
memory to the sum of gradients, divided by its examples, plus those of the
optimizer divided by the 32 examples of a step, for all forms. `time_ratio` is
the faster of full_text and peer over bahe; `end_to_end_ratio` adds to bahe its
share of encoding MovieLens-1M's behaviors once for one pass over its examples.
`full_text_speed_ratio` is peer over full_text, `full_text_cpu_ratio` that of
processor seconds, see `lm_bench`.

`memory_ratio` compares bytes per example, without the state: for antjax the
memory planned by the compiler for twice the examples minus that for one
micro-batch; for the peer the tensors that autograd keeps for the backward pass,
which is less than it needs. `peak_ratio` compares the peak resident memory of
whole processes during the timed calls, including weights, moments and
gradients. Both are the smaller of full_text and peer over bahe.

In float32 full_text and peer must agree on the loss from the same weights;
otherwise an error line is printed and the exit status is 1.
"""

import dataclasses
import itertools
import os
import pathlib
import statistics
import tempfile
from typing import Annotated, Any, Literal

import numpy as np

from benchmarks import harness

FORMS = ('full_text', 'dedup', 'bahe', 'peer')
TEXT_LENGTHS = (256, 512, 1024, 2048)
# In MovieLens-1M, weighted by frequency: 13.3 with MiniLM's tokenizer, 15.4
# with SmolLM2's.
TOKENS_PER_BEHAVIOR = 16
# From launch/prepare_data.py: distinct behaviors and training examples.
NUM_BEHAVIORS = 3706
NUM_EXAMPLES = 800_167
# Examples per optimizer step, split into micro-batches that suit each form.
STEP_EXAMPLES = 32
HEAD = ('w0', 'b0', 'w1', 'b1')
HEAD_WIDTH = 64
LEARNING_RATE = 1e-5
# Examples per micro-batch of forms without long texts.
_SHORT_MICRO_BATCH = 16
# Float32 sums in another order, through a deep model.
LOSS_RTOL = 1e-4

_Remat = Literal['none', 'layer', 'dots']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(harness.Config):
  """Flags."""

  skip: Annotated[tuple[str, ...], 'Forms to leave out.'] = ()
  remat: Annotated[_Remat, 'What a full text computes again.'] = 'layer'
  high_remat: Annotated[_Remat, 'The same, for dedup and bahe.'] = 'layer'


@dataclasses.dataclass(frozen=True)
class Case:
  """A language model of `MODELS`, tokens of a history, compute dtype."""

  model: str
  text_length: int
  dtype: str

  @property
  def name(self) -> str:
    """The case's name on the command line."""
    return f'{self.model}-{self.text_length}-{self.dtype}'

  @property
  def num_behaviors(self) -> int:
    """Number of behaviors of a user."""
    return self.text_length // TOKENS_PER_BEHAVIOR

  def micro_batch(self, form: str) -> int:
    """Examples per micro-batch of a form."""
    is_long = form in ('full_text', 'peer')
    return max(1, 2048 // self.text_length) if is_long else _SHORT_MICRO_BATCH


# config.json of each model.
_BERT = {
  'architectures': ['BertModel'],
  'model_type': 'bert',
  'hidden_act': 'gelu',
  'layer_norm_eps': 1e-12,
  'type_vocab_size': 2,
  # MiniLM has 512. Both sides get more, for longer texts.
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
}
# Qwen3-0.6B with half its widths and 12 of its 28 layers.
_QWEN3 = _LLAMA | {
  'architectures': ['Qwen3ForCausalLM'],
  'model_type': 'qwen3',
  'head_dim': 128,
  'rms_norm_eps': 1e-6,
}
_SIZES = (
  *('vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads'),
  *('intermediate_size', 'num_key_value_heads'),
)
# Family, sizes, and sizes of a tiny model.
MODELS: dict[str, tuple[dict[str, Any], tuple, tuple]] = {
  'minilm': (_BERT, (30_522, 384, 6, 12, 1536), (101, 16, 2, 2, 24)),
  'smollm2': (_LLAMA, (49_152, 576, 30, 9, 1536, 3), (101, 16, 2, 2, 24, 1)),
  'qwen3': (_QWEN3, (32_768, 512, 12, 8, 1536, 4), (101, 16, 2, 2, 24, 1)),
}
CASES = tuple(
  Case(model, length, dtype)
  for model, dtype, length in itertools.product(
    ('minilm', 'smollm2'), ('float32', 'bfloat16'), TEXT_LENGTHS
  )
)


def fields(model: str, is_quick: bool) -> dict[str, Any]:
  """A model's config.json."""
  family, sizes, tiny = MODELS[model]
  return family | dict(zip(_SIZES, tiny if is_quick else sizes))


def write_model(fields: dict[str, Any], folder: str | pathlib.Path) -> None:
  """Writes a model with random weights as a Hugging Face folder, once."""
  if os.path.exists(folder):
    return
  import jax

  from antjax.layers.functional import Functional
  from antjax.lm import config_json, pretrained, Transformer

  jax.config.update('jax_platforms', 'cpu')  # Do not occupy an accelerator.
  config = config_json.read_config(fields)
  params = jax.jit(Functional(Transformer, config).init)(jax.random.key(0))
  pretrained.save_pretrained(folder, config, params)


def make(case: Case, config: dict[str, Any], num_examples: int, seed: int = 0):
  """A batch, tokens of the behaviors and the head.

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


def line_of(case: Case, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """The figures of a case, from the measurements of each form."""
  seconds, cpu_s = (
    {
      form: statistics.median(x[clock + 'gradient']) / x['num_examples']
      + statistics.median(x[clock + 'update']) / STEP_EXAMPLES
      for form, x in found.items()
    }
    for clock in ('', 'cpu_')
  )
  line: dict[str, Any] = dataclasses.asdict(case)
  line['num_behaviors'] = case.num_behaviors
  for form, x in found.items():
    line[form] = {
      's_per_example': seconds[form],
      'cpu_s_per_example': cpu_s[form],
      'mb_per_example': x['bytes'] / 1e6,
      'peak_mb': round(x['peak_bytes'] / 1e6),
      'micro_batch': x['num_examples'],
      'num_calls': len(x['gradient']),
    }
  long = [form for form in ('full_text', 'peer') if form in found]
  if len(long) == 2:
    for ratio, x in (('speed', seconds), ('cpu', cpu_s)):
      line[f'full_text_{ratio}_ratio'] = x['peer'] / x['full_text']
    ours, theirs = (found[form]['loss'] for form in long)
    is_off = abs(ours - theirs) > LOSS_RTOL * abs(theirs)
    if case.dtype == 'float32' and is_off:
      line['error'] = f'full_text and peer disagree: losses {ours}, {theirs}.'
  if 'bahe' in found and long:
    bahe = found['bahe']
    build_s = NUM_BEHAVIORS / bahe['behaviors_per_s'] / NUM_EXAMPLES
    slow_s = min(seconds[form] for form in long)

    def least(name: str) -> float:
      smallest = min(found[form][name] for form in long)
      return smallest / bahe[name]

    line |= {
      'time_ratio': slow_s / seconds['bahe'],
      'memory_ratio': least('bytes'),
      'peak_ratio': least('peak_bytes'),
      'end_to_end_ratio': slow_s / (seconds['bahe'] + build_s),
      'behaviors_per_s': round(bahe['behaviors_per_s']),
    }
    if 'dedup' in found:
      line['dedup_time_ratio'] = slow_s / seconds['dedup']
  # The bound: the fastest products observed in any form.
  peak = max(x.get('peak_flops', 0) for x in found.values())
  line['flops_bound_s'] = {
    form: (x['flops'] / peak) for form, x in found.items() if 'flops' in x
  }
  line['matmul_gflops'] = round(peak / 1e9)
  return line


def _run(config: Config, case: Case, folder: pathlib.Path) -> dict[str, Any]:
  """Runs a case in all forms; returns their measurements."""
  forms = [form for form in FORMS if form not in config.skip]
  sides = {
    form: harness.Side(is_peer=True, threads=config.threads)
    if form == 'peer'
    else harness.OURS
    for form in forms
  }
  model = fields(case.model, config.quick)
  write_model(model, folder / case.model)
  found: dict[str, Any] = {}
  with harness.workers(sides, case.name) as workers:
    for form, worker in workers.items():
      path = str(folder / f'{form}.npz')
      harness.save(make(case, model, case.micro_batch(form)), path)
      common = {
        'case': dataclasses.asdict(case),
        'folder': str(folder / case.model),
        'problem': path,
      }
      if form == 'peer':
        worker.make('benchmarks.bahe_peers:FullText', **common)
      else:
        worker.make(
          'benchmarks.bahe_forms:Form',
          **common,
          form=form,
          remat=config.remat if form == 'full_text' else config.high_remat,
          is_quick=config.quick,
        )
      found[form] = worker.order('warm_up')
      worker.order('forget_peak_memory')  # Excludes compilation.
    calls = {'gradient': 1, 'update': 0}
    turns = harness.take_turns(workers, config.turns, calls, warm_up='gradient')
    for form, worker in workers.items():
      found[form] |= turns[form] | {'peak_bytes': worker.order('peak_bytes')}
  return found


def main(config: Config) -> None:
  harness.choose('skip', config.skip, dict.fromkeys(FORMS))
  cases = harness.choose('cases', config.cases, {c.name: c for c in CASES})
  facts = harness.start(
    config, remat=config.remat, high_remat=config.high_remat
  )
  with tempfile.TemporaryDirectory() as folder:
    for case in cases:
      found = _run(config, case, pathlib.Path(folder))
      harness.emit(line_of(case, found) | facts)


if __name__ == '__main__':
  harness.run(main, Config())
