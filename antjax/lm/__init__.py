# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Language models: one transformer, pretrained weights and generation.

The names below are imported on first use.
"""

import importlib
from typing import Any

_HOMES = {
  'Block': 'blocks',
  'Config': 'config',
  'Transformer': 'transformer',
  'load': 'pretrained',
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
  if name in _HOMES:
    return getattr(importlib.import_module(f'antjax.lm.{_HOMES[name]}'), name)
  raise AttributeError(f'module antjax.lm has no attribute {name!r}')
