# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lets every process cache compiled programs, not only process 0.

JAX writes its persistent cache only on process 0. That suffices for programs of
all processes, which have one key. A program of a process's own devices, such as
the micro-batches of an elastic step, has a different key on each process: all
but process 0 would compile theirs again at each restart, and hosts without a
shared folder would cache nothing at all. With three processes on two cores that
is most of the time of a restart.

This replaces two private functions of JAX. If they differ from what is
expected, JAX is left unchanged.
"""

import os
from typing import Any

from absl import logging
import jax

_MIN_COMPILE_S = 'jax_persistent_cache_min_compile_time_secs'


def keep_on_every_process() -> None:
  """Call it after `jax.distributed.initialize`; again changes nothing."""
  try:
    from jax._src import compilation_cache, compiler, distributed, lru_cache

    _ = compiler._cache_write
    cache = lru_cache.LRUCache
    put = cache.put
    put_executable = compilation_cache.put_executable_and_time
    process = distributed.global_state.process_id
  except (ImportError, AttributeError) as error:
    logging.info('Only process 0 keeps its compiled programs: %s.', error)
    return
  if getattr(put, 'is_whole', False):
    return

  def put_whole(self: Any, key: str, value: bytes) -> None:
    """As JAX's own, but a process killed meanwhile leaves no torn entry."""
    path = self.path / f'{key}-cache'
    if self.eviction_enabled or not key or path.exists():
      put(self, key, value)
      return
    temporary = self.path / f'{key}.{os.getpid()}.tmp'
    temporary.write_bytes(value)
    temporary.replace(path)

  put_whole.is_whole = True  # type: ignore[attr-defined]
  setattr(cache, 'put', put_whole)  # noqa: B010

  def write_own(
    key: str,
    compile_s: float,
    name: str,
    backend: Any,
    executable: Any,
    host_callbacks: Any = (),  # JAX 0.12 passes none.
  ) -> None:
    is_short = compile_s < getattr(jax.config, _MIN_COMPILE_S)
    if not host_callbacks and not is_short:
      try:
        put_executable(key, name, executable, backend, int(compile_s))
      # A cache that cannot be written must not stop a job.
      except Exception as error:
        logging.warning('Cannot keep the compiled %s: %s.', name, error)

  if process:
    setattr(compiler, '_cache_write', write_own)  # noqa: B010
