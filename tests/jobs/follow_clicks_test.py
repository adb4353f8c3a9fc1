# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files that arrive are trained on once, and deltas tell a server."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import jax
import numpy as np
import psutil
import pyarrow as pa
import pytest

from antjax.data.rejects import Rejects
from antjax.data.row_writer import ROW
from antjax.jobs.clicks import follow, patches
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.training import ClickJob
from antjax.serving import exporter, feed, functions, loader
from antjax.serving.click_loader import ClickScorer
from antjax.serving.follower import Follower
from antjax.serving.live import Live
from tests.jobs import score_clicks_test
from tests.jobs.processes import DEADLINE_S, job_of, ROOT

PORT = 18_237

pytestmark = [
  pytest.mark.slow,
  pytest.mark.filterwarnings('ignore:Sharding info not provided'),
]


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  folder = tmp_path_factory.mktemp('base')
  rows = score_clicks_test.write_log(folder)
  score_clicks_test.train(folder, 'fm', spare_ids=3)
  return folder, rows


def make_trainer(folder, to, source):
  """The trainer of a copy of the run, of files or messages."""
  config = Config(
    data=str(folder / 'data'),
    run_dir=str(to / 'fm'),
    model='fm',
    num_steps=2,
    batch_size=16,
    eval_batch_size=32,
    max_history=3,
    fields=score_clicks_test._FIELDS,
    network=score_clicks_test.NetworkConfig(widths=(8,)),
    spare_ids=3,
    follow=source,
    deltas=str(to / 'deltas'),
  )
  job = job_of(config)
  click_job = ClickJob(config, job, ScenarioData(config, job), seed=0)
  return follow.FileTrainer(config, job, click_job)


@pytest.fixture
def run(base, tmp_path):
  """A run of its own, rows of new files, and what makes its trainer."""
  folder, rows = base
  shutil.copytree(folder / 'fm', tmp_path / 'fm')

  def trainer():
    return make_trainer(folder, tmp_path, str(tmp_path / 'in'))

  (tmp_path / 'in').mkdir()
  return tmp_path, rows, trainer


def served(folder):
  """A server's model at the newest delta."""
  export = folder / 'fm' / 'seed_0' / 'export'
  model = ClickScorer(export, is_live=True)
  digest = exporter.sha256(export / loader.MANIFEST)
  deltas = feed.DeltaFeed(folder / 'deltas', digest)
  live = Follower(deltas, Live(model, digest), 1, lambda: None)
  live.catch_up()
  assert not live.state['trouble']
  return model, live


def arrive(folder, name, rows):
  score_clicks_test.write(folder / 'in' / f'.{name}', rows)
  (folder / 'in' / f'.{name}').rename(folder / 'in' / name)


def test_events_reach_the_server(run):
  folder, rows, make = run
  one = make()
  assert not one.new()
  clicked = [row | {'user': 'a new one', 'clicked': 1} for row in rows[:10]]
  arrive(folder, '1.csv', clicked + rows[10:])
  (folder / 'in' / '.half.csv').write_text('user')
  before, _ = served(folder)
  one.round(one.new())
  assert not one.new()
  after, live = served(folder)
  assert live.live.version['sequence'] == 1 and live.age_s < 600
  columns = score_clicks_test.columns(clicked)
  old, new = before.score(columns)[0], after.score(columns)[0]
  assert np.all(new['prediction'] > old['prediction'])
  assert before.score(columns)[1]['user'] == 10
  assert after.score(columns)[1]['user'] == 0
  # What is served is the trainer's own state.
  rows_of = functions.table_rows(one._click_job.tables, one.state.tables)
  for name, values in rows_of.items():
    np.testing.assert_array_equal(
      after.tables[name].read(np.arange(len(values))), values
    )
  # More users than there are rows to spare are the unknown one.
  many = [row | {'user': f'n{i}'} for i, row in enumerate(rows[:8])]
  arrive(folder, '2.csv', many)
  one.round(one.new())
  after, _ = served(folder)
  assert after.score(score_clicks_test.columns(many))[1]['user'] == 6
  one.close()


def _bits(state):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


def _killed(*arguments, **options):
  raise InterruptedError


@pytest.mark.parametrize(
  'instant', ['train', 'save', 'write', 'told', 'whole', 'committed']
)
def test_killed_at_any_instant_it_tells_the_same(run, monkeypatch, instant):
  folder, rows, make = run
  monkeypatch.setattr(patches, '_MOST', 1)  # A whole state after each round.
  arrive(folder, '1.csv', rows[:9])
  arrive(folder, '2.csv', [row | {'user': 'a new one'} for row in rows[9:]])
  one = make()
  for path in one.new():
    one.round([path])
  one.close()
  want = sorted((folder / 'deltas').iterdir())
  want = {path.name: path.read_bytes() for path in want}
  want_state = _bits(one.state)
  shutil.rmtree(folder / 'deltas')
  shutil.rmtree(folder / 'fm' / 'seed_0' / 'follow')

  write = feed.write

  def write_the_patch_only(place, *arguments):
    if 'patches' not in str(place):
      raise InterruptedError
    return write(place, *arguments)

  one = make()
  one.round(one.new()[:1])
  with monkeypatch.context() as patch, pytest.raises(InterruptedError):
    if instant == 'train':
      patch.setattr(one, '_batches', _killed)
    elif instant == 'save':
      patch.setattr(feed, 'write', _killed)
    elif instant == 'write':
      patch.setattr(feed, 'write', write_the_patch_only)
    elif instant == 'told':
      patch.setattr(one._live, 'apply', _killed)
    elif instant == 'whole':
      patch.setattr(one.patches._saver, 'save', _killed)
    else:
      patch.setattr(one.patches._saver, 'wait', _killed)
    one.round(one.new())
  one.close()
  one = make()
  if files := one.new():
    one.round(files)
  assert not one.new()
  got = {p.name: p.read_bytes() for p in (folder / 'deltas').iterdir()}
  assert got == want and _bits(one.state) == want_state
  one.close()


def test_patches_are_replayed_bit_for_bit_and_none_is_left_out(
  run, monkeypatch
):
  folder, rows, make = run
  monkeypatch.setattr(patches, '_MOST', 3)
  monkeypatch.setattr(
    patches.EmbeddingTables, 'bytes_per_device', lambda self: {'': 1 << 40}
  )
  place = folder / 'fm' / 'seed_0' / 'follow'

  def there():
    wholes = [p.name for p in (place / 'whole').iterdir() if p.name.isdigit()]
    return len(wholes), [
      int(p.stem) for p in sorted((place / 'patches').iterdir())
    ]

  one, seen = make(), []
  for number in range(1, 9):
    user = {'user': f'a new one {number}'}
    arrive(folder, f'{number}.csv', [row | user for row in rows])
    one.round(one.new())
    seen.append(there())
    if number in (2, 7):
      one.close()
      before = one
      one = make()
      assert _bits(one.state) == _bits(before.state)
      assert one.position == before.position
      assert not one.new()
  one.close()
  # A patch is kept until there is a whole state more than it.
  assert seen[1] == (0, [1, 2]) and seen[3] == (1, [1, 2, 3, 4])
  assert seen[-1] == (2, [4, 5, 6, 7, 8])
  # The newest whole state is damaged and moved away: the one before replays.
  newest = max((place / 'whole').glob('[0-9]*'), key=lambda p: int(p.name))
  newest.rename(folder / 'away')
  again = make()
  assert _bits(again.state) == _bits(one.state)
  again.close()
  # Missing or torn ones do not pass unnoticed.
  patch = place / 'patches' / feed.name_of(7)
  content = patch.read_bytes()
  patch.write_bytes(content[:-9])
  with pytest.raises(ValueError, match='lacks a state: .*7.delta is not whole'):
    make()
  patch.unlink()
  with pytest.raises(ValueError, match='7.delta is missing; .*8.delta is'):
    make()
  patch.write_bytes(content)
  (place / 'patches' / feed.name_of(8)).unlink()
  with pytest.raises(ValueError, match='ends with number 8, and .* is at 7'):
    make()


def test_only_rows_with_a_bad_label_are_left_out(run):
  folder, rows, make = run
  one = make()
  bad = [row | {'clicked': x} for row, x in zip(rows, (2, 'x', '', -1, 7))]
  arrive(folder, '1.csv', bad[:3] + rows[5:] + bad[3:])
  arrive(folder, '2.csv', bad)  # None is good.
  one.round(one.new())
  assert one.position['info']['rows'] == len(rows) - 5
  rejected = (folder / 'fm' / 'seed_0' / 'follow.rejected.csv').read_text()
  assert '2 is not 0 or 1' in rejected and '-1 is not 0 or 1' in rejected
  places = [line.split(',')[:3] for line in rejected.splitlines()]
  assert len([x for x in places if x[0].endswith('1.csv')]) == 5
  assert {x[2] for x in places[1:]} == {'clicked'}
  one.close()
  assert served(folder)[1].live.version['sequence'] == 1


def test_ratings_are_clicks_from_the_schemas_threshold_on(tmp_path):
  stars = pa.array([4.5, 3.5, None, 5, 1], pa.float32())
  table = pa.table({'stars': stars, ROW: list(range(5))})
  rejects = Rejects(tmp_path / 'rejected.csv', 1.0)
  found = follow._with_clicks(table, 'stars', 4, 'in', rejects)
  assert found['stars'].to_pylist() == [1, 0, 1, 0]
  assert 'None is not 0 or 1' in rejects.path.read_text()


def test_files_without_rows_do_not_stop_it(run):
  folder, rows, make = run
  arrive(folder, '1.csv', rows)
  one = make()
  one.round(one.new())
  (folder / 'in' / '2.json').write_text('[' * 200_000)
  (folder / 'in' / '3.csv').symlink_to('/nowhere')
  for path in one.new():
    one.round([path])
  assert not one.new() and one.position['sequence'] == 1
  one.close()
  one = make()  # What is saved and what is told are the same.
  arrive(folder, '4.csv', rows)
  one.round(one.new())
  assert served(folder)[1].live.version['sequence'] == 2
  (folder / 'in' / '5.csv').write_bytes((folder / 'in' / '4.csv').read_bytes())
  one._click_job.trainer.step = lambda state, batch: (state, {'loss': np.nan})
  with pytest.raises(ValueError, match='loss on 5.csv is nan'):
    one.round(one.new())
  one.close()
  assert make().position['sequence'] == 2


def test_deltas_of_another_trainer_are_refused(run):
  folder, rows, make = run
  arrive(folder, '1.csv', rows)
  one = make()
  one.round(one.new())
  one.close()
  shutil.rmtree(folder / 'fm' / 'seed_0' / 'follow')
  with pytest.raises(ValueError, match='ends with number 1, and .* is at 0'):
    make()


def _started(words, log):
  command = [sys.executable, '-m', 'antjax.jobs.console', *words]
  return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)


def _version(port):
  """The version that a server answers with, or None."""
  rows = {'user': 'u1', 'item': 1, 'cat': 'c1', 'price': 1, 'stars': 1}
  request = urllib.request.Request(
    f'http://127.0.0.1:{port}/v1/score',
    json.dumps({'rows': rows}).encode(),
    {'Content-Type': 'application/json'},
  )
  try:
    with urllib.request.urlopen(request, timeout=20) as reply:
      return json.load(reply)['version']
  except OSError:
    return None


def _page(port, path):
  with urllib.request.urlopen(
    f'http://127.0.0.1:{port}/{path}', timeout=20
  ) as reply:
    return reply.read().decode()


def test_processes_share_a_port(run):
  folder, rows, make = run
  port, log = PORT + 1, folder / 'log'
  words = ['serve', f'--model={folder / "fm"}', f'--port={port}']
  words += ['--processes=2', f'--deltas={folder / "deltas"}', '--poll_s=.1']
  deadline = time.monotonic() + DEADLINE_S

  def start():
    with log.open('w') as out:
      server = _started(words, out)
    while log.read_text().count('ready') < 2:
      assert time.monotonic() < deadline and server.poll() is None, (
        log.read_text()
      )
      time.sleep(0.2)
    return server

  server = start()
  try:
    # All of them apply a delta, and count together.
    one = make()
    arrive(folder, '1.csv', rows)
    one.round(one.new())
    one.close()
    count = 0
    while 'antjax_serve_delta_sequence 1.0' not in _page(port, 'metrics'):
      assert _version(port) and time.monotonic() < deadline
      count += 1
    for _ in range(30):
      assert _version(port)['sequence'] == 1
    told = f'antjax_serve_requests_total{{code="200"}} {count + 30}.0'
    assert told in _page(port, 'metrics')
    # The port is not shared with another server.
    with (folder / 'other').open('w') as out:
      other = _started(words, out)
    assert other.wait(100) == 1
    assert 'cannot listen' in (folder / 'other').read_text()
    # They end as one process does.
    server.terminate()
    assert server.wait(60) == 128 + signal.SIGTERM
    assert 'Traceback' not in log.read_text()
    # If one ends, all of them do: who watches them starts them again.
    server = start()
    others = psutil.Process(server.pid).children()
    one = next(x for x in others if 'spawn_main' in ' '.join(x.cmdline()))
    one.kill()
    assert server.wait(60) == 1
    assert 'processes ended with the codes' in log.read_text()
    # So they do without the first one.
    server = start()
    others = psutil.Process(server.pid).children()
    server.kill()
    _, left = psutil.wait_procs(others, 60)
    assert not left
  finally:
    server.kill()


def _words(data, folder):
  """Commands of the trainer and of the server."""
  deltas = f'--deltas={folder / "deltas"}'
  return {
    'trainer': [
      *('train-clicks', f'--data={data}', f'--run_dir={folder / "fm"}'),
      *('--model=fm', '--num_steps=2', '--batch_size=16', '--norates'),
      *('--eval_batch_size=32', '--fields.embedding_dim=4', '--spare_ids=3'),
      *(f'--follow={folder / "in"}', deltas, '--follow_poll_s=.1'),
    ],
    'server': [
      *('serve', f'--model={folder / "fm"}', f'--port={PORT}'),
      *(deltas, '--poll_s=.1'),
    ],
  }


def _heads(folder):
  """First lines of all deltas, in order."""
  paths = sorted((folder / 'deltas').glob('*.delta'))
  return [json.loads(p.read_bytes().partition(b'\n')[0]) for p in paths]


def test_trainer_and_server_killed_at_random(base, tmp_path):
  folder, rows = base
  words, rng = _words(folder / 'data', tmp_path), random.Random(0)
  (tmp_path / 'in').mkdir()
  names, num_kills, kills = [f'{i:03}.csv' for i in range(12)], 5, []
  deadline = time.monotonic() + 2 * DEADLINE_S
  with (tmp_path / 'log').open('w') as log:
    running = {'trainer': _started(words['trainer'], log)}
    try:
      while not (tmp_path / 'fm' / 'seed_0' / 'export').exists():
        assert time.monotonic() < deadline, (tmp_path / 'log').read_text()
        time.sleep(0.2)
      running['server'] = _started(words['server'], log)
      version = None
      while not (version and version['sequence'] and len(kills) == num_kills):
        assert time.monotonic() < deadline, (tmp_path / 'log').read_text()
        heads = _heads(tmp_path)
        told = [f for head in heads for f in head['info']['files']]
        there = len([*(tmp_path / 'in').iterdir()])
        if there < len(names) and len(told) == there:
          arrive(tmp_path, names[there], rows)
        if heads and len(kills) < num_kills and rng.random() < 0.1:
          kills.append(rng.choice(['trainer', 'server']))
          running[kills[-1]].kill()
          running[kills[-1]].wait()
          running[kills[-1]] = _started(words[kills[-1]], log)
        version = _version(PORT)
        if len(told) < len(names) or not version:
          version = None
        elif version['sequence'] < len(_heads(tmp_path)):
          version = None
        time.sleep(0.1)
    finally:
      for one in running.values():
        one.kill()
        one.wait()
  assert {*kills} == {'trainer', 'server'}
  heads = _heads(tmp_path)
  # Each file once, no number left out, and the server at the end of the chain.
  told = [f for head in heads for f in head['info']['files']]
  assert sorted(told) == names
  assert [h['sequence'] for h in heads] == [*range(1, len(heads) + 1)]
  assert version == served(tmp_path)[1].live.version
