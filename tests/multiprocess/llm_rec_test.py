# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Negatives of all devices of two real processes equal those of one device."""

import jax
import numpy as np
import pytest

from antjax.mesh.mesh import make_mesh
from tests.ctr.llm_rec import model_test, small_catalogue
from tests.multiprocess.run_workers import run_workers

pytestmark = pytest.mark.multiprocess


def work(intra, code, file):
  """Process 0 writes parameters and the loss to the file."""
  batch = small_catalogue.examples(model_test.B, seed=4)
  share = model_test.B // jax.process_count()
  start = jax.process_index() * share
  mine = {name: x[start : start + share] for name, x in batch.items()}
  params, loss = model_test.train_step(
    make_mesh(intra=intra), model_test.IN_BATCH, mine, code
  )
  if jax.process_index() == 0:
    np.savez(file, *jax.tree.leaves(params), loss=loss)
  return {'loss': loss}


@pytest.mark.slow
@pytest.mark.parametrize(('intra', 'code'), [(4, 'IIG'), (2, 'NNN')])
def test_two_processes_equal_one_device(tmp_path, intra, code):
  file = tmp_path / 'found.npz'
  run_workers(work, intra, code, file, hosts=2, num_devices=8)
  batch = small_catalogue.examples(model_test.B, seed=4)
  want = model_test.train_step(
    make_mesh(devices=jax.devices()[:1], intra=1), model_test.IN_BATCH, batch
  )
  leaves, treedef = jax.tree.flatten(want[0])
  with np.load(file) as found:
    arrays = [found[f'arr_{i}'] for i in range(len(leaves))]
    got = jax.tree.unflatten(treedef, arrays), float(found['loss'])
  model_test.assert_same(got, want)
