# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of tests/multiprocess/llm_rec_test.py.

llm_rec_worker.py <intra> <code> <file>

Process 0 writes parameters and the loss to the file; all print RESULT.
"""

import json
import sys

import jax
import numpy as np

from antjax.jobs import job as job_lib
from antjax.mesh.mesh import make_mesh
from tests.ctr.llm_rec import model_test, small_catalogue


def main(intra, code, file):
  job_lib.initialize_distributed()
  batch = small_catalogue.examples(model_test.B, seed=4)
  share = model_test.B // jax.process_count()
  start = jax.process_index() * share
  mine = {name: x[start : start + share] for name, x in batch.items()}
  params, loss = model_test.train_step(
    make_mesh(intra=int(intra)), model_test.IN_BATCH, mine, code
  )
  if jax.process_index() == 0:
    np.savez(file, *jax.tree.leaves(params), loss=loss)
  print('RESULT', json.dumps({'loss': loss}), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
