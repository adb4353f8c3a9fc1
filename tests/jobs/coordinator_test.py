# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of launch.coordinator: its flags, and what operators ask."""

import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.jobs.coordinator import Config, main
from tests.elastic.coordinator_server import CoordinatorServer, TOKENS


@pytest.fixture
def server(tmp_path):
  with CoordinatorServer(tmp_path) as server:
    yield server


@pytest.fixture
def operate(server, tmp_path, capsys):
  """Returns a function that runs the command and returns its line."""
  tokens = tmp_path / 'tokens'
  tokens.write_text(f'operator {TOKENS["operator"]}\n')
  tokens.chmod(0o600)

  def run(**fields):
    main(Config(port=server.port, token_file=str(tokens), **fields))
    line = capsys.readouterr().out
    assert line.count('\n') == 1
    return line

  return run


def _apply(server, *messages):
  async def apply():
    for message in messages:
      assert server.coordinator.writer.decide(message)

  server.run(apply())


def _job(server):
  return server.coordinator.writer.jobs.job('j')


def test_an_operator_restarts_stops_and_replaces(server, operate):
  _apply(
    server,
    pb.StartGeneration(job='j', members=['a', 'b']),
    pb.EndGeneration(job='j', generation=1, is_final=True, counts=True),
  )
  assert operate(operate='restart', job='j').startswith('job j: ')
  job = _job(server)
  assert (job.phase, job.restarts_used) == ('waiting', 0)
  _apply(server, pb.StartGeneration(job='j', members=['a', 'b']))
  operate(operate='replace', job='j', target='b')
  operate(operate='restart', job='j')
  operate(operate='stop', job='j')
  assert (job.replace_asked, job.is_restart_asked) == (['b'], True)
  assert job.is_stopping


def test_an_operator_has_bad_shards_tried_again(server, operate):
  head = pb.Head(job='j', client='a', incarnation=1)

  def send(method, request):
    head.sequence += 1
    request.head.CopyFrom(head)
    return server.call(method, request.SerializeToString(), 'worker')[1]

  data_set = pb.DataSet(
    name='d', num_records=8, shard_size=4, num_epochs=1, max_data_errors=1
  )
  send('CreateDataSet', pb.CreateDataSetRequest(data_set=data_set))
  send('Begin', pb.BeginRequest(data_set='d', pass_number=1))
  exchange = pb.ExchangeRequest(data_set='d', pass_number=1, num_wanted=1)
  reply = pb.ExchangeReply.FromString(send('Exchange', exchange))
  exchange.num_wanted = 0
  exchange.failed.add(shard=reply.leases[0].shard, message='torn')
  send('Exchange', exchange)
  counts = _job(server).data_sets['d'].counts
  assert counts()['set_aside'] == 1
  with pytest.raises(ValueError, match="no data set 'x'"):
    operate(operate='retry_set_aside', job='j', target='x')
  operate(operate='retry_set_aside', job='j', target='d')
  assert counts()['set_aside'] == 0


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'operate': 'explode', 'job': 'j'}, '=explode must be one of stop, rest'),
    ({'operate': 'stop'}, 'needs a --job; --status shows which'),
    ({'operate': 'stop', 'job': 'k'}, "there is no job 'k'. --status shows"),
    ({'operate': 'replace', 'job': 'j'}, 'needs the worker as --target'),
    (
      {'operate': 'replace', 'job': 'j', 'target': 'z'},
      "'z' is no worker of job 'j' now; it has a",
    ),
    ({'operate': 'stop', 'job': 'j', 'target': 'a'}, 'is for a whole job'),
    ({'job': 'j'}, '--operate= must be one of'),
  ],
)
def test_what_cannot_be_done_is_said(server, operate, fields, message):
  _apply(server, pb.StartGeneration(job='j', members=['a']))
  with pytest.raises(ValueError, match=message):
    operate(**fields)


def test_it_needs_the_port_and_the_operators_token(server):
  with pytest.raises(ValueError, match='--operate=stop needs the --port'):
    main(Config(operate='stop', job='j'))
  with pytest.raises(PermissionError, match='see the token file'):
    main(Config(operate='stop', job='j', port=server.port))


@pytest.mark.parametrize(
  'name, value, needed',
  [
    ('port', 99_999, 'must be 0'),
    ('port', -1, 'must be 0'),
    ('status_port', 65_536, 'must be 0'),
    ('status_port', -1, 'must be 0'),
    ('lease_timeout_s', float('nan'), 'must be positive'),
    ('progress_timeout_s', float('nan'), 'must be positive'),
    ('agent_timeout_s', float('nan'), 'must be positive'),
    ('decide_every_s', 0.0, 'must be positive'),
    ('decide_every_s', float('nan'), 'must be positive'),
    ('join_wait_s', -1.0, 'must be at least 0'),
    ('grow_after_s', float('nan'), 'must be at least 0'),
    ('restart_cost_s', float('nan'), 'must be at least 0'),
  ],
)
def test_a_number_out_of_range_is_refused(tmp_path, name, value, needed):
  with pytest.raises(ValueError, match=f'{name[-9:]}.*{needed}'):
    main(Config(journal=str(tmp_path / 'j.db'), **{name: value}))
