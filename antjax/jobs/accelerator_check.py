# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Checks antjax on these devices and compares its times with predictions.

  python -m launch.accelerator_check
  make accelerator-check

Runs on one or several GPUs, a TPU slice or a pod, like any job. Without them it
runs on CPU; --jax_num_cpu_devices=8 sets the number of devices. It needs
neither data nor a network. Parts:

  attention    the platform's kernel beside plain attention
  tables       look-ups, sums of rows and a step of split tables
  collectives  every algorithm beside XLA's
  codes        gradients under PaRO codes beside those of one device
  links        rates and latencies along each axis; writes links.json
  lm, gmeta, clicks, bahe, llm_rec
               a timed step of each job: speed, memory, the planner's time

A part that fails is reported, and the others still run. results.md and
results.jsonl in the run folder include the card, the driver and the versions.
Both are written after each part; if the check is killed, the same command goes
on with the parts that are missing or failed. The exit code is 1 if a result
exceeds its tolerance or a part fails.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
import time
import types
from typing import Annotated, Any, Literal

from absl import logging
import jax
from jax.experimental import multihost_utils

from antjax import paths
from antjax.collectives import cost_model, measure
from antjax.collectives.cost_model import Links
from antjax.jobs import job as job_lib
from antjax.jobs.accelerator import equivalence, steps
from antjax.mesh import mesh as mesh_lib
from antjax.mesh.paro import PaRO
from antjax.report import job_report

PARTS = (*equivalence.PARTS, 'codes', 'links', *steps.REAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(job_lib.JobConfig):
  """What is checked."""

  run_dir: Annotated[str, 'Folder for results.md and results.jsonl.'] = (
    'runs/accelerator_check'
  )
  parts: Annotated[tuple[str, ...], f'Parts to run, of {", ".join(PARTS)}.'] = (
    PARTS
  )
  codes: Annotated[
    tuple[str, ...], 'PaRO codes whose gradients are compared.'
  ] = ('IIG', 'NNG', 'NIG', 'III', 'GGG')
  paro: Annotated[str, 'PaRO code of the timed steps.'] = 'IIG'
  size: Annotated[
    Literal['auto', 'real', 'tiny'],
    'Size of the timed steps. auto: tiny on CPUs, real elsewhere.',
  ] = 'auto'
  num_steps: Annotated[int, 'Number of timed steps per job.'] = 5

  def __post_init__(self) -> None:
    super().__post_init__()
    if unknown := [part for part in self.parts if part not in PARTS]:
      raise ValueError(
        f'parts={",".join(unknown)}: known are {", ".join(PARTS)}.'
      )
    for code in (*self.codes, self.paro):
      PaRO.from_code(code)
    self.check_least({'num_steps': 1})


Line = dict[str, Any]


def check_lines(found: Any) -> list[Line]:
  """A line of the results for each check."""
  return [dataclasses.asdict(c) | {'is_ok': c.is_ok} for c in found]


def links_lines(mesh: Any, folder: pathlib.Path, is_main: bool) -> list[Line]:
  """Rates of the links and of every collective; the links go to links.json."""
  links = measure.measure(mesh)
  if is_main:
    cost_model.save(links, folder / 'links.json')
  fitted = dataclasses.asdict(links)
  del fitted['timings']
  lines: list[Line] = [{'links': fitted}]
  for t in links.timings:
    times = zip(t.sizes_bytes, t.seconds, strict=True)
    lines += [
      {
        'op': t.op,
        'algorithm': t.algorithm,
        'num_bytes': size,
        'seconds': seconds,
        'gbytes_per_s': size / seconds / 1e9,
      }
      for size, seconds in times
    ]
  return lines


def calls(
  config: Config, job: job_lib.Job
) -> dict[str, Callable[[], list[Line]]]:
  """Part -> what runs it and returns its lines."""
  mesh = job.mesh

  def check(run: Callable[..., Any], *args: Any) -> list[Line]:
    return check_lines(run(*args))

  found: dict[str, Callable[[], list[Line]]] = {
    name: functools.partial(check, run, mesh)
    for name, run in equivalence.PARTS.items()
  }
  found['codes'] = lambda: check(equivalence.codes, mesh, config.codes)
  if mesh.size > 1:
    found['links'] = lambda: links_lines(mesh, job.run_dir, job.is_main)
  size = config.size
  if size == 'auto':
    is_cpu = mesh.devices.flat[0].platform == 'cpu'
    size = 'tiny' if is_cpu else 'real'
  shapes = steps.TINY if size == 'tiny' else steps.REAL

  def step(name: str) -> list[Line]:
    links: Links | None = None
    if 'links' in config.parts and mesh.size > 1:
      with contextlib.suppress(ValueError):  # The part has failed.
        links = cost_model.load(job.run_dir / 'links.json')
    line = steps.run(
      name,
      mesh,
      shapes[name],
      num_rows=steps.NUM_ROWS[size],
      code=config.paro,
      num_steps=config.num_steps,
      links=links,
    )
    return [line]

  return found | {name: functools.partial(step, name) for name in steps.REAL}


def finished(folder: pathlib.Path, about: Line, names: Sequence[str]) -> Line:
  """Part -> its lines, of a check here that was cut off; none that failed."""
  try:
    with (folder / 'results.jsonl').open(encoding='utf-8') as file:
      before, *lines = map(json.loads, file)
  except (OSError, ValueError):
    return {}
  if before | {'date': ''} != about | {'date': ''}:
    return {}
  found: dict[str, list[Line]] = {}
  for line in lines:
    found.setdefault(line['part'], []).append(line)
  if all(name in found for name in names):
    return {}
  return {k: x for k, x in found.items() if not any(map(is_bad, x))}


def run_parts(
  names: Sequence[str],
  calls: Mapping[str, Callable[[], list[Line]]],
  say: Callable[[str], None] = print,
  kept: Mapping[str, list[Line]] = types.MappingProxyType({}),
  write: Callable[[list[Line]], None] = lambda lines: None,
) -> list[Line]:
  """Runs parts one after the other; an error of one ends it alone.

  Args:
    names: Parts to run.
    calls: Part -> what runs it; a missing one is skipped.
    say: Called with a line of text about each part.
    kept: Part -> lines of a check that was cut off, which are not found again.
    write: Called with all lines so far, after each part.
  """
  lines: list[Line] = []
  for i, name in enumerate(names):
    head = f'[{i + 1}/{len(names)}] {name}'
    if name in kept:
      lines += kept[name]
      say(f'{head}: kept of the check that was cut off')
      continue
    if name not in calls:
      lines.append({'part': name, 'skipped': 'there is one device.'})
      say(f'{head}: left out, there is one device.')
      continue
    start = time.perf_counter()
    found: list[Line]
    try:
      found = calls[name]()
    except Exception as error:  # Whatever it is: the others are of use.
      logging.exception('%s failed.', name)
      text = ' '.join(str(error).split())[:500]
      found = [{'error': f'{type(error).__name__}: {text}'}]
    lines += [{'part': name} | line for line in found]
    write(lines)
    bad = sum(map(is_bad, found))
    how = f'{bad} of {len(found)} NOT ok' if bad else f'{len(found)} ok'
    say(f'{head}: {how}, {time.perf_counter() - start:.1f} s')
  return lines


def is_bad(line: Line) -> bool:
  """Whether a line of the results is an error, or differs too much."""
  return 'error' in line and not line.get('is_ok', False)


def facts(mesh: Any) -> Line:
  """What the figures depend on."""
  device = mesh.devices.flat[0]
  versions = {}
  for name in (
    'antjax',
    'jax',
    'jaxlib',
    'libtpu',
    'jax-cuda13-pjrt',
    'jax-cuda12-pjrt',
    'nvidia-cudnn-cu13',
    'nvidia-nccl-cu13',
  ):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  return {
    'device': device.device_kind,
    'platform': device.platform,
    'num_devices': mesh.size,
    'mesh': [mesh_lib.num_groups(mesh), mesh_lib.group_size(mesh)],
    'num_processes': jax.process_count(),
    'driver': _driver(device),
    'host': f'{platform.machine()}, {os.cpu_count()} cores',
    'python': platform.python_version(),
    'versions': versions,
    'date': datetime.date.today().isoformat(),
    'flags': shlex.join(sys.argv[1:]),
    'XLA_FLAGS': os.environ.get('XLA_FLAGS', ''),
    'LIBTPU_INIT_ARGS': os.environ.get('LIBTPU_INIT_ARGS', ''),
  }


def _driver(device: Any) -> str:
  """The runtime below JAX, and NVIDIA's kernel module where there is one."""
  found = [' '.join(str(device.client.platform_version).split())]
  with contextlib.suppress(OSError):
    text = pathlib.Path('/proc/driver/nvidia/version').read_text()
    found.append(text.splitlines()[0])
  return '; '.join(found)


def page(about: Line, lines: Sequence[Line], names: Sequence[str] = ()) -> str:
  """The results as Markdown; `names` are all parts asked for."""
  bad = [line for line in lines if is_bad(line)]
  result = f'{len(bad)} of {len(lines)} lines are NOT ok' if bad else 'all ok'
  missing = [x for x in names if x not in {line['part'] for line in lines}]
  if missing:
    result += f' so far, {len(missing)} of {len(names)} parts have not ended'
  text = [
    f'# Accelerator check, {about["device"]} x {about["num_devices"]},'
    f' {about["date"]}',
    '',
    f'`python -m launch.accelerator_check {about["flags"]}`: {result}.',
    '',
    *(f'- {name}: {value}' for name, value in about.items() if value),
    '',
    '## Equivalence',
    '',
    'Error: norm of the difference over that of the reference.',
    '',
    _table(
      ('part', 'what', 'dtype', 'error', 'tolerance', 'ok'),
      [
        (x['part'], x['name'], x['dtype'], f'{x["error"]:.2g}',
         f'{x["tolerance"]:g}', 'yes' if x['is_ok'] else 'NO')
        for x in lines
        if 'is_ok' in x
      ],
    ),
    '',
    '## Links',
    '',
    *(
      f'{_gbps(x["intra_bytes_per_s"])} a device inside a group, latency'
      f' {x["intra_latency_s"] * 1e6:.1f} us; {_gbps(x["uplink_bytes_per_s"])}'
      f' all of a group together, latency {x["inter_latency_s"] * 1e6:.1f} us.'
      for x in (y['links'] for y in lines if 'links' in y)
    ),
    '',
    _table(
      ('collective', 'algorithm', 'MB', 'ms', 'GB/s'),
      [
        (x['op'], x['algorithm'], f'{x["num_bytes"] / 1e6:.3g}',
         f'{x["seconds"] * 1e3:.3g}', f'{x["gbytes_per_s"]:.3g}')
        for x in lines
        if 'algorithm' in x
      ],
    ),
    '',
    '## A step of each job',
    '',
    'Predicted: by the planner, from the links above and half the speed of a'
    ' large matrix product; - where a model does not tell its operations.',
    '',
    _table(
      ('job', 'code', 'dtype', 'units/s', 'step ms', 'predicted ms',
       'measured / predicted', 'compile s', 'peak GB (process)',
       'compiled GB'),
      [
        (x['job'], x['paro'], x['dtype'],
         f'{x["units_per_s"]:,.0f} {x["unit"]}', _number(x['step_s'], 1e3),
         _number(x['predicted_s'], 1e3), _number(x['measured_over_predicted']),
         _number(x['compile_s']), _number(x['peak_bytes'], 1e-9),
         _number(x['compiled_bytes'], 1e-9))
        for x in lines
        if 'step_s' in x
      ],
    ),
  ]  # fmt: skip
  errors = [
    f'- {x["part"]}: {x.get("skipped") or x["error"]}'
    for x in lines
    if 'skipped' in x or ('error' in x and 'is_ok' not in x)
  ]
  errors += [f'- {name}: has not ended.' for name in missing]
  if errors:
    text += ['', '## Not run, or failed', '', *errors]
  return '\n'.join(text) + '\n'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  return job_report.markdown(head, rows).rstrip() if rows else 'Not measured.'


def _number(value: float | None, factor: float = 1.0) -> str:
  return '-' if value is None else f'{value * factor:,.3g}'


def _gbps(bytes_per_s: float) -> str:
  return f'{bytes_per_s * 8e-9:.3g} Gbit/s'


def _write(
  folder: pathlib.Path, about: Line, names: Sequence[str], lines: list[Line]
) -> None:
  text = ''.join(json.dumps(line) + '\n' for line in (about, *lines))
  files = {'results.jsonl': text, 'results.md': page(about, lines, names)}
  for name, content in files.items():
    with paths.replaced(folder / name) as new:
      new.write_text(content, encoding='utf-8')


def main(config: Config) -> None:
  job = job_lib.start(config)
  about = facts(job.mesh)

  def say(text: str) -> None:
    if job.is_main:
      print(text, flush=True)

  say(f'{about["device"]} x {about["num_devices"]}, {about["driver"]}')
  if about['platform'] == 'cpu':
    say('JAX finds no accelerator: these are CPU cores.')
  names = [name for name in PARTS if name in config.parts]
  write = functools.partial(_write, job.run_dir, about, names)
  # Parts have collectives: what process 0 has read decides.
  kept = finished(job.run_dir, about, names)
  is_kept = [name in kept for name in names]
  if jax.process_count() > 1:
    is_kept = multihost_utils.broadcast_one_to_all(is_kept).tolist()
  lines = run_parts(
    *(names, calls(config, job), say),
    {n: kept.get(n, []) for n, is_in in zip(names, is_kept) if is_in},
    write if job.is_main else lambda lines: None,
  )
  if job.is_main:
    write(lines)
    say(f'Written: {job.run_dir / "results.md"}')
  job.sync()
  if any(map(is_bad, lines)):
    sys.exit(1)
