# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What jobs print for people."""

from collections.abc import Iterable, Sequence
from typing import Literal

import rich.console
import rich.table

# Of a line in a file or a pipe: nothing of ours is wider.
_FULL_WIDTH = 1_000


def show(what: rich.console.RenderableType) -> None:
  """Prints a table or a marked-up text; where no terminal is, at full width."""
  console = rich.console.Console()
  if not console.is_terminal:
    console = rich.console.Console(width=_FULL_WIDTH)
  console.print(what)


def show_table(
  title: str,
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  num_left: int = 1,
  show_header: bool = True,
) -> None:
  """Prints a table on the terminal; an empty row begins a new section.

  `num_left` columns at the left are no numbers.
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
