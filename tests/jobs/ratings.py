# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepared folders of made-up ratings, and a tiny language model of titles."""

from collections.abc import Iterable
import pathlib
from typing import Any

from antjax.jobs import prepare_data
from tests.ctr.bahe import small_vocabulary
from tests.data import movielens_fixture

# Words of the made-up titles, so that their vectors differ.
WORDS = ['Film', '(1990)', *map(str, range(40))]


def prepare(
  folder: pathlib.Path, view: str, name: str = 'data', first_item: int = 0
) -> None:
  """Writes folder/name with a view of the ratings of 30 users."""
  fixture = movielens_fixture.Fixture(num_users=30)
  fixture.ratings = [r for r in fixture.ratings if r[1] >= first_item]
  prepare_data.main(
    prepare_data.Config(
      source=str(fixture.write_original(folder / f'source_{name}')),
      out=str(folder / name),
      views=(view,),
      allow_other_counts=True,
    )
  )


def prepare_log(
  folder: pathlib.Path, schema: str, lines: Iterable[str] = (), **options: Any
) -> pathlib.Path:
  """Makes folder/data, examples of log.csv, or of a source among the options.

  A log of no lines is there already.
  """
  if lines:
    (folder / 'log.csv').write_text('\n'.join(lines) + '\n')
  (folder / 'log.yaml').write_text(schema)
  options = {'source': str(folder / 'log.csv')} | options
  prepare_data.main(
    prepare_data.Config(
      views=('examples',),
      schema=str(folder / 'log.yaml'),
      out=str(folder / 'data'),
      **options,
    )
  )
  return folder / 'data'


def write_model(folder: pathlib.Path, words: list[str] = WORDS) -> None:
  """Writes folder/model, three layers and a tokenizer."""
  small_vocabulary.write_model(folder / 'model')
  small_vocabulary.write_tokenizer(folder / 'model', words)
