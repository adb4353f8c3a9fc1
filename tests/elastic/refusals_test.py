# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Requests and settings out of range are refused, by the name of the field."""

import math

import pytest

from antjax.elastic import protocol, requests
from antjax.elastic.controller import ControllerConfig
from antjax.elastic.coordinator import CoordinatorConfig
from antjax.elastic.jobs import Jobs
from antjax.elastic.protocol import MAX_HOSTS, Refused
from antjax.elastic.rendezvous_room import RendezvousConfig
from antjax.elastic.windows import MonitorConfig
from tests.elastic.coordinator_server import (
  DATA_SET,
  head,
)

# Method, field, value and, if it is not `field=value`, what the refusal says.
REQUESTS = [
  ('CreateDataSet', 'data_set.shard_size', 0),
  ('CreateDataSet', 'data_set.num_records', 0, 'num_records must'),
  ('CreateDataSet', 'data_set.num_records', -1),
  ('CreateDataSet', 'data_set.num_records', 1 << 27, 'shard_size=4 makes'),
  ('CreateDataSet', 'data_set.num_records', 1 << 40, 'use 65536 or more'),
  ('CreateDataSet', 'data_set.name', ''),
  ('CreateDataSet', 'data_set.name', 'a b'),
  ('CreateDataSet', 'data_set.name', 'x' * 129, 'data_set.name'),
  ('CreateDataSet', 'data_set.num_epochs', -2),
  ('CreateDataSet', 'data_set.delivery', 9),
  ('Begin', 'pass_number', 0),
  ('Begin', 'head.job', ''),
  ('Begin', 'head.client', 'a\n'),
  ('Begin', 'head.sequence', 0),
  ('Begin', 'head.generation', -1),
  ('Exchange', 'num_wanted', -1),
  ('Exchange', 'num_wanted', 1001),
  ('Exchange', 'consumed', [{}] * 10_001, 'number of consumed=10001'),
  ('Exchange', 'failed', [{'message': 'x' * 5000}], 'failed.message'),
  ('Commit', 'step', -1),
  ('Commit', 'states', {'a b': b'{}'}, 'name in states'),
  ('ExtendStream', 'num_records', -5),
  ('Heartbeat', 'resources.cpu_share', math.nan),
  ('Heartbeat', 'batch_times', [{'compute_s': -1.0}], 'compute_s=-1.0'),
  ('Heartbeat', 'num_samples', -1),
  *(('Heartbeat', 'loss', x) for x in (math.nan, math.inf, -2e30)),
  ('AgentBeat', 'free_port', 70_000),
  ('AgentBeat', 'status', 7),
  ('AgentBeat', 'log_tail', 'x' * 70_000, 'log_tail'),
  ('AgentBeat', 'address', 'a\nb'),
  ('AgentBeat', 'check.matmul_flops', math.nan),
  ('AgentBeat', 'check.disk_bytes', -1.0),
  ('AgentBeat', 'check.error', 'x' * 501, 'check.error'),
  ('AgentBeat', 'check.links', [{'peer': 'a'}] * 9, 'check.links'),
  ('AgentBeat', 'check.links', [{'peer': 'a', 'bytes': math.inf}], 'bytes'),
  ('AgentBeat', 'check.links', [{'peer': '\n'}], 'peer'),
  ('AgentBeat', 'check.link_port', 70_000),
  ('AgentBeat', 'check.num_devices', -1),
  ('Operate', 'plan.lr_scale', math.inf),
  ('Operate', 'plan.num_micro_batches', {'a': -1}, 'num_micro_batches'),
  ('Operate', 'reason', 'x' * 5000, 'reason'),
]


@pytest.mark.parametrize('case', REQUESTS, ids=lambda case: '-'.join(case[:2]))
def test_a_field_out_of_range_is_named(case):
  method, path, value, *said = case
  request = protocol.METHODS[method].request(head=head())
  if method == 'CreateDataSet':
    request.data_set.CopyFrom(DATA_SET)
  elif method in ('Begin', 'Exchange'):
    request.data_set, request.pass_number = 'd', 1
  elif method == 'ExtendStream':
    request.data_set = 'd'
  *outer, name = path.split('.')
  message = request
  for one in outer:
    message = getattr(message, one)
  if isinstance(value, list | dict):
    message.MergeFrom(type(message)(**{name: value}))
  else:
    setattr(message, name, value)
  with pytest.raises(Refused) as caught:
    parsed = requests.parse(type(request), request.SerializeToString())
    Jobs().apply(parsed, 0.0)
  assert caught.value.code == 'INVALID_ARGUMENT'
  assert (*said, f'{path}={value!r}')[0] in caught.value.text


@pytest.mark.parametrize(
  'config, fields, message',
  [
    (RendezvousConfig, {'min_hosts': 0}, 'min_hosts must be at least 1'),
    (RendezvousConfig, {'min_hosts': 3, 'max_hosts': 2}, 'max_hosts=2 must be'),
    (RendezvousConfig, {'max_restarts': -1}, 'max_restarts must be at least 0'),
    (RendezvousConfig, {'agent_timeout_s': 0}, 'timeout_s must be positive'),
    (RendezvousConfig, {'node_check': 'on'}, 'node_check=on'),
    (RendezvousConfig, {'node_check_fraction': 1.5}, 'node_check_fraction=1.5'),
    (MonitorConfig, {'short_s': 400.0}, 'needed is 0 < short_s < long_s'),
    (MonitorConfig, {'min_steps': 0}, 'min_steps=0'),
    (ControllerConfig, {'min_samples': 0}, 'min_samples must be'),
    (
      CoordinatorConfig,
      {'journal': 'x', 'rendezvous': RendezvousConfig(max_hosts=MAX_HOSTS + 1)},
      'a job has at most 20000 hosts',
    ),
  ],
)
def test_a_wrong_setting_is_an_error(config, fields, message):
  with pytest.raises(ValueError, match=message):
    config(**fields)
