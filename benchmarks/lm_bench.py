# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed of language models in training and encoding, against transformers.

  python -m benchmarks.lm_bench > results.jsonl

prints a JSON line for each model and number of tokens. `step` is a whole
training step in float32 (gradient, clip by norm, AdamW): next-token
cross-entropy for decoders on one sequence of that many tokens, and for MiniLM,
which has no output layer, the mean squared distance of rows' mean vectors from
given ones, on rows of 128 tokens. `encode` computes mean vectors of titles of 4
to 40 tokens, from token ids in memory. `ratio` and `encode_ratio` are the
peer's seconds over antjax's.

The peer is `lm_peers`: transformers under `torch.compile`, sdpa attention,
fused AdamW. Both read the same folder of random weights and must agree on the
loss of the first step and on the vectors; otherwise an error line is printed
and the exit status is 1. The sides take turns in blocks.

`cpu_ratio` and `encode_cpu_ratio` are those of processor seconds, which other
work on the machine changes less. Threads that wait may spin, so compare one
thread with one: `taskset -c 0 python -m benchmarks.lm_bench --threads=1`.

`flops` counts the products of a step, 6 FLOPs per weight and token and the
scores of attention; `of_peak` is their rate relative to the fastest product of
two large matrices, measured first on this machine.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import pathlib
import statistics
import tempfile
from typing import Annotated, Any

import numpy as np

from benchmarks import bahe_bench, harness, machine

ROW = 128  # Tokens per row of an encoder's training step.
NUM_TITLES = 256
TITLE_TOKENS = (21.0, 9.0)  # Mean and deviation, clipped to 4 .. 40.
LEARNING_RATE = 5e-5
RTOL = 1e-4  # For losses and vectors: float32 sums in another order.
_NAMES = ('antjax', 'peer')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(harness.Config):
  """Flags."""

  blocks: int = 5
  block_s: float = 4.0
  encode: Annotated[bool, 'Also encode titles, alike for all tokens.'] = True


@dataclasses.dataclass(frozen=True)
class Case:
  """A model of `bahe_bench.MODELS`, and the tokens per training step."""

  model: str
  num_tokens: int

  @property
  def name(self) -> str:
    """The case's name on the command line."""
    return f'{self.model}-{self.num_tokens}'


CASES = tuple(
  Case(model, num_tokens)
  for model in bahe_bench.MODELS
  for num_tokens in (256, 2048)
)


def make(case: Case, fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Makes a problem.

  Returns:
    tokens: int32 [B, T], tokens of the step. target: float32 [B, D], target
    mean vectors, for encoders. titles: int32 [M, 40], zero-padded. lengths:
    int32 [M], number of tokens of each title.
  """
  rng = np.random.default_rng(0)
  width, vocab_size = fields['hidden_size'], fields['vocab_size']
  row = ROW if fields['model_type'] == 'bert' else case.num_tokens
  shape = (case.num_tokens // row, row)
  lengths = rng.normal(*TITLE_TOKENS, NUM_TITLES).round().clip(4, 40)
  titles = rng.integers(2, vocab_size, (NUM_TITLES, 40))
  return {
    'tokens': rng.integers(2, vocab_size, shape).astype(np.int32),
    'target': rng.normal(size=(shape[0], width)).astype(np.float32),
    'titles': np.where(np.arange(40) < lengths[:, None], titles, 0).astype(
      'i4'
    ),
    'lengths': lengths.astype(np.int32),
  }


def flops(case: Case, fields: Mapping[str, Any]) -> float:
  """FLOPs of the products of a training step."""
  width, layers = fields['hidden_size'], fields['num_hidden_layers']
  heads = fields['num_attention_heads']
  head = fields.get('head_dim') or width // heads
  shared = fields.get('num_key_value_heads', heads)
  is_encoder = fields['model_type'] == 'bert'
  attention = width * head * (2 * heads + 2 * shared)
  mlp = (2 if is_encoder else 3) * width * fields['intermediate_size']
  output = 0 if is_encoder else width * fields['vocab_size']
  seen = ROW if is_encoder else case.num_tokens / 2  # A causal mask hides half.
  scores = 2 * layers * heads * head * seen
  return 6.0 * case.num_tokens * (layers * (attention + mlp) + output + scores)


def line_of(
  case: Case, found: Mapping[str, Mapping[str, Any]], work: float
) -> dict[str, Any]:
  """The figures of a case, from the measurements of each side."""
  line: dict[str, Any] = {'model': case.model, 'num_tokens': case.num_tokens}
  line |= {'dtype': 'float32', 'flops': work}
  for call, prefix in (('step', ''), ('encode', 'encode_')):
    for kind in ('', 'cpu_') if call in found['peer'] else ():
      for name in _NAMES:
        seconds = statistics.median(found[name][kind + call])
        line[f'{name}_{call}_{kind}s'] = seconds
      ours, theirs = (line[f'{name}_{call}_{kind}s'] for name in _NAMES)
      line[f'{prefix}{kind}ratio'] = theirs / ours
  ours, theirs = (np.asarray(found[name]['first']) for name in _NAMES)
  if not np.allclose(ours, theirs, rtol=RTOL, atol=RTOL):
    line['error'] = f'antjax and peer disagree: {ours}, {theirs}.'
  return line


def _lines(config: Config) -> Iterator[dict[str, Any]]:
  cases = harness.choose('cases', config.cases, {c.name: c for c in CASES})
  peak = machine.matmul_flops_per_s()
  sides = {
    'antjax': harness.OURS,
    'peer': harness.Side(is_peer=True, threads=config.threads),
  }
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made)
    for case in cases:
      fields = bahe_bench.fields(case.model, config.quick)
      bahe_bench.write_model(fields, folder / case.model)
      harness.save(make(case, fields), folder / 'problem.npz')
      options = {
        'folder': str(folder / case.model),
        'problem': str(folder / 'problem.npz'),
      }
      with harness.workers(sides, case.name) as workers:
        workers['antjax'].make('benchmarks.lm_form:Form', **options)
        workers['peer'].make('benchmarks.lm_peers:Peer', **options)
        first = {
          name: worker.order('first', encodes=config.encode)
          for name, worker in workers.items()
        }
        calls = {'step': 2} | ({'encode': 1} if config.encode else {})
        turns = harness.take_turns(workers, config.turns, calls, warm_up='step')
      found = {name: {**turns[name], 'first': first[name]} for name in _NAMES}
      work = flops(case, fields)
      line = line_of(case, found, work)
      yield line | {'of_peak': work / line['antjax_step_s'] / peak}


def main(config: Config) -> None:
  facts = harness.start(config)
  for line in _lines(config):
    harness.emit(line | facts)


if __name__ == '__main__':
  harness.run(main, Config())
