# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntDT: a coordinator of data shards, stragglers and failures; its agents."""

from typing import Any


def __getattr__(name: str) -> Any:
  if name != 'watch':
    raise AttributeError(f'module antjax.elastic has no attribute {name!r}')
  from antjax.elastic.step_watch import watch

  return watch
