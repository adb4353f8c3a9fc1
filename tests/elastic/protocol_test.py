# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The generated protocol is that of coordinator.proto.

After a change of it:  python -m tests.elastic.protocol_test --write
"""

import pathlib
import sys

from grpc_tools import protoc
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import jobs, protocol
from tests import source_tree

_PROTO = 'antjax/elastic/coordinator.proto'


def generate(folder: pathlib.Path) -> None:
  arguments = [f'--{kind}_out={folder}' for kind in ('python', 'pyi')]
  code = protoc.main(['protoc', f'-I{source_tree.ROOT}', *arguments, _PROTO])
  assert code == 0, f'protoc failed with {code}'


def test_the_generated_code_is_of_this_proto(tmp_path):
  generate(tmp_path)
  for name in ('coordinator_pb2.py', 'coordinator_pb2.pyi'):
    path = pathlib.Path('antjax/elastic') / name
    made, kept = (
      [
        line
        for line in (root / path).read_text().splitlines()
        if '#' not in line
      ]
      for root in (tmp_path, source_tree.ROOT)
    )
    # The runtime version is that of the compiler.
    is_data = [line for line in made if 'AddSerializedFile' in line]
    if is_data:
      made = is_data
      kept = [line for line in kept if 'AddSerializedFile' in line]
    assert made == kept, (
      f'{path} is not of {_PROTO}: python -m tests.elastic.protocol_test'
      ' --write'
    )


def test_numbers_of_fields_do_not_move():
  """Journals and running clients are older than the code."""
  numbers = {
    name: [(field.name, field.number) for field in message.fields]
    for name, message in pb.DESCRIPTOR.message_types_by_name.items()
  }
  assert numbers['Head'][:5] == [
    ('job', 1),
    ('client', 2),
    ('incarnation', 3),
    ('sequence', 4),
    ('generation', 5),
  ]
  for fields in numbers.values():
    assert [number for _, number in fields] == list(range(1, len(fields) + 1))


def test_the_journal_knows_all_messages_that_change_jobs():
  """A message's place in this list is its number in journals: only append."""
  assert [message.DESCRIPTOR.name for message in jobs.MESSAGES] == [
    'CreateDataSetRequest',
    'BeginRequest',
    'ExchangeRequest',
    'CommitRequest',
    'ExtendStreamRequest',
    'OperateRequest',
    'StartGeneration',
    'EndGeneration',
    'ExpireWorkers',
    'SetPlan',
    'RecoverJob',
    'ResumeJob',
  ]
  journaled = {m.request for m in protocol.METHODS.values() if m.is_journaled}
  assert journaled == set(jobs.REQUESTS)


def test_every_request_has_a_head_and_a_method():
  named = {
    name
    for name in pb.DESCRIPTOR.message_types_by_name
    if name.endswith('Request')
  }
  assert named == {m.request.DESCRIPTOR.name for m in protocol.METHODS.values()}
  for method in protocol.METHODS.values():
    assert method.request.DESCRIPTOR.fields_by_name['head'].number == 1


if __name__ == '__main__':
  if sys.argv[1:] == ['--write']:
    generate(source_tree.ROOT)
  else:
    raise SystemExit(pytest.main([__file__]))
