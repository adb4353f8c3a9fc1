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


@pytest.mark.slow
@pytest.mark.parametrize(('intra', 'code'), [(4, 'IIG'), (2, 'NNN')])
def test_two_processes_equal_one_device(tmp_path, intra, code):
  file = tmp_path / 'found.npz'
  run_workers('llm_rec_worker.py', intra, code, file, hosts=2, num_devices=8)
  batch = small_catalogue.examples(model_test.B, seed=4)
  want = model_test.train_step(
    make_mesh(devices=jax.devices()[:1], intra=1), model_test.IN_BATCH, batch
  )
  leaves, treedef = jax.tree.flatten(want[0])
  with np.load(file) as found:
    arrays = [found[f'arr_{i}'] for i in range(len(leaves))]
    got = jax.tree.unflatten(treedef, arrays), float(found['loss'])
  model_test.assert_same(got, want)
