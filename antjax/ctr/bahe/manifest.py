# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Contents of a behavior store, and the inputs that it was made from."""

import dataclasses
import json
from typing import Any, get_type_hints, Literal, Self

from antjax import config_values
from antjax.ctr.bahe import store_rows
from antjax.lm import fingerprint
from antjax.lm.fingerprint import TextRows

FILE_NAME = 'manifest.json'
Dtype = Literal['float16', 'bfloat16', 'int8']
_VERSION = 2  # 1: databases instead of files.
IDENTITY = {  # Fields that identify a store -> their readable names.
  'model': 'the model (SHA-256 of weights and config)',
  'tokenizer': 'the tokenizer (SHA-256)',
  'num_low': 'num_low, the layers below the cut',
  'pooling': 'the pooling of tokens',
  'normalizer': "the texts' normaliser",
  'max_tokens': 'max_tokens, to which texts are cut',
  'compute_dtype': 'compute_dtype, in which the layers computed',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
  """Identity and state of a store; see `IDENTITY` for identifying fields."""

  model: str
  tokenizer: str
  num_low: int
  normalizer: str
  max_tokens: int
  vocabulary: str  # Fingerprint of the first `vocabulary_rows` texts.
  vocabulary_rows: int
  dtype: Dtype  # Dtype of the stored numbers; int8 has a scale per row.
  dim: int  # Width of a row.
  store: str  # Random name, which distinguishes builds.
  pooling: str = 'mean'
  compute_dtype: str = 'float32'
  # Fingerprint of the texts of all complete rows; '' if unknown, in stores of
  # older versions.
  texts: str = ''
  rows: int = 0  # Number of complete rows, 0 <= id < rows.
  # Files as (start, stop, name), ascending and without gaps from 0 to `rows`.
  parts: tuple[tuple[int, int, str], ...] = ()

  def check(self, **expected: Any) -> None:
    """Rejects a store made from other inputs, the known fields of `IDENTITY`.

    Raises:
      ValueError: Fields differ; the message names all of them.
    """
    unknown = set(expected) - set(IDENTITY)
    if unknown:
      raise TypeError(f'Manifest.check: no such fields: {sorted(unknown)}.')
    wrong = [
      f'{IDENTITY[name]}: the store has {_short(getattr(self, name))},'
      f' needed is {_short(value)}'
      for name, value in expected.items()
      if getattr(self, name) != value
    ]
    if wrong:
      raise ValueError(
        'the store of behaviors was made with something else; different'
        f' {"is" if len(wrong) == 1 else "are"} {"; ".join(wrong)}. Build one'
        ' for this in another folder (launch/build_behavior_store.py).'
      )

  def check_vocabulary(self, vocabulary: TextRows) -> None:
    """Rejects a vocabulary whose texts differ from those of the rows.

    Raises:
      ValueError: It is another vocabulary, or an older state of it.
    """
    self.check(normalizer=vocabulary.normalizer)
    if len(vocabulary) < max(self.rows, self.vocabulary_rows):
      raise ValueError(
        f'the vocabulary has {len(vocabulary)} rows, the store of behaviors'
        f' {self.rows}: it is an older state, or another vocabulary.'
      )
    for num_rows, needed in (
      (self.vocabulary_rows, self.vocabulary),
      (self.rows, self.texts),
    ):
      if needed and fingerprint.of_rows(vocabulary, 0, num_rows) != needed:
        raise ValueError(
          'the store of behaviors was made of another vocabulary: the first'
          f' {num_rows} texts differ. Build one for this vocabulary in another'
          ' folder.'
        )

  def to_json(self) -> bytes:
    content = {'version': _VERSION, **dataclasses.asdict(self)}
    return (json.dumps(content, indent=2) + '\n').encode()

  @classmethod
  def from_json(cls, content: bytes) -> Self:
    """Reads what `to_json` wrote.

    Raises:
      ValueError: The content is invalid.
    """
    fields = json.loads(content)
    if not isinstance(fields, dict):
      raise ValueError('not a JSON object')
    if fields.pop('version', None) not in (1, _VERSION):
      raise ValueError(f'not of version 1 or {_VERSION}')
    fields.setdefault('texts', '')  # Absent in older versions.
    fields.setdefault('compute_dtype', 'float32')
    names = {field.name for field in dataclasses.fields(cls)}
    if set(fields) != names:
      raise ValueError(
        f'fields missing: {sorted(names - set(fields))}, unknown:'
        f' {sorted(set(fields) - names)}'
      )
    parts = fields.pop('parts')
    kinds = get_type_hints(cls)
    for name, value in fields.items():
      config_values.from_json(kinds[name], value, name)  # Checks the value.
    stop = 0
    for part in parts:
      first, last, name = part
      if first != stop or not first < last or not store_rows.is_name(name):
        raise ValueError(f'part {part!r} after row {stop}')
      stop = last
    if stop != fields['rows']:
      raise ValueError(f'parts end at {stop}, rows at {fields["rows"]}')
    return cls(**fields, parts=tuple(map(tuple, parts)))


def _short(value: Any) -> str:
  is_digest = isinstance(value, str) and len(value) == 64
  return f'{value[:12]}...' if is_digest else repr(value)
