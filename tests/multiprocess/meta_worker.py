# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of tests/multiprocess/meta_test.py.

meta_worker.py <intra> <code> <level> <adapt> <order> <inner steps> <file>

Process 0 writes parameters, rows and losses to the file; all print RESULT.
"""

import json
import sys

import jax
import numpy as np

from antjax.jobs import job as job_lib
from antjax.mesh.mesh import make_mesh
from tests.meta import oracle


def main(intra, code, level, adapt, order, num_steps, file):
  job_lib.initialize_distributed()
  inner = oracle.inner_loop(adapt, int(order), int(num_steps))
  sharded = oracle.Sharded(inner, make_mesh(intra=int(intra)), code, level)
  losses = []
  for batch in oracle.batches_for(inner):
    count, index = jax.process_count(), jax.process_index()
    mine = jax.tree.map(lambda x: np.split(x, count)[index], batch)
    losses.append(sharded.step(mine))
  params = jax.tree.leaves(sharded.trainer.params(sharded.state))
  rows = sharded.rows()
  if jax.process_index() == 0:
    np.savez(
      file,
      losses=losses,
      **{f'param{i}': p for i, p in enumerate(params)},
      **{f'rows_{name}': r for name, r in rows.items()},
    )
  print('RESULT', json.dumps({'losses': losses}), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
