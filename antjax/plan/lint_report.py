# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Findings of the lint of a step, and their comparison with a golden file."""

import dataclasses
import json
import pathlib


@dataclasses.dataclass(frozen=True)
class Crossing:
  """Traffic of a parameter, or of other arrays, over the slow axis.

  Attributes:
    leaf: Name of the parameter, or of several that cannot be distinguished;
      'arrays not attributed' if none fits: activations, or parameters joined.
    kind: HLO opcode, e.g. 'all-reduce'.
    runs: Number of times per step that it is sent whole.
    sent: Bytes that a device sends to other groups in a step.
    least: Minimum necessary bytes.
    finding: The problem and how to fix it; empty if there is none.
    source: Its operation in the program.
  """

  leaf: str
  kind: str
  runs: int
  sent: int
  least: int
  finding: str
  source: str


@dataclasses.dataclass(frozen=True)
class LintReport:
  """All traffic of a step over the slow axis, the worst line first."""

  lines: tuple[Crossing, ...]

  @property
  def findings(self) -> list[Crossing]:
    return [line for line in self.lines if line.finding]

  @property
  def sent(self) -> int:
    """Bytes that a device sends to other groups in a step."""
    return sum(line.sent for line in self.lines)

  @property
  def least(self) -> int:
    """Minimum necessary bytes."""
    return sum(line.least for line in self.lines)

  def __str__(self) -> str:
    rows = [
      f'{line.sent:>14,} {line.least:>14,} {line.runs:>5}'
      f'  {line.kind} of {line.leaf}'
      + (f'\n    {line.finding}\n    at {line.source}' * bool(line.finding))
      for line in self.lines
    ]
    head = f'{"bytes sent":>14} {"least":>14} {"times":>5}'
    return '\n'.join([head, *rows, f'{self.sent:>14,} {self.least:>14,}'])

  def as_json(self) -> dict[str, int]:
    """Bytes sent by kind and parameter, for a golden file."""
    found: dict[str, int] = {}
    for line in self.lines:
      key = f'{line.kind} of {line.leaf}'
      found[key] = found.get(key, 0) + line.sent
    return dict(sorted(found.items()))

  def check(self, golden: str | pathlib.Path | None = None) -> None:
    """Raises an error for a finding, or for more bytes than in a golden file.

    Findings already in the golden file are accepted. A missing golden file is
    written.

    Raises:
      LintError: The step sends more than necessary.
    """
    if golden is None:
      if self.findings:
        raise LintError('The step sends more than necessary.')
      return
    path = pathlib.Path(golden)
    if not path.exists():
      path.write_text(json.dumps(self.as_json(), indent=2) + '\n')
      return
    before = json.loads(path.read_text())
    more = [
      f'{key}: {sent:,} bytes a step, {before.get(key, 0):,} in {path}'
      for key, sent in self.as_json().items()
      if sent > before.get(key, 0) * 1.01
    ]
    if more:
      raise LintError(
        'The step sends more over the slow axis than before:\n'
        + '\n'.join(more)
        + f'\nFix it, or delete {path} to accept it.'
      )


class LintError(Exception):
  """A step sends more than necessary over slow links."""
