# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed of LLM-Rec's training and evaluation, compared with PyTorch.

  python -m benchmarks.llm_rec_bench > results.jsonl

prints a JSON line for each dtype and peer. Users have a history of items, a
target, and negatives of its domain, as in LLM-Rec's training. Lengths of titles
and histories are distributed as in Amazon's food and kitchen data with MiniLM's
tokenizer. Items, tokens and weights are random, since speed does not depend on
them.

The peers, in PyTorch and transformers, are three forms of one recipe
(`llm_rec_peers`): `published`, 11 encodings per example, padded to 42;
`deduplicated`, distinct items once, sorted by length; `shared`, negatives
shared by a batch. antjax trains by `Trainer` on packed texts, as usual, with
the same negatives as the peer: its `own` form is compared with the first two,
its `shared` form with the third. Its `store` form, compared with the first, is
launch/recipes/llm_rec_store.flags: titles are rows of a store, all prefixes of
a history are predicted in one pass, and the head is trained instead of the
language model. This is another model, so losses are not compared; an example is
a predicted event in both.

`examples_per_s` is for whole steps, from token ids in memory to new parameters;
`eval_users_per_s` from histories to the 20 best of all items, whose vectors are
given; `items_per_s` from titles to vectors. `ratio` is antjax over peer, and
`cpu_ratio` that of examples per processor second, see `lm_bench`.

In float32 all forms with the same negatives must agree on the loss of the first
batch from the same weights; otherwise an error line is printed and the exit
status is 1. The two forms of a line take turns in blocks, whose first step is
not timed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import pathlib
import statistics
import sys
import tempfile
from typing import Annotated, Any

import numpy as np

from benchmarks import bahe_bench, harness

OURS = ('own', 'shared', 'store')
PEERS = ('published', 'deduplicated', 'shared')
# antjax's form and its peer, with the same negatives except for a store.
PAIRS = (
  ('own', 'published'),
  ('own', 'deduplicated'),
  ('shared', 'shared'),
  ('store', 'published'),
)
_NAMES = (*(f'antjax_{x}' for x in OURS), *(f'peer_{x}' for x in PEERS))
NUM_USERS, NUM_ITEMS = 96, 512  # Per call of the evaluation.
DOMAIN_SIZES = (8_661, 27_637)
MAX_TITLE_TOKENS = 40
MAX_HISTORY = 10
NUM_NEGATIVES = 10
BATCH = 24
STORE_BATCH = 96  # Number of histories per step over a store.
LEARNING_RATE = 5e-5
# Mean and deviation of a title's tokens, truncated to MAX_TITLE_TOKENS.
TITLE_TOKENS = (21.0, 9.0)
# Share of training examples with a history of 1, 2, .. 9, 10 and more items.
HISTORY = (0.18, 0.17, 0.16, 0.12, 0.09, 0.06, 0.05, 0.04, 0.03, 0.10)
CLS = 1  # Token before a text; tokens of titles are above it.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(harness.Config):
  """Flags."""

  blocks: int = 4
  block_s: float = 4.0
  forms: Annotated[tuple[str, ...], "antjax's forms; empty: all."] = ()
  skip: Annotated[tuple[str, ...], 'Forms to leave out.'] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A model of `bahe_bench.MODELS`, a dtype, and a number of batches."""

  model: str = 'minilm'
  dtype: str = 'float32'
  num_batches: int = 8

  @property
  def name(self) -> str:
    """The case's name on the command line."""
    return f'{self.model}-{self.dtype}'


CASES = tuple(Case(dtype=dtype) for dtype in ('float32', 'bfloat16'))


def make(case: Case, vocab_size: int, is_quick: bool, seed: int = 0):
  """Titles and batches of examples.

  Returns:
    tokens: int32 [all], tokens of titles. offsets: int64 [items + 1]: item i
    has tokens[offsets[i]:offsets[i + 1]];
      item 0 has none.
    domains: int32 [items], -1 for item 0.
    history: int32 [X, N], oldest first, 0 after the newest. target: int32 [X],
    and negatives int32 [X, 10], items of its domain. shared: int32 [batches,
    10], negatives of a whole batch.
  """
  rng = np.random.default_rng(seed)
  # A quick problem compiles quickly: short texts, in few rows.
  scale, shorter, longest = (40, 8, 3) if is_quick else (1, 1, MAX_HISTORY)
  sizes = [size // scale for size in DOMAIN_SIZES]
  num_items = sum(sizes) + 1
  lengths = rng.normal(*TITLE_TOKENS, num_items).round().astype(np.int64)
  lengths = np.clip(lengths, 4, MAX_TITLE_TOKENS) // shorter + is_quick
  lengths[0] = 0
  num = BATCH * case.num_batches
  domains = np.repeat([-1, 0, 1], [1, *sizes]).astype(np.int32)
  first = np.array([1, 1 + sizes[0]])
  # Frequencies of targets are 1 / rank within a domain.
  domain = rng.choice(2, num, p=(0.2, 0.8))
  target = np.empty(num, np.int32)
  negatives = np.empty((num, NUM_NEGATIVES), np.int32)
  history = np.zeros((num, longest), np.int32)
  lengths_h = rng.choice(np.arange(1, 1 + MAX_HISTORY), num, p=HISTORY)
  lengths_h = np.minimum(lengths_h, longest)
  for i in range(num):
    size, start = sizes[domain[i]], first[domain[i]]
    count = 1 + lengths_h[i]
    ranks = np.exp(rng.random(4 * count) * np.log(size)).astype(np.int64) - 1
    had = start + np.unique(ranks)
    had = rng.permutation(had)[:count]
    target[i] = had[0]
    history[i, : len(had) - 1] = had[1:]
    pool = np.setdiff1d(start + rng.integers(0, size, 40), had)
    negatives[i] = rng.permutation(pool)[:NUM_NEGATIVES]
  shared = np.stack(
    [
      rng.permutation(np.unique(batch))[:NUM_NEGATIVES]
      for batch in negatives.reshape(case.num_batches, -1)
    ]
  )
  return {
    'tokens': rng.integers(2, vocab_size, lengths.sum()).astype(np.int32),
    'offsets': np.concatenate([[0], np.cumsum(lengths)]),
    'domains': domains,
    'history': history,
    'target': target,
    'negatives': negatives,
    'shared': shared.astype(np.int32),
  }


def pairs_of(names: Collection[str]) -> list[tuple[str, str | None]]:
  """(antjax's form, its peer or None) for each line."""
  pairs = [
    (f'antjax_{own}', f'peer_{peer}')
    for own, peer in PAIRS
    if f'peer_{peer}' in names and f'antjax_{own}' in names
  ]
  alone = [(f'antjax_{own}', None) for own in OURS if f'antjax_{own}' in names]
  return list(pairs or alone)


def line_of(
  case: Case, pair: tuple[str, str | None], found: dict[str, dict[str, Any]]
) -> dict[str, Any]:
  """The figures of a pair, from the measurements of each form."""
  own, other = pair
  ours = found[own]
  peer = other and other.removeprefix('peer_')
  line = {
    'model': case.model,
    'dtype': case.dtype,
    'batch': ours.get('batch', BATCH),
    'negatives': own.removeprefix('antjax_'),
    'peer': peer,
    **_speeds(ours, ''),
    'num_steps': len(ours['step']),
    **ours['facts'],
  }
  if other is None:
    return line
  theirs = found[other]
  line |= _speeds(theirs, 'peer_')
  for ratio, name in (
    ('ratio', 'examples_per_s'),
    ('cpu_ratio', 'examples_per_cpu_s'),
    ('eval_ratio', 'eval_users_per_s'),
    ('items_ratio', 'items_per_s'),
  ):
    line[ratio] = line[name] / line[f'peer_{name}']
  difference = abs(ours['loss'] - theirs['loss'])
  is_off = difference > bahe_bench.LOSS_RTOL * theirs['loss']
  is_off &= own != 'antjax_store'
  if case.dtype == 'float32' and is_off:
    line['error'] = (
      f'antjax and {peer} disagree: losses {ours["loss"]}, {theirs["loss"]}.'
    )
  return line


def _speeds(form: dict[str, Any], prefix: str) -> dict[str, float]:
  counts = {
    'examples_per_s': (form.get('examples', BATCH), 'step'),
    'examples_per_cpu_s': (form.get('examples', BATCH), 'cpu_step'),
    'eval_users_per_s': (NUM_USERS, 'users'),
    'items_per_s': (NUM_ITEMS, 'items'),
  }
  return {
    prefix + name: (count / statistics.median(form[call]))
    for name, (count, call) in counts.items()
  }


def _lines(
  config: Config, case: Case, names: Sequence[str], folder: pathlib.Path
) -> Iterator[dict[str, Any]]:
  """Runs one case pair by pair; yields each line when it is known."""
  model = bahe_bench.fields(case.model, config.quick)
  model['max_position_embeddings'] = 512
  bahe_bench.write_model(model, folder / case.model)
  problem = make(case, model['vocab_size'], config.quick)
  harness.save(problem, folder / 'problem.npz')
  options = {
    'case': dataclasses.asdict(case),
    'folder': str(folder / case.model),
    'problem': str(folder / 'problem.npz'),
  }
  peer = harness.Side(is_peer=True, threads=config.threads)
  sides = {name: peer if name[0] == 'p' else harness.OURS for name in names}
  facts: dict[str, Mapping[str, Any]] = {}
  with harness.workers(sides, case.name) as workers:
    for pair in pairs_of(names):
      both = {name: workers[name] for name in pair if name}
      for name in both.keys() - facts.keys():
        what, form = name.split('_')
        made = 'forms:Form' if what == 'antjax' else 'peers:Peer'
        made = 'forms:StoreForm' if form == 'store' else made
        both[name].make(f'benchmarks.llm_rec_{made}', form=form, **options)
        facts[name] = both[name].order('warm_up')
      calls = {'step': 2, 'users': 0, 'items': 0}
      turns = harness.take_turns(both, config.turns, calls, warm_up='step')
      found = {name: {**facts[name], **turns[name]} for name in both}
      yield line_of(case, pair, found)


def main(config: Config) -> None:
  cases = harness.choose('cases', config.cases, {c.name: c for c in CASES})
  harness.choose('skip', config.skip, dict.fromkeys(_NAMES))
  forms = harness.choose('forms', config.forms, {x: x for x in OURS})
  names = [f'antjax_{x}' for x in forms]
  names += [f'peer_{peer}' for own, peer in PAIRS if own in forms]
  names = [x for x in dict.fromkeys(names) if x not in config.skip]
  if not pairs_of(names):
    sys.exit("--skip: leave at least one of antjax's forms.")
  facts = harness.start(config)
  with tempfile.TemporaryDirectory() as folder:
    for case in cases:
      if config.quick:
        case = dataclasses.replace(case, num_batches=2)
      for line in _lines(config, case, names, pathlib.Path(folder)):
        harness.emit(line | facts)


if __name__ == '__main__':
  harness.run(main, Config())
