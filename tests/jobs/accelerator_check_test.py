# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The check of devices, on CPU cores that play them."""

import functools
import json

import jax
import pytest

from antjax.jobs import accelerator_check
from antjax.jobs.accelerator import equivalence
from antjax.mesh.mesh import make_mesh
from tests.jobs import processes


def test_a_part_that_fails_ends_alone():
  said = []
  wrong = equivalence.Check('sums', 'float32', error=0.5, tolerance=0.1)
  right = equivalence.Check('rows', 'float32', error=0.0, tolerance=0.0)
  nan = equivalence.Check('loss', 'float32', error=float('nan'), tolerance=1.0)

  def fails():
    raise MemoryError('no room')

  lines = accelerator_check.run_parts(
    ['lm', 'tables', 'links'],
    {
      'lm': fails,
      'tables': lambda: accelerator_check.check_lines([wrong, right, nan]),
    },
    said.append,
  )
  assert lines[0] == {'part': 'lm', 'error': 'MemoryError: no room'}
  is_bad = [accelerator_check.is_bad(line) for line in lines]
  assert is_bad == [True, True, False, True, False]
  assert len(said) == 3 and '1 of 1 NOT ok' in said[0]
  assert '2 of 3 NOT ok' in said[1]
  about = {'device': 'x', 'num_devices': 1, 'date': '', 'flags': ''}
  page = accelerator_check.page(about, lines)
  assert '| tables | sums | float32 | 0.5 | 0.1 | NO |' in page
  assert '3 of 5 lines are NOT ok' in page
  assert '- lm: MemoryError: no room' in page
  assert '- links: there is one device.' in page


def test_a_check_that_was_cut_off_goes_on(tmp_path):
  names = ['attention', 'tables', 'codes', 'lm']
  about = {'device': 'x', 'num_devices': 1, 'date': '2', 'flags': ''}
  ran = []

  def call(name):
    ran.append(name)
    if name == 'codes' and len(ran) == 3:
      raise KeyboardInterrupt  # As good as killed.
    if name == 'tables' and len(ran) == 2:
      raise MemoryError('no room')
    return [{'name': name}]

  def run():
    kept = accelerator_check.finished(tmp_path, about, names)
    calls = {name: lambda name=name: call(name) for name in names}
    write = functools.partial(accelerator_check._write, tmp_path, about, names)
    return accelerator_check.run_parts(names, calls, [].append, kept, write)

  with pytest.raises(KeyboardInterrupt):
    run()
  page = (tmp_path / 'results.md').read_text()
  assert '1 of 2 lines are NOT ok so far, 2 of 4 parts have not ended.' in page
  assert '- tables: MemoryError: no room' in page
  assert '- codes: has not ended.' in page and '- lm: has not ended.' in page
  found = run()
  # Parts that have ended well are kept.
  assert ran == ['attention', 'tables', 'codes', 'tables', 'codes', 'lm']
  assert found == [{'part': name, 'name': name} for name in names]
  assert ': all ok.' in (tmp_path / 'results.md').read_text()
  # After a whole check, and on other devices, all is new.
  assert not accelerator_check.finished(tmp_path, about, names)
  assert accelerator_check.finished(tmp_path, about, [*names, 'bahe'])
  other = about | {'device': 'y'}
  assert not accelerator_check.finished(tmp_path, other, [*names, 'bahe'])


def test_attention_of_the_devices_is_plain_attention():
  mesh = make_mesh(intra=1, devices=jax.devices()[:1])
  found = list(equivalence.fused_attention(mesh))
  assert [x.dtype for x in found] == ['float32', 'bfloat16']
  assert all(x.is_ok and x.error > 0 for x in found)


def test_an_unknown_part_is_refused():
  with pytest.raises(ValueError, match='parts=lmm: known are attention, '):
    accelerator_check.Config(parts=('lmm',))


@pytest.mark.slow
@pytest.mark.parametrize('num_devices', [1, 8])
def test_all_of_it_on_cores(num_devices, tmp_path):
  more = ['--intra=4'] if num_devices == 8 else []
  processes.run(
    *('-m', 'launch.accelerator_check', *more, f'--run_dir={tmp_path}'),
    *('--num_steps=1', '--codes=IIG,GGG'),
    f'--jax_num_cpu_devices={num_devices}',
    timeout=900,
  )
  lines = (tmp_path / 'results.jsonl').read_text().splitlines()
  about, *lines = map(json.loads, lines)
  assert about['num_devices'] == num_devices and about['versions']['jax']
  assert [x['job'] for x in lines if 'step_s' in x] == [
    *('lm', 'gmeta', 'clicks', 'bahe', 'llm_rec')
  ]
  assert {x['part'] for x in lines} == set(accelerator_check.PARTS)
  lm = next(x for x in lines if x.get('job') == 'lm')
  assert lm['measured_over_predicted'] > 0 and lm['compile_s'] > 0
  page = (tmp_path / 'results.md').read_text()
  assert 'all ok.' in page and '## A step of each job' in page
  assert ('Gbit/s a device inside a group' in page) == (num_devices > 1)
