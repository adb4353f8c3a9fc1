# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/train_gmeta as a user runs it, on a tiny made-up data set."""

import json
import re
import signal

import pytest

from antjax.collectives import cost_model
from tests import warm_python
from tests.data import movielens_fixture
from tests.jobs import processes
from tests.jobs.processes import logged, logged_steps

FLAGS = (
  '--support_sizes=8,32',
  '--slots_per_device=1,1',
  '--num_micro_batches=2',
  '--shard_size=4',
  '--validation_tasks=8',
  '--model.embedding_dim=8',
  '--model.widths=16',
  '--model.table_level=global',
  '--num_steps=12',
  '--joint_steps=4',
  '--checkpoint_every=5',
  '--min_shard_size=64',
)

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  source = movielens_fixture.Fixture(num_users=120).write_original(
    folder / 'source'
  )
  processes.run(
    *('-m', 'launch.prepare_data', f'--source={source}'),
    *(f'--out={folder / "tasks"}', '--allow_other_counts'),
    *('--split.query_size=4', '--split.min_ratings=7'),
  )
  return folder / 'tasks'


def run(*flags, hosts=2, expect=0):
  command = processes.cluster('train_gmeta', *flags, hosts=hosts)
  return processes.run(*command, expect=expect)


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_reports(data, tmp_path):
  run_dir = tmp_path / 'run'
  flags = (*FLAGS, f'--data={data}', f'--run_dir={run_dir}')
  job = processes.Program(
    *processes.cluster('train_gmeta', *flags, '--num_steps=100000')
  )
  job.wait_for(lambda: len(logged_steps(run_dir / 'meta')) >= 3)
  assert job.end(signal.SIGINT) == 128 + signal.SIGINT, job.output  # Ctrl-C.
  assert 'Traceback' not in job.output
  kept = logged_steps(run_dir / 'meta')
  assert kept == list(range(len(kept)))
  saved = (run_dir / 'meta/checkpoints').iterdir()
  newest = max(int(p.name) for p in saved if p.name.isdecimal())
  assert newest == len(kept)

  total = newest + 6
  done = run(*flags, f'--num_steps={total}')
  assert f'Restored step {newest} of' in done.stdout
  assert logged_steps(run_dir / 'meta') == list(range(total))
  assert logged_steps(run_dir / 'joint') == list(range(4))
  rows = json.loads((run_dir / 'results.json').read_text())['results']
  scenarios = {'warm', 'user_cold', 'item_cold', 'both_cold'}
  assert {row['scenario'] for row in rows} == scenarios
  assert {row['method'] for row in rows} == {
    *('meta-learned', 'joint', 'joint + fine-tuning'),
    *('global mean', 'support mean', 'support median'),
  }
  assert all(0 < row['MAE'] < 3 for row in rows)
  page = (run_dir / 'report.html').read_text()
  assert 'user_cold' in page and '<svg' in page or '<img' in page
  events = list((run_dir / 'meta' / 'tensorboard').iterdir())
  assert events and events[0].stat().st_size > 100

  # The command that the report gives repeats the run: the same numbers.
  again = re.search(r'local_cluster .*? -- (launch/train_gmeta.py .*?)<', page)
  assert f'--config={run_dir}/config.json' in again[1]


@pytest.mark.slow
def test_a_config_file_repeats_the_run_on_one_process(data, tmp_path):
  """Two processes, one process, the same flags: the same losses."""
  first, second = tmp_path / 'first', tmp_path / 'second'
  flags = (*FLAGS, '--joint_steps=0', '--num_steps=3', f'--data={data}')
  run(*flags, f'--run_dir={first}', '--intra=2')
  run(f'--config={first}/config.json', f'--run_dir={second}')
  losses = [dict(logged(folder / 'meta')) for folder in (first, second)]
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)
  assert len(losses[0]) == 3


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--paro=GIN'], 'use GIG'),
    (['--intra=3'], 'do not form groups of 3; use one of 1, 2, 4'),
    (['--data=/nowhere'], '(antjax-prepare-data) writes it'),
    (['--validation_tasks=100000'], 'hold out at least 1'),
    (['--num_micro_batches=0'], 'num_micro_batches=0: must be at least 1'),
    (['--inner.num_steps=-1'], 'must not be negative'),
    (['--optimizer.lr=1'], 'Did you mean'),
    (['--slots_per_device=1'], 'equally long'),
    (['--model.features=gender,foo'], "the data set has no ['foo']"),
    (['--model.embedding_dims=foo=4'], 'embedding_dims=foo=4: say feature='),
    (['--model.embedding_dims=age=0'], 'age=0 is no positive width'),
    (['--model.pooling=genres=max'], 'genres=max; use mean or sum'),
    (['--model.home=x'], 'as in model.device_rows=1000000'),
    (['--model.device_rows=9', '--model.table_level=plan'], 'of whole tables'),
    (['--model.device_rows=9', '--keys.rows=item=9'], 'model.device_rows=9'),
    (['--run_dir=/proc/x'], 'choose one that you may write to'),
  ],
)
def test_bad_flags_are_one_line(data, tmp_path, flags, message):
  run_dir = tmp_path / 'run'
  done = processes.run(
    *('launch/train_gmeta.py', *FLAGS, f'--data={data}'),
    *(f'--run_dir={run_dir}', *flags),
    env=warm_python.env_of(4),
    expect=1,
  )
  assert message in done.stderr
  assert not (run_dir / 'meta').exists()


@pytest.mark.slow
def test_tables_may_be_planned_and_of_several_widths(data, tmp_path):
  links = tmp_path / 'links.json'
  cost_model.save(cost_model.Links(1e9, 1e8, 1e-5, 1e-4), links)
  done = run(
    *(*FLAGS, f'--data={data}', f'--run_dir={tmp_path / "run"}'),
    *('--num_steps=2', '--joint_steps=0', f'--links={links}'),
    *('--model.table_level=plan', '--model.embedding_dims=gender=4,age=2'),
    *('--model.pooling=genres=sum', '--row_staleness=1'),
    hosts=1,
  )
  planned = re.findall(
    r'Table (\w+) \[\d+ x (\d+)\], .* rows a dev', done.stdout
  )
  others = dict.fromkeys(('occupation', 'zip', 'item', 'genres'), '8')
  assert dict(planned) == {'gender': '4', 'age': '2'} | others
  assert logged_steps(tmp_path / 'run' / 'meta') == [0, 1]


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(data, tmp_path):
  flags = (*FLAGS, f'--data={data}', f'--run_dir={tmp_path}', '--num_steps=2')
  run(*flags, '--joint_steps=0', hosts=1)
  config = (tmp_path / 'config.json').read_text()
  done = run(*flags, '--model.widths=24', hosts=1, expect=1)
  assert 'model.widths was [16] and is [24]' in done.stdout
  done = run(*flags, '--algorithm=anil', hosts=1, expect=1)
  assert 'trained with another algorithm than given' in done.stdout
  # What is there stays, the config of the finished run too.
  assert (tmp_path / 'config.json').read_text() == config
  assert not (tmp_path / 'config.0.json').exists()
  # Without the settings the checkpoint tells.
  (tmp_path / 'config.json').unlink()
  done = run(*flags, '--model.widths=24', hosts=1, expect=1)
  assert 'is of another model: params' in done.stdout
  assert 'Use another run folder' in done.stdout
  assert 'Traceback' not in done.stdout


@pytest.mark.slow
def test_rows_in_files_give_the_same_bits_after_kill_9(tmp_path):
  """Support and query read them, and each task's rows adapt."""
  one = {'env': warm_python.env_of(1)}  # Bits are those of one device.
  source = movielens_fixture.Fixture(num_users=120, num_items=300)
  processes.run(
    *('-m', 'launch.prepare_data', f'--out={tmp_path}/tasks'),
    f'--source={source.write_original(tmp_path / "source")}',
    *('--allow_other_counts', '--split.query_size=4', '--split.min_ratings=7'),
  )
  same = '-m launch.train_gmeta --num_steps=40 --checkpoint_every=8'.split()
  same += '--joint_steps=6 --inner.adapt=all --num_resamples=0'.split()
  same = (*same[:2], *FLAGS, *same[2:], f'--data={tmp_path}/tasks')

  def of(name, *flags):
    return *same, f'--run_dir={tmp_path}/{name}', *flags

  processes.run(*of('whole'), **one)
  files = of('files', '--model.device_rows=90', f'--model.home={tmp_path}/home')
  job = processes.Program(*files, **one)
  job.wait_for(lambda: len(logged_steps(tmp_path / 'files/meta')) >= 12)
  assert job.end(signal.SIGKILL) == -signal.SIGKILL
  assert (tmp_path / 'home/meta/rows/item/rows').stat().st_size
  processes.run(*files, **one)
  kept = {}
  for name in ('whole', 'files'):
    folder, out = tmp_path / name, tmp_path / f'{name}_model'
    processes.run(
      *('-m', 'launch.export_gmeta', f'--run_dir={folder}', f'--out={out}')
    )
    kept[name] = (
      json.loads((folder / 'results.json').read_text())['results'],
      [dict(logged(folder / model)) for model in ('meta', 'joint')],
      {f.name: f.read_bytes() for f in (out / 'tables').glob('*.npy')},
    )
  assert kept['files'] == kept['whole']
  assert len(kept['whole'][1][0]) == 40 and kept['whole'][2]
