# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Start and end of every script: flags, readable errors, signals.

`antjax.jobs.job` adds what jobs on devices need; this imports no jax.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
import contextlib
import logging as python_logging
import os
import pathlib
import re
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any, NoReturn, TypeVar

from absl import app, flags, logging

from antjax import config as config_lib
from antjax import paths

flags.disclaim_key_flags()  # They are the script's.

_T = TypeVar('_T')

# Seconds that a second signal gives the main thread to end by itself.
_PATIENCE_S = 5.0

# An error raised in this folder is ours: a sentence to the user.
OWN_FOLDER = str(pathlib.Path(config_lib.__file__).parent)


class StopRequest:
  """Says whether SIGINT or SIGTERM asked this process to stop.

  Inside `deferred()` the first signal only sets the answer, so that the loop
  can save and leave; a second one, or any outside, raises KeyboardInterrupt
  where the program is. Processes of one job get their signals at different
  steps: agree on the step to stop at.
  """

  def __init__(self) -> None:
    self.signal: signal.Signals | None = None
    # What a stopped user wants to know, by the run that was opened last.
    self.how_to_resume: Callable[[], str] = str
    self._is_deferred = self._is_second = False

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """Around a loop that asks for the answer at each step."""
    self._is_deferred = True
    try:
      yield
    finally:
      self._is_deferred = False

  def __call__(self) -> bool:
    return self.signal is not None

  def install(self) -> None:
    """Takes both signals over; call in the main thread.

    Call after `jax.distributed.initialize`: JAX's preemption service takes
    SIGTERM and would swallow it.
    """
    self._arrived, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    threading.Thread(target=self._watch, daemon=True).start()
    signal.signal(signal.SIGINT, self._handle)
    signal.signal(signal.SIGTERM, self._handle)

  def _watch(self) -> None:
    """Ends the program at a second signal that `_handle` does not get.

    Python calls a handler when the main thread is back from C, where a
    compilation takes minutes.
    """
    os.read(self._arrived, 1)
    if self._is_deferred:
      os.write(2, b'Stopping after this step. Once more: stop at once.\n')
    (number,) = os.read(self._arrived, 1)
    time.sleep(_PATIENCE_S)
    if not self._is_second:
      _abort(_interrupted(), 128 + number)

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    self._is_second = self.signal is not None
    self.signal = signal.Signals(number)
    if self._is_second or not self._is_deferred:
      raise KeyboardInterrupt


stop_request = StopRequest()


def stop_event() -> asyncio.Event:
  """An event of the running loop, which SIGINT and SIGTERM set."""
  event, loop = asyncio.Event(), asyncio.get_running_loop()

  def stop(number: signal.Signals) -> None:
    stop_request.signal = number
    event.set()

  for number in (signal.SIGINT, signal.SIGTERM):
    loop.add_signal_handler(number, stop, number)
  return event


def is_news(record: python_logging.LogRecord) -> bool:
  """False for JAX's list of the backends that a machine does not have."""
  return (
    record.levelno > python_logging.INFO
    or logging.level_debug()
    or not record.getMessage().startswith('Unable to initialize backend')
  )


class LogFile(python_logging.FileHandler):
  """A log that does not complain of a full disk: the job ends by it anyway."""

  def handleError(self, record: python_logging.LogRecord) -> None:
    if not paths.is_full(sys.exception()):
      super().handleError(record)


_SHIPPED = pathlib.Path(__file__).parent
_SHIPPED_FLAG = re.compile(r'(--?(?:flagfile|schema)=)(.+)')


def as_called(text: str) -> str:
  """A text with the names of commands as this program's user has them.

  They are scripts of a checkout's launch/ and commands of an installed antjax.
  """
  if not pathlib.Path(sys.argv[0]).name.startswith('antjax-'):
    return text

  def command(found: re.Match[str]) -> str:
    return f'antjax-{(found[1] or found[2]).replace("_", "-")}'

  name = r'(?:python -m\s+launch\.(\w+)|\blaunch/(\w+)\.py)'
  return re.sub(rf'{name}(?: \(antjax-[\w-]+\))?', command, text)


def shipped(word: str) -> str:
  """Gives --flagfile=launch/recipes/NAME.flags or --schema=NAME.yaml a path.

  The file's name is looked up among those that antjax ships, unless the path
  is there. Other words stay as they are.
  """
  found = _SHIPPED_FLAG.fullmatch(word)
  if not found or os.path.exists(found[2]):
    return word
  for folder in ('recipes', 'schemas'):
    path = _SHIPPED / folder / pathlib.Path(found[2]).name
    if path.is_file():
      return f'{found[1]}{path}'
  return word


def run(
  main: Callable[..., int | None],
  default_config: _T,
  define_flags: Callable[[], None] = lambda: None,
  exit_code_of: Callable[[Exception], int] = lambda error: 1,
  *,
  takes_command: bool = False,
) -> NoReturn:
  """Parses flags, runs `main(config)` and exits.

  The fields of `default_config`, a frozen dataclass, become the flags, and
  `define_flags` defines those that are no part of it. With `takes_command` the
  arguments after the flags are a command, which `main` gets too.

  Exit codes: what `main` returns, or 0; `exit_code_of` an error, which is a
  `flags.Error` for any wrong flag; 128 + signal after a stop asked by SIGINT or
  SIGTERM, also if `main` stopped cleanly. An error that antjax itself raises
  (bad flag, missing file, mesh that does not divide) is shown as one line;
  `--verbosity=1` adds the traceback. Anything else keeps its traceback.
  """
  if os.getcwd() not in sys.path:  # For --model=my_model:Net, a file here.
    sys.path.append(os.getcwd())
  python_logging.getLogger('jax._src.xla_bridge').addFilter(is_news)
  sys.unraisablehook = _unraisable
  config_lib.define_flags(default_config)
  define_flags()
  # What --help shows above the flags, from a thin script or a console command.
  doc = sys.modules[main.__module__].__doc__ or ''
  sys.modules['__main__'].__doc__ = as_called(doc)
  for name in flags.FLAGS:
    flags.FLAGS[name].help = as_called(flags.FLAGS[name].help)

  def parse(argv: list[str]) -> tuple[Any, ...]:
    try:
      rest = app.parse_flags_with_usage([shipped(word) for word in argv])
    except SystemExit:  # It has said why.
      sys.exit(exit_code_of(flags.Error()))
    try:
      if takes_command:
        return config_lib.parse_flags(default_config), rest[1:]
      if rest[1:]:
        raise flags.Error(f'unknown arguments: {" ".join(rest[1:])}')
      return (config_lib.parse_flags(default_config),)
    except flags.Error as error:
      _exit(f'flags: {error}', exit_code_of(error))  # Nothing has started yet.

  def guarded(parsed: tuple[Any, ...]) -> None:
    code = None
    try:
      code = main(*parsed)
    except KeyboardInterrupt as stop:
      code = 128 + (stop_request.signal or signal.SIGINT)
      _abort(_interrupted(str(stop)), code)
    except Exception as error:
      told = ' '.join(str(error).split())
      if paths.is_full(error):  # So is that of the log.
        python_logging.disable()
        if 'make room' not in told:
          told = f'{told.rstrip(".")}. Make room first'
      elif not _is_own(error) or logging.level_debug():
        logging.exception('The job failed.')
      if paths.is_full(error) or paths.is_read_only(error):
        how = stop_request.how_to_resume()
        told = f'{told.rstrip(".")}; {how}' if how else told
      _abort(f'error: {told}', exit_code_of(error))
    if stop_request.signal is not None:
      _exit('stopped as asked.', 128 + stop_request.signal)
    sys.exit(code)

  app.run(guarded, flags_parser=parse)
  raise AssertionError('app.run exits.')


def _unraisable(unraisable: Any) -> None:
  """`sys.unraisablehook` without the writes that outlive their failed save.

  TensorStore's threads print an error for each: hundreds of lines.
  """
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


def _interrupted(told: str = '') -> str:
  """What a user who stopped the program reads."""
  told = told or stop_request.how_to_resume()
  return f'interrupted: {told}' if told else 'interrupted.'


def _is_own(error: Exception) -> bool:
  """Whether antjax raised the error on purpose, as a sentence to the user."""
  frames = traceback.extract_tb(error.__traceback__)
  return isinstance(error, (ValueError, RuntimeError, OSError)) and (
    bool(frames) and frames[-1].filename.startswith(OWN_FOLDER)
  )


def _exit(message: str, code: int) -> NoReturn:
  """Ends the program with one line on stderr."""
  program = pathlib.Path(sys.argv[0]).stem
  print(f'{program}: {as_called(message)}', file=sys.stderr, flush=True)
  sys.exit(code)


def _abort(message: str, code: int) -> NoReturn:
  """Ends the program in the middle of its work.

  The other processes of the job may wait for this one in a collective, and JAX
  would wait for them at exit: leave without that, so that the launcher sees it.
  """
  try:
    _exit(message, code)
  finally:
    # Nor tear down what computations in flight still use.
    python_logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def show_step(text: str) -> None:
  """Says what begins now; on stderr, as stdout is for results."""
  print(f'... {text}', file=sys.stderr, flush=True)


def print_counts(counts: Mapping[str, int]) -> None:
  """Prints a count a line."""
  for name, count in counts.items():
    print(f'{name.replace("_", " "):28} {count:>15,}')
