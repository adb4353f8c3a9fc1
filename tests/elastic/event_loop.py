# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Asynchronous tests, each on an event loop of its own."""

import asyncio
import inspect

_TIMEOUT_S = 120


def run(test):
  """Runs an asynchronous test with pytest's fixtures."""

  def wrapped(**fixtures):
    asyncio.run(asyncio.wait_for(test(**fixtures), _TIMEOUT_S))

  wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
  wrapped.__signature__ = inspect.signature(test)
  return wrapped


def beside(make, **options):
  """Runs an asynchronous test beside what `async with make(...)` gives.

  That is the test's first argument. `make` takes the options and `tmp_path`.
  """

  def decorate(test):
    first, *others = inspect.signature(test).parameters.values()
    names = [one.name for one in others]

    async def beside(tmp_path, **fixtures):
      async with make(tmp_path, **options) as made:
        known = {**fixtures, 'tmp_path': tmp_path}
        await test(made, **{name: known[name] for name in names})

    if 'tmp_path' not in names:
      others.append(first.replace(name='tmp_path'))
    beside.__signature__ = inspect.Signature(others)
    beside.__name__, beside.__doc__ = test.__name__, test.__doc__
    return run(beside)

  return decorate
