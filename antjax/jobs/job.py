# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Start-up and shutdown that all jobs share.

`run(main, Config())` starts a script, and `job = start(config)` in `main`
starts its job. The order is fixed: flags, then `jax.distributed` (before
anything touches a device), then the mesh, then the run folder (so that a wrong
flag leaves nothing behind), then logging and signals. A script without devices
uses `script.run`.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import json
import logging as python_logging
import os
import pathlib
import shlex
import threading
from typing import Annotated, Any, NamedTuple, NoReturn, TYPE_CHECKING, TypeVar

from absl import flags, logging
import jax
from jax.experimental import multihost_utils

from antjax import config as config_lib
from antjax import config_values, paths
from antjax.jobs import distributed, script
from antjax.mesh import mesh as mesh_lib
from antjax.mesh.paro import NotElasticError
from antjax.report import trackers, watch
from antjax.shards import dataset, ledger_client, ledger_spec, record_source
from antjax.train import lease

if TYPE_CHECKING:
  from antjax.elastic.worker import Agent

flags.disclaim_key_flags()  # They are the script's.

_T = TypeVar('_T')

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_ROWS_FILE = 'elastic.json'  # In the run folder of a job under agents.


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobConfig:
  """Settings of every job that trains; a job's own Config extends it."""

  run_dir: Annotated[
    str,
    'Folder for config, logs, checkpoints and report. Starting again with the'
    ' same folder resumes the run.',
    paths.URL,
  ]
  intra: Annotated[
    int | None,
    'Number of devices in a PaRO group, connected by fast links; must divide'
    ' the number of devices. none: the devices of one process.',
  ] = None

  def __post_init__(self) -> None:
    if not self.run_dir:
      raise ValueError('run_dir must name a folder; it is empty.')
    if self.intra is not None and self.intra < 1:
      raise ValueError(f'intra must be at least 1 or none; got {self.intra}.')

  def check_inputs(self) -> None:
    """Raises an error where something that the job needs is not there.

    `start` calls it when devices are known, before it makes the run folder.
    """

  check_least = config_values.check_least


class BatchShape(NamedTuple):
  """How batches of a process are made."""

  # In an element of its batches: of a whole step, or under an agent of a
  # micro-batch, of which plans say how many.
  rows: int
  num_parts: int  # Runs of an element that are worked off apart.


@dataclasses.dataclass(frozen=True)
class Job:
  """What `start` made."""

  mesh: jax.sharding.Mesh  # All devices, axes ('inter', 'intra').
  run_dir: pathlib.Path  # Shared by all processes.
  should_stop: script.StopRequest
  config: JobConfig
  agent: 'Agent | None' = None  # Where launch/agent.py runs this process.
  watched: watch.Watched = watch.Watched()
  mirror: paths.Mirror | None = None  # Where run_dir is a copy of a bucket's.

  def sync(self) -> None:
    """Sends what this process has changed in the run folder to its bucket."""
    if self.mirror is not None:
      self.mirror.push()

  def check_shared(self, what: str) -> None:
    """Refuses what needs a run folder that all processes see."""
    if self.mirror is not None and jax.process_count() > 1:
      raise ValueError(
        f'run_dir={self.mirror.url}: {what} needs a run folder on a disk that'
        f' all {jax.process_count()} processes see; give one, or start a single'
        ' process.'
      )

  def save_config(self) -> None:
    """Writes `<run_dir>/config.json`, on process 0; again changes nothing.

    Call it once the run is known to resume in this folder: the config of other
    checkpoints must not be replaced.
    """
    if not self.is_main:
      return
    try:
      saved = config_lib.load(type(self.config), self.run_dir)
    except ValueError:  # None, or of another version: it is kept aside.
      saved = None
    if saved != self.config:
      config_lib.save(self.config, self.run_dir)

  def report(self, name: str, numbers: Any, **sections: Any) -> None:
    """Writes results.json and report.html, on process 0.

    `name` is the command, e.g. 'train-lm'; for the rest see `job_report.write`.
    """
    from antjax.report import job_report  # Others need no matplotlib.

    command = self.repeat_command(name)
    job_report.write(self.run_dir, numbers, command=command, **sections)
    self.sync()

  def repeat_command(self, name: str) -> str:
    """The command that repeats a run of 'train-lm', say, in another folder.

    In a checkout it names the script.
    """
    program = f'launch/{name.replace("-", "_")}.py'
    is_checkout = (_ROOT / program).is_file()
    run_dir = paths.origin(self.run_dir) if self.mirror else self.run_dir
    flags = shlex.join(
      [f'--config={run_dir}/config.json', f'--run_dir={run_dir}-again']
    )
    if jax.device_count() == 1:
      call = f'python {program}' if is_checkout else f'antjax-{name}'
      return f'{call} {flags}'
    launcher = 'python -m launch.local_cluster'
    if not is_checkout:
      launcher = 'antjax-local-cluster'
      program = f'-m antjax.jobs.console {name}'
    return (
      f'{launcher} --hosts={jax.process_count()}'
      f' --devices_per_host={jax.local_device_count()} -- {program} {flags}'
    )

  def dataset(
    self,
    source: record_source.RecordSource,
    *,
    name: str = 'train',
    key_field: str | None = None,
    num_epochs: int | None = None,
    block_size: int = 0,
    **spec: Any,
  ) -> dataset.LeasedDataset:
    """Records of a source: each is read by one process, once an epoch.

    Without a number of epochs it never ends. Under an agent shards are leased
    from the coordinator; else each process has a fixed share. See
    `antjax.Agent.dataset` for the arguments.
    """
    spec['num_epochs'] = num_epochs
    own: dict[str, Any] = {'key_field': key_field, 'block_size': block_size}
    if self.agent is not None:
      return self.agent.dataset(source, name=name, **own, **spec)
    client = ledger_client.LocalLedgerClient(
      ledger_spec.LedgerSpec(len(source), **spec),
      worker=jax.process_index(),
      num_workers=jax.process_count(),
    )
    return dataset.LeasedDataset(source, client, **own)

  def batch_shape(self, batch_size: int, num_micro_batches: int) -> BatchShape:
    """How this process's batches are made, of `batch_size` rows a step.

    Raises:
      ValueError: The batch is no multiple of its parts.
    """
    num_devices = len(self.mesh.local_devices)
    if self.agent is None:
      check_batch_size(batch_size, num_micro_batches)
      rows = batch_size // jax.process_count()
      return BatchShape(rows, num_devices * num_micro_batches)
    # An element is a micro-batch, the same when other hosts have come.
    path = self.run_dir / _ROWS_FILE
    if path.exists():
      rows = int(json.loads(path.read_text(encoding='utf-8'))['rows'])
      return BatchShape(rows, num_devices)
    # Later the hosts may be others, which batch_size need not fit.
    check_batch_size(batch_size, num_micro_batches)
    rows = batch_size // jax.process_count() // num_micro_batches
    multihost_utils.sync_global_devices('batch_shape')  # All looked.
    if self.is_main:
      with paths.replaced(path) as new:
        new.write_text(json.dumps({'rows': rows}), encoding='utf-8')
      self.sync()
    return BatchShape(rows, num_devices)

  @property
  def is_main(self) -> bool:
    """Whether this is process 0: the one that writes and shows progress."""
    return jax.process_index() == 0


def check_batch_size(batch_size: int, num_micro_batches: int) -> None:
  """Raises ValueError unless all devices get micro-batches of one size."""
  parts = jax.device_count() * num_micro_batches
  if batch_size % parts:
    raise ValueError(
      f'batch_size={batch_size} must be a multiple of {parts}, the devices'
      ' times num_micro_batches.'
    )


def run(main: Callable[[_T], None], default_config: _T) -> NoReturn:
  """See `script.run`; jobs also get the flags of clusters and of JAX."""

  def define_flags() -> None:
    if isinstance(default_config, JobConfig):
      distributed.define_flags()
      _define_watch_flags()
      jax.config.config_with_absl()

  @functools.wraps(main)
  def main_and_close(config: _T) -> None:
    with _open:
      main(config)
      if _agents:
        _agents.pop().close()

  script.run(main_and_close, default_config, define_flags, _exit_code_of)


def _exit_code_of(error: Exception) -> int:
  """Tells an agent which errors a restart does not mend."""
  if not os.environ.get('ANTJAX_COORDINATOR'):
    return 1
  from antjax.elastic import rendezvous_room  # Others need no protobuf.

  is_final = isinstance(error, (flags.Error, NotElasticError))
  is_final |= error in _wrong_inputs
  return rendezvous_room.EXIT_WRONG_USAGE if is_final else 1


def _define_watch_flags() -> None:
  """Flags of how a run is watched, which changes nothing of what it does."""
  flags.DEFINE_list(
    'trackers',
    ['tensorboard'],
    f'Loggers in addition to metrics.jsonl: {", ".join(trackers.PACKAGES)}.',
  )
  flags.DEFINE_string(
    'profile_steps',
    '',
    'Range of steps to profile, first:last, e.g. 10:15, counted from 0 without'
    ' the last. The JAX profile is written to the folder profile of the run.',
  )


def _watched() -> watch.Watched:
  """From the flags, where they are defined."""
  if 'trackers' not in flags.FLAGS:
    return watch.Watched()
  names: Any = flags.FLAGS['trackers'].value
  steps: Any = flags.FLAGS['profile_steps'].value
  trackers.check(names)
  return watch.Watched(tuple(names), watch.steps_of(steps))


def start(config: JobConfig) -> Job:
  """Brings up processes, mesh, run folder, logging and signals, in this order.

  Inputs that are not there are refused before the folder is made.

  Each process logs to `<run_dir>/log.<process>.txt`; on the terminal process 0
  shows antjax's own messages, the others only warnings.

  Raises:
    ValueError: The settings of the processes or the mesh do not fit, or
      another run has the folder.
    Exception: What `JobConfig.check_inputs` raises.
  """
  watched = _watched()
  distributed.initialize()
  intra = config.intra or jax.local_device_count()
  mesh = mesh_lib.make_mesh(intra=intra)
  try:
    config.check_inputs()
  except (ValueError, FileNotFoundError) as error:
    _wrong_inputs.append(error)
    raise
  run_dir, mirror = pathlib.Path(config.run_dir), None
  script.stop_request.how_to_resume = functools.partial(
    distributed.resumes_from, run_dir
  )
  if paths.is_url(config.run_dir):
    paths.check(config.run_dir, 'run_dir')
    _open.enter_context(lease.held(config.run_dir, *_incarnation()))
    mirror = _open.enter_context(paths.mirrored(config.run_dir))
    _open.callback(mirror.push)
    run_dir = mirror.local
  try:
    run_dir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f'run_dir={config.run_dir}: cannot make this folder'
      f' ({error.strerror}); choose one that you may write to.'
    ) from error
  if mirror is None:
    _open.enter_context(lease.held(run_dir, *_incarnation()))
  _start_logging(run_dir)
  if threading.current_thread() is threading.main_thread():
    script.stop_request.install()
  logging.info(
    '%d processes, %d %s devices: mesh inter=%d x intra=%d; run folder %s',
    jax.process_count(),
    jax.device_count(),
    jax.devices()[0].platform,
    mesh.shape[mesh_lib.INTER],
    mesh.shape[mesh_lib.INTRA],
    config.run_dir,
  )
  agent = agent_from_environment(run_dir)
  if agent is not None:
    _agents.append(agent.__enter__())
    agent.describe(
      device_kind=jax.devices()[0].device_kind,
      num_devices=jax.local_device_count(),
    )
  return Job(mesh, run_dir, script.stop_request, config, agent, watched, mirror)


_agents: 'list[Agent]' = []  # To be closed when main has ended.
_wrong_inputs: list[Exception] = []  # At most one: it ends the program.
_open = contextlib.ExitStack()  # However it ends.


def _incarnation() -> tuple[str, int]:
  """`Agent.incarnation` of this process, before its agent is there."""
  env = os.environ
  job = f'{env.get("ANTJAX_COORDINATOR", "")}/{env.get("ANTJAX_JOB", "job")}'
  generation = int(env.get('ANTJAX_GENERATION', '0'))
  return ('', 0) if job.startswith('/') else (job, generation)


def agent_from_environment(
  run_dir: pathlib.Path | None = None,
) -> 'Agent | None':
  """This process's `antjax.Agent`, where launch/agent.py started it.

  `run_dir` gets the timeline of steps; without one none is kept.
  """
  if not os.environ.get('ANTJAX_COORDINATOR'):
    return None
  from antjax.elastic import worker  # Others need no grpc.

  return worker.Agent.from_env(run_dir)


def _start_logging(run_dir: pathlib.Path) -> None:
  """All messages to a file of the run; the terminal shows what matters."""
  index = jax.process_index()
  file = script.LogFile(run_dir / f'log.{index}.txt')
  file.setFormatter(logging.PythonFormatter())
  python_logging.getLogger().addHandler(file)
  terminal = logging.get_absl_handler()

  def shows(record: python_logging.LogRecord) -> bool:
    if record.exc_info and paths.is_full(record.exc_info[1]):
      return False  # The last line says it.
    if record.levelno >= python_logging.WARNING:
      return True
    return index == 0 and record.pathname.startswith(script.OWN_FOLDER)

  if not logging.level_debug():
    terminal.addFilter(shows)
