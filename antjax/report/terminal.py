# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Terminal output of jobs."""

from collections.abc import Iterable, Sequence
import math
from typing import Literal

import rich.console
import rich.table

# Line width in a file or a pipe: none of our output is wider.
_FULL_WIDTH = 1_000


def show(what: rich.console.RenderableType) -> None:
  """Prints a table or marked-up text; without a terminal, at full width."""
  console = rich.console.Console()
  if not console.is_terminal:
    console = rich.console.Console(width=_FULL_WIDTH)
  console.print(what)


def number(
  value: float | None, error: float | None = None, digits: int = 4
) -> str:
  """A number in a table, with its error if it has one; '-' for None and nan."""
  if value is None or math.isnan(value):
    return '-'
  text = f'{value:.{digits}f}'
  has_error = error is not None and not math.isnan(error)
  return f'{text} ± {error:.{digits}f}' if has_error else text


def show_table(
  title: str,
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  num_left: int = 1,
  show_header: bool = True,
) -> None:
  """Prints a table on the terminal; an empty row starts a new section.

  The first `num_left` columns are not numbers.
  """
  table = rich.table.Table(title=title, show_header=show_header)
  for i, name in enumerate(head):
    justify: Literal['left', 'right'] = 'left' if i < num_left else 'right'
    table.add_column(name, justify=justify, no_wrap=True)
  for row in rows:
    if row:
      table.add_row(*row)
    else:
      table.add_section()
  show(table)
