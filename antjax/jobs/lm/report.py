# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes what launch/train_lm.py reached."""

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import json
import statistics
from typing import Any, TYPE_CHECKING

import rich
import rich.table

from antjax import config as config_lib
from antjax.jobs import job as job_lib
from antjax.jobs import speed as lm_speed
from antjax.jobs.lm.config import Config
from antjax.lm import cost
from antjax.mesh.paro import PaRO
from antjax.report import progress, report
from antjax.train.trainer import Trainer

if TYPE_CHECKING:
  from antjax.jobs.lm.job import LMJob

_SCENARIO = 'held-out documents'


def write(
  config: Config,
  job: job_lib.Job,
  lm: 'LMJob',
  trainer: Trainer,
  results: Mapping[str, float],
  samples: Sequence[str],
) -> None:
  """Prints results and samples; writes results.json, samples.txt, report.html.

  On process 0.
  """
  lines = progress.read_metrics(job.run_dir / progress.METRICS_FILE)
  speed = throughput(lines)
  memory = lm_speed.peak_bytes()
  state_bytes = trainer.bytes_per_device()
  print_table(lm, results, speed, state_bytes, memory)
  for sample in samples:
    rich.print('[bold]Sample[/]')
    print(sample)
  everything = {
    'results': dict(results),
    'paro': lm.paro,
    'num_params': cost.num_params(lm.model),
    'throughput': speed,
    'peak_flops_per_device': lm.peak_flops,
    'peak_flops_source': lm.peak_name,
    'state_bytes_per_device': state_bytes,
    'peak_bytes': memory,
  }
  (job.run_dir / 'results.json').write_text(
    json.dumps(everything, indent=2), encoding='utf-8'
  )
  (job.run_dir / 'samples.txt').write_text(
    '\n\n----\n\n'.join(samples) + '\n', encoding='utf-8'
  )
  revision = config_lib.git_revision() or {'revision': '', 'dirty': False}
  name = lm.description['name']
  notes = [
    f'MFU counts {cost.flops_per_token(lm.model, config.seq_len):.4g}'
    ' FLOP a token (forward and backward pass, no recomputation) against a peak'
    f' of {lm.peak_flops / 1e12:.3g} TFLOP/s a device, {lm.peak_name}.',
    *(f'Sample: {sample}' for sample in samples),
  ]
  if lm.description['acknowledgement']:
    notes.append(f'Texts: {lm.description["acknowledgement"]}')
  path = report.write_report(
    report.Report(
      title=f'Language model on {name}',
      summary=(
        f'{cost.num_params(lm.model):,} parameters, PaRO {lm.paro}:'
        f' perplexity {results["validation_perplexity"]:.2f} a token on'
        ' held-out documents.'
      ),
      results=[
        {
          'scenario': _SCENARIO,
          'method': f'PaRO {lm.paro}',
          **{
            k.removeprefix('validation_').replace('_', ' '): v
            for k, v in results.items()
          },
        }
      ],
      lower_is_better=frozenset({'loss', 'perplexity', 'bits per character'}),
      curves=_curves(lines),
      throughput={k.replace('_', ' '): v for k, v in speed.items()},
      memory=_memory(trainer),
      config=dataclasses.asdict(config),
      command=job.repeat_command('launch/train_lm.py'),
      revision=revision['revision'][:12] + '+' * revision['dirty'],
      machine=report.describe_machine(),
      date=f'{datetime.datetime.now():%Y-%m-%d %H:%M}',
      notes=notes,
    ),
    job.run_dir,
  )
  rich.print(f'Report: {path}')


def throughput(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Medians over the steps; empty where there was only one."""
  names = ('tokens_per_s', 'tokens_per_s_per_device', 'mfu')
  found = {n: [r[n] for r in lines if r.get(n) is not None] for n in names}
  return {n: statistics.median(v) for n, v in found.items() if v}


def print_table(
  lm: 'LMJob',
  results: Mapping[str, float],
  speed: Mapping[str, float],
  state_bytes: Mapping[str, int],
  memory: Mapping[str, int],
) -> None:
  """What was reached, what it took."""
  table = rich.table.Table(title='Language model', show_header=False)
  table.add_column(no_wrap=True)
  table.add_column(justify='right')
  table.add_row('parameters', f'{cost.num_params(lm.model):,}')
  table.add_row('PaRO', lm.paro)
  for name, value in results.items():
    table.add_row(name.replace('_', ' '), f'{value:.4g}')
  if speed:
    table.add_row('tokens/s', f'{speed["tokens_per_s"]:,.0f}')
    table.add_row(
      'tokens/s a device', f'{speed["tokens_per_s_per_device"]:,.0f}'
    )
    table.add_row('MFU', f'{speed["mfu"]:.1%}')
    table.add_row('its peak, a device', f'{lm.peak_flops / 1e12:.3g} TFLOP/s')
    table.add_row('', lm.peak_name)
  for part, size in state_bytes.items():
    table.add_row(f'{part} on a device', report.format_bytes(size))
  for name, size in memory.items():
    table.add_row(f'peak memory of the {name}', report.format_bytes(size))
  rich.print(table)


def _memory(trainer: Trainer) -> list[dict[str, Any]]:
  paro: PaRO = trainer.paro
  return [
    {
      'device': device,
      'level': getattr(paro, part).name.lower(),
      'part': part,
      'bytes': size,
    }
    for part, size in trainer.bytes_per_device().items()
    for device in range(trainer.mesh.size)
  ]


def _curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  def points(key: str) -> list[tuple[float, float]]:
    return [(r['step'], r[key]) for r in lines if r.get(key) is not None]

  return {
    'loss': {'train': points('loss'), 'held-out': points('validation_loss')},
    'grad norm': {'train': points('grad_norm')},
    'tokens/s a device': {'train': points('tokens_per_s_per_device')},
  }
