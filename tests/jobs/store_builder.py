# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/build_behavior_store.py, slowly and saying what it does.

python -m tests.jobs.store_builder <seconds a range> <flags>
"""

import sys
import time

from antjax.ctr.bahe.encode import Encoder
from antjax.ctr.bahe.store import StoreWriter
from antjax.jobs import script
from antjax.jobs.bahe import build_store as build_behavior_store

if __name__ == '__main__':
  pause_s = float(sys.argv.pop(1))
  encode, write = Encoder.__call__, StoreWriter.write

  def slow_encode(self, tokens, offsets, *args):
    print(f'ENCODING {len(offsets) - 1}', flush=True)
    time.sleep(pause_s)
    return encode(self, tokens, offsets, *args)

  def loud_write(self, start, rows):
    write(self, start, rows)
    print(f'WROTE {start} {start + len(rows)}', flush=True)

  Encoder.__call__, StoreWriter.write = slow_encode, loud_write
  script.run(build_behavior_store.main, build_behavior_store.Config())
