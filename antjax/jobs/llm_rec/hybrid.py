# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fits the hybrid of `ctr/llm_rec/hybrid.py` to validation users."""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

from absl import logging
import numpy as np

from antjax.ctr.llm_rec import hybrid, negatives, untrained
from antjax.data.sequence_data import SequenceData
from antjax.data.sequence_events import SequenceEvents
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec.config import HeldOutConfig, HybridConfig
from antjax.jobs.llm_rec.held_out import HeldOut
from antjax.report import progress

Events = tuple[np.ndarray, np.ndarray]  # Users and items, each int [E].


def flat(events: SequenceEvents, num_items: int) -> Events:
  """(user, item), int [E], of all events, users one after another."""
  whole = events.of_items(np.ones(num_items, bool))
  return np.repeat(np.arange(whole.num_users), whole.lengths), whole.events


def fit(
  config: HybridConfig,
  data: SequenceData,
  events: SequenceEvents,
  *,
  vectors: np.ndarray | None = None,
  model: Any = None,
) -> hybrid.Hybrid:
  """Fits it to drawn validation targets.

  A fifth of the candidates of a target are of any domain, so that items of
  several can be ranked together; the others are of its own.

  Args:
    config: Its settings.
    data: Items, and validation users.
    events: What training sees.
    vectors: float [N, D], one a title, or None.
    model: Model of vectors, or None.
  """
  whitening = None
  if vectors is not None and config.whiten:
    whitening = untrained.whitening(vectors)
    vectors = untrained.whiten(vectors)
  features = hybrid.Features(
    data.titles,
    data.domains,
    *flat(events, data.num_items),
    vectors=vectors,
    whitening=whitening,
    model=model,
    parts=config.parts,
  )
  whole, cold = llm_rec_held_out.held_out(
    data,
    'validation',
    HeldOutConfig(
      num_examples=config.num_examples,
      num_cold=config.num_examples or data.num_items,
      num_negatives=config.num_negatives,
      seed=config.seed,
    ),
  )

  def x_of(held_out: HeldOut, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of the candidates, and these."""
    history, candidates = _candidates(config, data, held_out)
    with progress.Progress(len(history), name=name, unit='users') as bar:
      x = features.of_candidates(history, candidates, bar.advance_to)
    return x, candidates

  found, losses = hybrid.fit(
    features,
    *x_of(whole, 'features'),
    new_targets=None if cold is None else x_of(cold, 'of new items'),
    new_share=config.new_share,
    loss_of_ndcg=config.loss_of_ndcg,
    ridge=config.ridge,
    seed=config.seed,
  )
  logging.info(
    'Hybrid of %s: loss %.3f, at first %.3f, of %d validation examples.',
    ', '.join(dict.fromkeys(features.parts)),
    losses[1],
    losses[0],
    len(whole),
  )
  return found


def _candidates(
  config: HybridConfig, data: SequenceData, held_out: HeldOut
) -> tuple[np.ndarray, np.ndarray]:
  """Histories and candidates of examples, the target first."""
  examples = held_out.examples
  history = examples.history_fn(np.arange(len(examples)))
  of_any = negatives.draw(
    np.minimum(data.domains, 0),
    held_out.users,
    examples.targets,
    history,
    num=max(config.num_negatives // 4, 1),
    seed=config.seed + 1,
  )
  return history, np.concatenate(
    [examples.targets[:, None], examples.negatives, of_any], axis=1
  )


def save(path: pathlib.Path, mixed: hybrid.Hybrid, events: Events) -> None:
  """Writes weights, given text vectors and (user, item) of events, as .npz."""
  users, items = events
  names = ('map', 'offset')
  kept = mixed.features.whitening or ()
  whitening: dict[str, Any] = dict(zip(names, kept, strict=False))
  np.savez(
    path,
    known=mixed.known_F,
    new=mixed.new_F,
    bias=mixed.bias,
    parts=[*dict.fromkeys(mixed.features.parts)],
    vectors=mixed.features.vectors.astype(np.float16),
    users=users.astype(np.int32),
    items=items.astype(np.int32),
    **whitening,
  )


def load(
  path: pathlib.Path,
  titles: Sequence[str],
  domains: np.ndarray,
  model: Any,
  vectors_fn: Callable[[Sequence[str]], np.ndarray] | None,
) -> hybrid.Hybrid:
  """Reads what `save` wrote, for a catalog that may have grown at its end.

  Args:
    path: The file.
    titles: Titles of all items, [N]; item 0 is the padding.
    domains: int [N].
    model: Model of vectors of these items.
    vectors_fn: Titles -> text vectors of those that have come since; None
      where the hybrid has no such part.
  """
  with np.load(path) as arrays:
    parts = arrays['parts'].tolist()
    events = arrays['users'], arrays['items']
    weights = arrays['known'], arrays['new'], float(arrays['bias'])
    vectors = None
    if 'vectors' in parts:
      vectors = arrays['vectors'].astype(np.float32)
      if new := titles[len(vectors) :]:
        assert vectors_fn is not None
        found = vectors_fn(new)
        if 'map' in arrays.files:  # Whitened.
          found = found @ arrays['map'] + arrays['offset']
        vectors = np.concatenate([vectors, untrained.unit(found)])
  features = hybrid.Features(
    titles, domains, *events, vectors=vectors, model=model, parts=parts
  )
  return hybrid.Hybrid(features, *weights)
