# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The PaRO benchmark, tiny: its figures, its peers, its lines."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from antjax.layers.functional import Functional
from antjax.lm.transformer import Transformer
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from benchmarks import paro_bench, paro_steps
from tests import warm_python
from tests.benchmarks import runs

_TINY = paro_steps.Sizes(
  embed_dim=64, num_layers=2, vocab_size=64, num_tokens=16, num_micro_batches=2
)
_TINY_FLAGS = [f'--sizes.{k}={v}' for k, v in dataclasses.asdict(_TINY).items()]
_TINY_FLAGS += ['--rounds=1']


def test_kendall_tau_counts_pairs():
  assert paro_bench.kendall_tau([1, 2, 3], [10, 20, 30]) == 1
  assert paro_bench.kendall_tau([1, 2, 3], [3, 2, 1]) == -1
  # Pairs: (1, 2) and (1, 3) agree, (2, 3) does not.
  assert paro_bench.kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
  assert paro_bench.kendall_tau([1, 1], [1, 2]) == 0
  assert paro_bench.kendall_tau([1], [2]) is None


def test_the_fastest_code_is_one_that_fits():
  lines = [
    {'code': code, 'hosts': 3, 'predicted_s': predicted, 'step_s': step_s}
    | {'state_bytes_per_device': mb * 10**6, 'temp_bytes_per_device': 10**6}
    for code, predicted, step_s, mb in (
      ('NNG', 1.0, 1.0, 50),
      ('IIG', 1.0, 2.0, 20),
      ('hsdp', None, 0.5, 10),
    )
  ]
  for limit, code in ((0.0, 'NNG'), (51.0, 'NNG'), (21.0, 'IIG')):
    config = paro_bench.Config(device_mb=limit)
    assert paro_bench._fastest(config, lines, 3)['code'] == code
  assert paro_bench._fastest(paro_bench.Config(device_mb=5.0), lines, 3) is None


def test_losses_that_differ_are_named():
  def case(name, *losses, num_hosts=4):
    return {'name': name, 'num_hosts': num_hosts, 'losses': losses}

  same = [case('GGG', 2.0, 1.0), case('IIG', 2.0, 1.0 + 1e-5)]
  # Fewer hosts have another batch; `compute` sums nothing up.
  other = [case('GGG', 5.0, num_hosts=2), case('compute', 7.0, num_hosts=4)]
  assert paro_bench._disagreement(same + other) is None
  wrong = paro_bench._disagreement([*same, case('NIG', 2.0, 1.1)])
  assert 'step 1 of NIG' in wrong
  assert paro_bench._disagreement([*same, case('NIG', float('nan'))])


@pytest.mark.slow
@pytest.mark.parametrize('kind', paro_steps.PEERS)
def test_peers_train_as_we_do(kind):
  mesh = make_mesh(intra=2)
  tokens = np.stack([_TINY.tokens(i) for i in range(8)])
  trainer = Trainer(
    functools.partial(paro_steps.loss_fn, _TINY),
    paro_steps.optimizer(),
    mesh=mesh,
    paro='GGG',
    num_micro_batches=2,
    scanned=paro_steps.is_stack,
  )
  ours = trainer.init(Functional(Transformer, _TINY.config()).init)
  peer = paro_steps.Peer(kind, _TINY, mesh)
  theirs, batch = peer.init(), peer.batch(tokens)
  for _ in range(3):
    rows = {'tokens': tokens.reshape(-1, tokens.shape[-1])}
    ours, metrics = trainer.step(ours, rows)
    theirs, loss = peer.step(theirs, batch)
    np.testing.assert_allclose(loss, metrics['loss'], rtol=1e-5)
  num_pieces = {'fsdp': 8, 'hsdp': 2}[kind]
  gate = theirs[0]['layers']['gate']
  assert gate.addressable_shards[0].data.size * num_pieces == gate.size
  moments = [x for x in jax.tree.leaves(theirs[1]) if x.shape == gate.shape]
  assert {x.sharding for x in moments} == {gate.sharding}


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--codes=GNN', '--codes=GNN: use some of NNN'),
    ('--hosts=2,3', '2 does not divide 3'),
  ],
)
def test_wrong_flags_end_in_one_line(flag, message):
  result = warm_python.run('-m', 'benchmarks.paro_bench', flag)
  assert result.returncode == 1
  assert message in result.stderr.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.multiprocess
@runs.needs_hosts
def test_a_line_for_each_code_and_peer_and_one_for_all():
  flags = '--codes=GGG,NIG', '--peers=hsdp', *_TINY_FLAGS
  *lines, summary = runs.lines('paro_bench', *flags)
  assert [line['code'] for line in lines] == ['GGG', 'NIG', 'hsdp']
  for line in lines:
    # Headers and acknowledgements of small messages come on top.
    assert line['wire_bytes_per_step'] > line['inter_bytes_per_step'] > 0
  for line in lines[:2]:
    # The step's number and the random key are no planner's business.
    extra = line['state_bytes_per_device']
    extra -= line['planned_state_bytes_per_device']
    assert 0 <= extra <= 64
    planned = line['planned_inter_bytes_per_step']
    assert 0 <= line['inter_bytes_per_step'] - planned <= 256  # Scalars.
    assert line['predicted_s'] > 0
  assert lines[0]['speedup_vs_zero3'] == 1
  fastest = [line['speedup_vs_fastest'] for line in lines[:2]]
  assert max(fastest) == 1 and min(fastest) < 1
  assert summary['kendall_tau'] in (-1, 1)
  assert summary['best_code'] in ('GGG', 'NIG')


@pytest.mark.slow
@pytest.mark.multiprocess
@runs.needs_hosts
def test_scaling_gives_efficiencies():
  flags = '--hosts=1,2', '--codes=IIG', *_TINY_FLAGS
  lines = runs.lines('paro_bench', *flags)[:2]
  assert [line['hosts'] for line in lines] == [1, 2]
  assert lines[0]['efficiency'] == 1
  assert lines[0]['inter_bytes_per_step'] == 0
  assert lines[1]['efficiency'] > 0
  assert lines[1]['paper_efficiency_16_to_128_gpus'] == 0.92
