# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks against published code, with the same weights.

`lr`, `fm`, `deepfm`, `wide_deep`, `autoint`, `din`, `shared_bottom`, `mmoe`,
`ple`, `esmm` and `aitm` are those of torch-rechub (`make peers`), `dlrm` and
`dlrm_dcn` TorchRec's (`DLRM` and MLPerf's `DLRM_DCN`); `dcnv2`,
`xdeepfm` and `finalmlp` are made of FuxiCTR's layers and blocks (pip install
fuxictr beside them); `masknet`, `gdcn` and `pepnet` are those of its
repository, whose folder of `model_zoo` is on PYTHONPATH. `mlp` is part of them
all. Of `bst`, `wukong` and `star` no published code was found that computes the
same, and `hstu` has not been compared with its authors': theirs is the test of
equations alone.
"""

import functools
import os
import pathlib
import subprocess
import tempfile

import jax
import numpy as np
import pytest

from benchmarks import machine
from tests.networks import small_inputs
from tests.networks.equations_test import made

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not machine.peers_have('torch_rechub'), reason='needs make peers'
  ),
]
ONE_TASK = (
  *('lr', 'fm', 'deepfm', 'wide_deep', 'dcnv2', 'xdeepfm', 'autoint'),
  *('finalmlp', 'masknet', 'masknet_serial', 'gdcn', 'gdcn_serial', 'pepnet'),
  *('din', 'dlrm', 'dlrm_dcn'),
)
TWO_TASKS = 'shared_bottom', 'mmoe', 'ple', 'esmm', 'aitm'


@functools.cache
def _both() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Name -> logits, ours and those that the peers could compute."""
  x = small_inputs.inputs(8)
  first = np.random.default_rng(4).normal(size=x.flat.shape[1])
  x = x._replace(first_order_B=x.flat @ first.astype(np.float32))
  x = x._replace(scenario_B=0 * x.scenario_B)
  dense = np.random.default_rng(5).normal(size=(8, 3)).astype(np.float32)
  keys, is_there, _ = x.histories[0]
  arrays = {
    'inputs/fields': x.fields_BFD,
    'inputs/first': first,
    'inputs/dense': dense,
    'inputs/keys': keys,
    'inputs/is_there': np.asarray(is_there, np.float32),
  }
  ours = {}
  for name in ONE_TASK + TWO_TASKS:
    kind = name.removesuffix('_serial')
    is_dlrm = name.startswith('dlrm')
    apply, params = made(
      kind,
      num_outputs=2 if name in TWO_TASKS else 1,
      num_scenarios=1,
      dense_width=3 * is_dlrm,
      parallel=kind == name,
      bottom_widths=(6,),
      top_vectors=False,
      cross_rank=3 if is_dlrm else None,
    )
    found = apply(x._replace(dense_BX=dense) if is_dlrm else x)
    ours[name] = np.asarray(getattr(found, 'all_BT', found))
    for path, leaf in jax.tree.leaves_with_path(params):
      arrays['/'.join([name, *(str(key.key) for key in path)])] = leaf
  with tempfile.TemporaryDirectory() as folder:
    paths = [pathlib.Path(folder) / name for name in ('in.npz', 'out.npz')]
    np.savez(paths[0], **arrays)
    script = pathlib.Path(__file__).with_name('peer_networks.py')
    subprocess.run(
      [machine.peers_python(), str(script), *map(str, paths)],
      check=True,
      env=os.environ,
    )
    return ours, dict(np.load(paths[1]))


@pytest.mark.parametrize('name', ONE_TASK + TWO_TASKS)
def test_logits_are_those_of_published_code(name):
  ours, theirs = _both()
  if name not in theirs:
    pytest.skip("needs fuxictr, or its repository's model_zoo")
  np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-4)
