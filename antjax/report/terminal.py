# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What jobs print for people."""

import rich.console

# Of a line in a file or a pipe: nothing of ours is wider.
_FULL_WIDTH = 1_000


def show(what: rich.console.RenderableType) -> None:
  """Prints a table or a marked-up text; where no terminal is, at full width."""
  console = rich.console.Console()
  if not console.is_terminal:
    console = rich.console.Console(width=_FULL_WIDTH)
  console.print(what)
