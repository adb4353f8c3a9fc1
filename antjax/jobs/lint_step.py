# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds unnecessary traffic of a training step over slow links.

  python -m launch.lint_step --step=my_trainer:lint_report --golden=step.json

Compiles any training step and lists the traffic over the slow axis, its
parameters, and the necessary minimum. The exit code is 1 if there is a finding
or, with --golden, more bytes than the golden file allows: a check for CI.
"""

import dataclasses
from typing import Annotated

from absl import logging

from antjax import config_values
from antjax.plan.lint_report import LintError, LintReport


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """A step and what it may send."""

  step: Annotated[
    str,
    'Function as package.module:function. It takes no arguments and returns'
    ' the LintReport of antjax.plan.lint.lint(step, ...).',
  ] = ''
  golden: Annotated[
    str,
    'JSON file of the bytes that a step may send; created if missing. Empty:'
    ' any finding is an error.',
  ] = ''


def load(name: str) -> LintReport:
  """Calls the function that `--step` names.

  Raises:
    ValueError: There is no such function, or it returns something else.
  """
  needed = 'that takes nothing and returns antjax.plan.lint.lint(...)'
  report = config_values.imported('step', name, needed)()
  if not isinstance(report, LintReport):
    raise ValueError(
      f'step={name}: it returned {type(report).__name__}; needed is what'
      ' antjax.plan.lint.lint(...) returns.'
    )
  return report


def main(config: Config) -> None:
  report = load(config.step)
  print(report)
  try:
    report.check(config.golden or None)
  except LintError as error:
    raise SystemExit(f'error: {error}') from None
  logging.info('%d findings.', len(report.findings))
