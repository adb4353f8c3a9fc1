# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Each message of a Kafka topic is trained on once; the brokers are mocks."""

import json
import random
import shutil
import time
import types

import numpy as np
import pyarrow as pa
import pytest

from antjax.data.rejects import Rejects
from antjax.data.row_writer import ROW
from antjax.jobs.clicks import stream
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.messages import Messages
from tests.jobs import follow_clicks_test as files
from tests.jobs import score_clicks_test
from tests.jobs.processes import DEADLINE_S

kafka = pytest.importorskip(
  'confluent_kafka', reason="pip install 'antjax[kafka]'"
)
pytestmark = pytest.mark.filterwarnings('ignore:Sharding info not provided')
base = files.base
EMPTY = {f'clicks/{i}': 0 for i in range(4)}


class Brokers:
  """A mock cluster in this process."""

  def __init__(self):
    self.producer = kafka.Producer(
      {'test.mock.num.brokers': 1, 'linger.ms': 0, 'log_level': 0}
    )
    (broker,) = self.producer.list_topics(timeout=9).brokers.values()
    self.url = f'kafka://{broker.host}:{broker.port}/clicks'
    self.producer.list_topics('clicks', timeout=9)  # Makes 4 partitions.

  def send(self, values, partition=0):
    for value in values:
      if not isinstance(value, bytes):
        value = json.dumps(value).encode()
      self.producer.produce('clicks', value, partition=partition)
    assert not self.producer.flush(9)


@pytest.fixture
def brokers():
  return Brokers()


def opened(brokers, offsets=(), cluster='', settings=''):
  return stream.Topic(brokers.url, settings, dict(offsets), cluster)


def taken(topic, count):
  """Values by partition, of so many messages."""
  found, deadline = {}, time.monotonic() + 20
  while sum(map(len, found.values())) < count:
    assert time.monotonic() < deadline, found
    for one in topic.new(0.1):
      found.setdefault(one.where, []).extend(one.values)
  assert not topic.new(0.3)
  return found


def test_a_topic_is_read_from_the_offsets_that_are_given(brokers):
  brokers.send([1, 2, 3])
  brokers.send([4], partition=1)
  topic = opened(brokers)
  assert taken(topic, 4) == {'clicks/0': [b'1', b'2', b'3'], 'clicks/1': [b'4']}
  assert topic.offsets == EMPTY | {'clicks/0': 3, 'clicks/1': 1}
  topic.close()
  again = opened(brokers, {'clicks/0': 1, 'clicks/1': 1}, topic.cluster)
  brokers.send([5], partition=1)
  assert taken(again, 3) == {'clicks/0': [b'2', b'3'], 'clicks/1': [b'5']}
  again.close()


def test_offsets_that_are_lost_are_refused_by_name(brokers):
  brokers.send(range(3))
  for offsets, cluster, message in (
    ({'clicks/0': 4}, '', 'clicks/0 is to be read from offset 4.* 0 to 3: mes'),
    ({'clicks/0': 1, 'clicks/7': 1}, '', 'clicks/7 is not there any more'),
    ({'clicks/0': 1}, 'other', 'of the cluster other, and this is mock'),
  ):
    with pytest.raises(RuntimeError, match=message):
      opened(brokers, offsets, cluster)
  # Expired: mock brokers keep 5 MB of a partition.
  topic = opened(brokers, {'clicks/0': 1})
  brokers.send([b'x' * 900_000] * 12)
  with pytest.raises(RuntimeError, match='clicks/0 is to be read from offset'):
    taken(topic, 14)
  topic.close()
  with pytest.raises(
    RuntimeError, match='clicks/0 is to be read from offset 1'
  ):
    opened(brokers, {'clicks/0': 1})


def test_settings_come_from_a_file(brokers, tmp_path):
  path = tmp_path / 'kafka.conf'
  path.write_text('# comment\n\nclient.id = me\nsasl.password=a=b\n')
  assert stream.read_settings(path) == {
    'client.id': 'me',
    'sasl.password': 'a=b',
  }
  for text, message in (
    ('client.id=me\nsecret', 'line 2: needed is name=value'),
    ('enable.auto.commit=true', 'enable.auto.commit is not yours to set'),
    ('no.such=1', 'follow_config=.*no.such'),
    ('security.protocol=bad', 'follow_config=.*security.protocol'),
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
      opened(brokers, settings=str(path))
  for url in ('kafka://', 'kafka://a:1', 'kafka://a:1/b/c'):
    with pytest.raises(ValueError, match='needed is kafka://HOST:PORT/TOPIC'):
      Config(follow=url, deltas='d')
  with pytest.raises(ValueError, match='follow_config is for follow=kafka'):
    Config(follow='in', deltas='d', follow_config='f')


def test_why_brokers_are_not_reached_is_said_once(
  brokers, tmp_path, monkeypatch
):
  path = tmp_path / 'kafka.conf'
  path.write_text('security.protocol=ssl\nlog_level=0')
  monkeypatch.setattr(stream, '_TIMEOUT_S', 1.0)
  told = []
  monkeypatch.setattr(
    stream.logging, 'warning', lambda *args: told.append(args)
  )
  # The client tells of a reset as "SSL_HANDSHAKE", of a disconnection by words.
  with pytest.raises(
    RuntimeError, match='transport failure.*(SSL handshake|SSL_HANDSHAKE)'
  ):
    opened(brokers, settings=str(path))
  assert len(told) < 4, told


def test_a_bad_message_takes_no_other_with_it(tmp_path):
  columns = {'user': 'string', 'item': 'int64', 'price': 'float32'}
  columns = {n: {'type': x, 'has_empty': True} for n, x in columns.items()}
  columns['price']['empty'] = None
  log = {'columns': [*columns], 'header': True, 'delimiter': ',', 'quote': '"'}
  model = types.SimpleNamespace(
    clicks={
      **{'columns': columns, 'needed': ['user', 'item'], 'histories': {}},
      **{'log': log, 'bags': {}, 'numbers': ['price']},
      **{'user': 'user', 'item': 'item'},
    }
  )
  good = {'user': 'u', 'item': 1, 'price': 2.5, 'clicked': 1, 'more': {'a': 1}}
  values = [
    good,
    b'{"user": ',
    good | {'item': 'no number'},
    [1],
    good | {'user': 7, 'price': None},
    {'user': 'u', 'clicked': 1},
    good | {'price': {'a': 1}},
    good | {'item': 2**70},
    b'\xff',
    None,
    b'[' * 200_000,
    good | {'price': [1, 'a']},
    good | {'user': '\ud800'},
    good | {'more': 3, 'item': 5},
  ]
  contents = [
    x if isinstance(x, bytes | None) else json.dumps(x).encode() for x in values
  ]
  offsets = [100 + 2 * i for i in range(len(values))]
  messages = Messages('clicks/0', offsets, contents, 0.0)
  rejects = Rejects(tmp_path / 'rejected.csv', 1.0)
  found = [*messages.tables(model, rejects, {'clicked': 'int32'})]
  table = pa.concat_tables(found)
  assert table['item'].to_pylist() == [1, 1, 5]
  assert (np.array(table[ROW]) + 1).tolist() == [100, 108, 126]
  lines = rejects.path.read_text().splitlines()[1:]
  listed = [int(line.split(',')[1]) for line in lines]
  assert listed == [x for x in offsets if x not in (100, 108, 126)]
  assert rejects.num_rows == 11 and 'the message lacks item' in str(lines)
  assert all(line.startswith('clicks/0,') for line in lines)


@pytest.mark.slow
def test_messages_reach_the_server_once(base, tmp_path, brokers):
  folder, rows = base
  shutil.copytree(folder / 'fm', tmp_path / 'fm')
  one = files.make_trainer(folder, tmp_path, brokers.url)
  user = {'user': 'a new one', 'clicked': 1}
  brokers.send([row | user for row in typed(rows)[:10]])
  brokers.send([b'nothing', *typed(rows)[10:]], partition=1)
  before, _ = files.served(tmp_path)
  while one.position.get('info', {}).get('rows', 0) < len(rows):
    one.round(one.new())
  after, live = files.served(tmp_path)
  assert 0 <= live.age_s < 600
  columns = score_clicks_test.columns([row | user for row in rows[:10]])
  old, new = before.score(columns)[0], after.score(columns)[0]
  assert np.all(new['prediction'] > old['prediction'])
  one.close()
  rejected = (tmp_path / 'fm/seed_0/follow.rejected.csv').read_text()
  assert 'clicks/1,0,,message,Expecting value' in rejected
  # It knows where to read on, and another topic's offsets are refused.
  again = files.make_trainer(folder, tmp_path, brokers.url)
  assert again.position == one.position and not again.new()
  assert again.position['stream']['offsets'] == EMPTY | {
    'clicks/0': 10,
    'clicks/1': len(rows) - 9,
  }
  # Only bad ones: there is nothing to train on, and they do not come again.
  brokers.send([b'1'])
  again.round(again.new())
  again.close()
  assert again.position['info']['rows'] == 0
  again = files.make_trainer(folder, tmp_path, brokers.url)
  assert not again.new() and again.position['sequence'] >= 2
  again.close()
  other = Brokers()
  with pytest.raises(RuntimeError, match='of the cluster mock'):
    files.make_trainer(folder, tmp_path, other.url)


def typed(rows):
  """Rows of a log of text, as JSON has them."""
  return [
    row | {n: row[n] if row[n] != '' else None for n in ('price', 'stars')}
    for row in rows
  ]


@pytest.mark.slow
def test_a_trainer_killed_at_random_counts_each_message_once(
  base, tmp_path, brokers
):
  folder, rows = base
  words = files._words(folder / 'data', tmp_path)['trainer']
  words = [
    f'--follow={brokers.url}' if x.startswith('--follow=') else x for x in words
  ]
  rng, rows, kills, sent = random.Random(0), typed(rows), 0, [0, 0]
  deadline = time.monotonic() + 2 * DEADLINE_S
  with (tmp_path / 'log').open('w') as log:
    trainer = files._started(words, log)
    try:
      while kills < 4 or sum(told(tmp_path).values()) < sum(sent):
        text = (tmp_path / 'log').read_text()
        assert time.monotonic() < deadline and trainer.poll() is None, text
        partition = rng.randrange(2)
        if kills < 4:
          brokers.send(rows[:5], partition)
          sent[partition] += 5
        # Kills come while rounds run: those of a start and of a moment later.
        if kills < 4 and len(files._heads(tmp_path)) > kills:
          time.sleep(rng.random())
          trainer.kill()
          trainer.wait()
          kills += 1
          trainer = files._started(words, log)
        time.sleep(0.05)
    finally:
      trainer.kill()
      trainer.wait()
  assert told(tmp_path) == {'clicks/0': sent[0], 'clicks/1': sent[1]}
  heads = files._heads(tmp_path)
  assert sum(head['info']['rows'] for head in heads) == sum(sent)
  files.served(tmp_path)


def told(folder):
  """Partition -> messages that deltas tell of; none twice, none left out."""
  ends = {}
  for head in files._heads(folder):
    for name in head['info']['files']:
      where, _, span = name.rpartition(':')
      first, last = map(int, span.split('-'))
      assert first == ends.get(where, 0), (name, ends)
      ends[where] = last + 1
  return ends
