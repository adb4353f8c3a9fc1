# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Policies by their names: built in, or a user's own."""

from collections.abc import Callable
import importlib
import inspect

from antjax.elastic.policy import BUILT_IN, Policy


def resolve(name: str) -> Policy:
  """Returns a policy by its name, or a user's by `package.module:function`.

  Raises:
    ValueError: There is no such policy.
  """
  if name in BUILT_IN:
    return BUILT_IN[name]
  path, colon, function = name.partition(':')
  if not (colon and path and function.isidentifier()):
    raise ValueError(
      f'policy={name!r} is none of {", ".join(BUILT_IN)}; a policy of your own'
      ' is named package.module:function'
    )
  try:
    module = importlib.import_module(path)
  except ImportError as error:
    raise ValueError(
      f'policy={name!r}: cannot import {path!r} ({error}); it must be on the'
      " coordinator's PYTHONPATH"
    ) from error
  found = getattr(module, function, None)
  if not callable(found):
    what = 'is not a function' if hasattr(module, function) else 'is not there'
  elif not _takes_one(found):
    what = 'cannot be called with one argument'
  else:
    return found
  raise ValueError(
    f'policy={name!r}: {function!r} {what} in {path} ({module.__file__});'
    ' needed is a function of a ClusterView that returns a list of actions'
  )


def _takes_one(function: Callable[..., object]) -> bool:
  try:
    inspect.signature(function).bind(None)
  except (TypeError, ValueError) as error:
    return isinstance(error, ValueError)  # Some of C do not say what they take.
  return True
