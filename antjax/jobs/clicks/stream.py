# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Messages of a Kafka topic, each once.

Where to read on is part of the trainer's state: it is saved with what the
messages changed, so each counts once. Offsets that Kafka keeps for consumer
groups are neither read nor written.
"""

from collections.abc import Mapping
import pathlib
import time
from typing import Any

from absl import logging

from antjax.jobs.clicks import config
from antjax.jobs.clicks.messages import Messages

_MOST = 1 << 15  # Messages of a round.
_TIMEOUT_S = 10.0  # Of a question to the brokers.
_LOOK_S = 30.0  # Between looks for new partitions.
# What exactly-once training needs.
_OURS = {
  'group.id': 'antjax',  # Asked for, and not used.
  'enable.auto.commit': False,
  'enable.auto.offset.store': False,
  'auto.offset.reset': 'error',
  'isolation.level': 'read_committed',
}


def read_settings(path: str) -> dict[str, str]:
  """Settings of the client from a file of lines `name=value`; # is a comment.

  Raises:
    ValueError: A line is wrong, or sets what exactly-once training needs.
  """
  found = {}
  text = pathlib.Path(path).read_text(encoding='utf-8') if path else ''
  for number, line in enumerate(text.splitlines(), 1):
    name, equals, value = (x.strip() for x in line.partition('='))
    if not line.strip() or line.lstrip().startswith('#'):
      continue
    where = f'follow_config={path}, line {number}'
    if not equals or not name:  # Without the line, which may be a password.
      raise ValueError(f'{where}: needed is name=value, as for librdkafka.')
    if name in (*_OURS, 'bootstrap.servers'):
      raise ValueError(f'{where}: {name} is not yours to set; leave it out.')
    found[name] = value
  return found


class Topic:
  """A topic that is read from offsets of the trainer's own.

  Attributes:
    offsets: Partition, as `clicks/0` -> where it is read on.
    cluster: Id of the Kafka cluster.
  """

  def __init__(
    self, url: str, settings: str, offsets: Mapping[str, int], cluster: str
  ):
    """Asks for the partitions; a topic without offsets begins at the oldest.

    Raises:
      RuntimeError: The brokers are not reached, or messages from the offsets on
        are no longer there.
      ValueError: The settings are wrong.
    """
    import confluent_kafka  # Optional: `paths.check` looks for it.

    self._kafka: Any = confluent_kafka
    self._url, (brokers, self._topic) = url, config.topic_of(url)
    own = {**_OURS, 'bootstrap.servers': brokers}
    try:
      self._consumer = confluent_kafka.Consumer(
        {**read_settings(settings), **own, 'error_cb': self._warn}
      )
    except confluent_kafka.KafkaException as error:
      raise ValueError(f'follow_config={settings}: {error}.') from error
    mine = f'{self._topic}/'
    self.offsets = {n: x for n, x in offsets.items() if n.startswith(mine)}
    self._is_first, self._assigned = not self.offsets, set[int]()
    self._trouble, self._warned = '', dict[int, float]()  # By kind.
    self.cluster, self._looked = cluster, 0.0
    try:
      self._look()
    except BaseException:
      self.close()
      raise

  def close(self) -> None:
    """Leaves the brokers."""
    self._consumer.close()

  def new(self, timeout_s: float) -> list[Messages]:
    """Messages that arrive in so many seconds, by partition.

    Raises:
      RuntimeError: Some of them are lost, or the topic cannot be read.
    """
    if time.monotonic() - self._looked > _LOOK_S:
      self._look()
    found: dict[Any, list[Any]] = {}
    for message in self._consumer.consume(_MOST, timeout_s):
      if message.error():
        self._check(message)
      else:
        found.setdefault(message.partition(), []).append(message)
    result = []
    for number, some in sorted(found.items()):
      where = f'{self._topic}/{number}'
      offsets = [message.offset() for message in some]
      self.offsets[where] = offsets[-1] + 1
      event_s = max(0, *(m.timestamp()[1] for m in some)) / 1000
      result.append(
        Messages(where, offsets, [m.value() for m in some], event_s)
      )
    return result

  def _look(self) -> None:
    """Assigns new partitions; those of before go on at their offsets."""
    try:
      about = self._consumer.list_topics(self._topic, timeout=_TIMEOUT_S)
      topic = about.topics[self._topic]
      if topic.error:
        raise self._kafka.KafkaException(topic.error)
      new = [n for n in sorted(topic.partitions) if n not in self._assigned]
      places = [self._kafka.TopicPartition(self._topic, n) for n in new]
      ends = [
        self._consumer.get_watermark_offsets(x, timeout=_TIMEOUT_S)
        for x in places
      ]
    except self._kafka.KafkaException as error:
      if self._assigned:  # It is looked again.
        self._looked = time.monotonic()
        logging.warning('follow=%s: %s', self._url, error)
        return
      self._consumer.poll(0)  # Reads warnings.
      raise RuntimeError(
        f'follow={self._url}: {error}. {self._trouble}'
      ) from error
    cluster = about.cluster_id or ''
    if self.cluster and cluster != self.cluster:
      raise RuntimeError(
        f'follow={self._url}: the offsets are of the cluster {self.cluster},'
        f' and this is {cluster}. Give its brokers, or train another run_dir.'
      )
    self.cluster, self._looked = cluster, time.monotonic()
    there = {f'{self._topic}/{n}' for n in topic.partitions}
    if gone := sorted({*self.offsets} - there):
      raise RuntimeError(
        f'follow={self._url}: {", ".join(gone)} is not there any more. Bring it'
        ' back, or train another run_dir.'
      )
    for place, (first, end) in zip(places, ends, strict=True):
      where = f'{self._topic}/{place.partition}'
      if where not in self.offsets and self._is_first:
        logging.info('%s is read from its oldest offset, %d.', where, first)
        self.offsets[where] = first
      place.offset = self.offsets.setdefault(where, 0)
      if not first <= place.offset <= end:
        raise RuntimeError(self._lost(where, place.offset, f'{first} to {end}'))
    self._is_first = False
    if places:
      self._consumer.incremental_assign(places)
      self._assigned.update(new)

  def _check(self, message: Any) -> None:
    error, code = message.error(), self._kafka.KafkaError
    where = f'{self._topic}/{message.partition()}'
    if error.code() == code._AUTO_OFFSET_RESET:
      text = f'others, says Kafka ({error.str()})'
      raise RuntimeError(self._lost(where, self.offsets.get(where), text))
    # They come again by themselves.
    if error.code() not in (code._TRANSPORT, code._ALL_BROKERS_DOWN):
      raise RuntimeError(f'follow={self._url}: {where}: {error.str()}.')

  def _lost(self, where: str, offset: int | None, there: str) -> str:
    return (
      f'follow={self._url}: {where} is to be read from offset {offset} on, and'
      f' there are {there}: messages have expired untrained, or it is another'
      ' topic of the name. Train a new run_dir on a log that has them.'
    )

  def _warn(self, error: Any) -> None:
    code, now = error.code(), time.monotonic()
    if code != self._kafka.KafkaError._ALL_BROKERS_DOWN:
      self._trouble = error.str()
    if now - self._warned.get(code, -_LOOK_S) >= _LOOK_S:
      self._warned[code] = now
      logging.warning('follow=%s: %s', self._url, error.str())
