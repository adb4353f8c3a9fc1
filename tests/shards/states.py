# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""States made of plain sets of records, and records that a state has left."""

import json

from antjax.shards import data_shard, index_set
from antjax.shards.ledger import Ledger
from antjax.shards.ledger_state import EpochRun


def through_json(state):
  return json.loads(json.dumps(state))


def state_of(consumed, spec, share=(0, 1), first_epoch=0):
  """A dynamic state with these (epoch, record)."""
  shards = data_shard.num_shards(spec.num_records, spec.shard_size)
  runs = []
  for epoch in range(
    first_epoch, max((e for e, _ in consumed), default=-1) + 1
  ):
    places = data_shard.shard_positions(shards, spec.seed, epoch)
    offsets = {}
    for other, record in consumed:
      if other == epoch:
        index, offset = divmod(record, spec.shard_size)
        place = index if spec.is_stream else int(places[index])
        offsets.setdefault((place, index), []).append(offset)
    done, marks = [], {}
    for (place, index), values in offsets.items():
      if len(values) == len(spec.shard(epoch, index)):
        done.append(place)
      else:
        marks[place] = index_set.bits(values)
    run = EpochRun(epoch, epoch + 1, index_set.bits(done), marks=marks)
    runs.append(run.to_json())
  return through_json(
    {
      **spec.head(),
      'share': list(share),
      'dynamic': True,
      'first_epoch': first_epoch,
      'epochs': runs,
    }
  )


def records_of(shard, bits=0):
  """The (epoch, record) of a shard that are not in a bit set."""
  consumed = set((shard.start + index_set.members(bits)).tolist())
  left = sorted(set(range(shard.start, shard.stop)) - consumed)
  return [(shard.epoch, record) for record in left]


def drain(ledger, worker='last'):
  """Consumes all that is to do; returns its (epoch, record)."""
  records = []
  while leases := ledger.lease(worker, 1):
    [(shard, bits)] = leases
    records += records_of(shard, bits)
    ledger.consume(worker, shard)
  return records


def remaining(state, spec):
  """The sorted (epoch, record) that a state has left."""
  ledger = Ledger(spec)
  ledger.begin(through_json(state))
  return sorted(drain(ledger))
