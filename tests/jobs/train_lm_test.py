# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/prepare_text and launch/train_lm as a user runs them, tiny."""

import json
import random
import re
import signal

import pytest

from tests import warm_python
from tests.jobs import processes
from tests.jobs.processes import logged

FLAGS = (
  '--model.num_layers=2',
  '--model.embed_dim=16',
  '--model.mlp_dim=32',
  '--seq_len=32',
  '--batch_size=8',
  '--shard_size=2',
  '--evaluate_every=8',
  '--checkpoint_every=6',
  '--sample_tokens=8',
  '--min_shard_size=64',
  '--peak_tflops=0.01',
  '--optimizer.learning_rate=0.02',
  '--optimizer.warmup_steps=2',
)
# The same sums, in another order.
SUM_ORDER_RTOL = 2e-4

pytestmark = pytest.mark.multiprocess


def run(*command, expect=0):
  env = warm_python.env_of(4)
  return processes.run(*command, env=env, expect=expect)


def train(data, run_dir, *flags, expect=0):
  flags = (*FLAGS, f'--data={data}', f'--run_dir={run_dir}', *flags)
  return run('launch/train_lm.py', *flags, expect=expect)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Documents of a made-up language: counting in words, up or down."""
  folder = tmp_path_factory.mktemp('texts')
  words = 'zero one two three four five six seven eight nine'.split()
  rng = random.Random(0)
  paragraphs = []
  for _ in range(300):
    start, step = rng.randrange(10), rng.choice((1, -1))
    count = rng.randrange(6, 30)
    paragraphs.append(
      ' '.join(words[(start + step * i) % 10] for i in range(count))
    )
  (folder / 'source').mkdir()
  (folder / 'source' / 'a.txt').write_text('\n\n'.join(paragraphs))
  (folder / 'source' / 'bad.txt').write_bytes(b'\xff\xfe\xff')
  told = prepare(folder / 'source', folder / 'data').stderr
  assert '1 of 301 documents were rejected' in told
  assert 'bad.txt: not UTF-8 at byte 0' in told
  return folder / 'data'


def prepare(source, out):
  return run(
    *('-m', 'launch.prepare_text', f'--source={source}', f'--out={out}'),
    *('--documents=paragraph', '--vocab_size=300', '--validation_share=0.1'),
  )


def curve(run_dir):
  return dict(logged(run_dir))


@pytest.fixture(scope='module')
def whole_run(data, tmp_path_factory):
  """24 steps without a stop, on one process."""
  run_dir = tmp_path_factory.mktemp('whole')
  flags = ('--intra=2', '--num_steps=24', '--prompts=one two')
  return run_dir, train(data, run_dir, *flags).stdout


def test_the_loss_falls_and_everything_is_reported(data, whole_run):
  run_dir, output = whole_run
  losses = curve(run_dir)
  assert list(losses) == list(range(24))
  assert losses[23] < losses[0] - 1
  results = json.loads((run_dir / 'results.json').read_text())
  assert results['results']['validation_loss'] < losses[0] - 1
  assert results['paro'] == 'IIG'
  speed = results['throughput']
  assert speed['tokens_per_s'] == pytest.approx(
    4 * speed['tokens_per_s_per_device']
  )
  assert 0 < speed['mfu']
  assert results['peak_bytes']['process'] > 2**20
  assert results['peak_flops_source'] == 'given by --peak_tflops'
  assert (run_dir / 'samples.txt').read_text().startswith('one two')
  page = (run_dir / 'report.html').read_text()
  assert 'held-out' in page and 'bits per character' in page
  assert list((run_dir / 'tensorboard').iterdir())
  assert 'Sample' in output and 'tokens/s a device' in output
  # The texts are complete already.
  assert 'nothing was done' in prepare(data.parent / 'source', data).stdout


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
  data, whole_run, tmp_path
):
  run_dir = tmp_path / 'run'
  command = [
    *('launch/train_lm.py', *FLAGS, f'--data={data}', '--intra=2'),
    *(f'--run_dir={run_dir}', '--num_steps=24', '--prompts=one two'),
  ]
  job = processes.Program(*command, env=warm_python.env_of(4))
  # Past the second checkpoint; on a fast machine the last one counts.
  committed = run_dir / 'checkpoints' / '12'
  job.wait_for(lambda: committed.exists() or job.process.poll() is not None)
  job.end(signal.SIGKILL)
  assert 'Restored step' in run(*command).stderr
  expected = curve(whole_run[0])
  actual = curve(run_dir)
  assert list(actual) == list(expected)
  # Same code, same mesh: the same numbers.
  assert actual == expected


@pytest.mark.slow
def test_another_code_goes_on_with_the_run_on_two_processes(
  data, whole_run, tmp_path
):
  """6 steps as IIG on one process, the rest as GGG, NIG on two."""
  flags = (*FLAGS, f'--data={data}', f'--run_dir={tmp_path}')
  # A schedule that knows no end.
  flags = ('train_lm', *flags, '--optimizer.final_share=1')
  run(*processes.cluster(*flags, '--paro=GGG', '--num_steps=6'))
  run(
    *processes.cluster(*flags, '--paro=NIG', '--num_steps=12', hosts=1),
    *('--num_micro_batches=2', '--collectives=hierarchical'),
  )
  actual = curve(tmp_path)
  assert list(actual) == list(range(12))
  assert actual[11] < actual[0] - 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags',
  [
    ('--paro=auto',),
    ('--paro=IIG', '--compute_dtype=bfloat16', '--num_micro_batches=2'),
    ('--paro=NNN', '--compute_dtype=float16', '--model.remat=layer'),
    ('--paro=GGG', '--model.remat=none', '--noregather'),
    ('--paro=IGG', '--collectives=ho_ring', '--nomodel.tie_embeddings'),
  ],
  ids=lambda flags: ' '.join(flags),
)
def test_every_way_learns(data, whole_run, tmp_path, flags):
  train(data, tmp_path, '--intra=2', '--num_steps=24', *flags)
  losses, expected = curve(tmp_path), curve(whole_run[0])
  assert losses[23] < losses[0] - 1
  if flags == ('--paro=auto',):
    for step, loss in expected.items():
      assert losses[step] == pytest.approx(loss, rel=SUM_ORDER_RTOL), step


@pytest.mark.slow
def test_fine_tuning_starts_from_another_run(data, whole_run, tmp_path):
  first, _ = whole_run
  flags = ('--intra=2', f'--init_from={first}', '--num_steps=4')
  train(
    *(data, tmp_path / 'tuned', *flags, '--train_on=norm|down'),
    *('--paro=NIG', '--compute_dtype=bfloat16'),
  )
  expected = json.loads((first / 'results.json').read_text())['results']
  losses = curve(tmp_path / 'tuned')
  assert losses[0] == pytest.approx(expected['validation_loss'], abs=0.3)
  state = json.loads((tmp_path / 'tuned/results.json').read_text())
  whole = json.loads((first / 'results.json').read_text())
  part = 'state_bytes_per_device'
  assert state[part]['grads'] < whole[part]['grads'] * 2 / 3

  # Another model, and another tokenizer.
  done = train(data, tmp_path / 'other', *flags, '--model.mlp_dim=48', expect=1)
  assert 'needed is the same model' in done.stderr


def test_missing_data_are_one_line(data, tmp_path):
  done = train(data, tmp_path / 'run', '--data=/nowhere', expect=1)
  assert 'launch.prepare_text --out=/nowhere makes them' in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--model.num_heads=3', 'must be a multiple of num_kv_heads'),
    ('--train_on=nothing', 'no leaf is left to train'),
    ('--init_from=/', 'it has no tokenizer.json'),
  ],
)
def test_bad_flags_are_one_line(data, tmp_path, flag, message):
  assert message in train(data, tmp_path / 'run', flag, expect=1).stderr


def test_other_texts_are_refused_in_a_run_folder(data, whole_run):
  run_dir, _ = whole_run
  flags = ('--intra=2', '--num_steps=30', '--seq_len=16')
  done = train(data, run_dir, *flags, expect=1)
  assert re.search(r'was trained with another\s+seq_len', done.stderr)
