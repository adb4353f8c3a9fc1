# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows and writes the results of launch/train_lm.py."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax

from antjax.jobs import job as job_lib
from antjax.jobs.lm.config import Config
from antjax.report import job_report, report, terminal
from antjax.train.trainer import Trainer

_SPEEDS = ('tokens_per_s', 'tokens_per_s_per_device', 'mfu')


@dataclasses.dataclass(frozen=True)
class Speeds:
  """What speeds in tokens are computed from.

  Attributes:
    num_params: Number of parameters of the model.
    flops_per_token: FLOP a token, see `lm_cost.flops_per_token`.
    peak_flops: FLOP/s of a device at its peak.
    peak_name: Where the peak comes from, e.g. 'given by --peak_tflops'.
  """

  num_params: int
  flops_per_token: float
  peak_flops: float
  peak_name: str

  def line_of(self, values: Mapping[str, float]) -> dict[str, float]:
    """A line of the log: metrics of a step, with speeds in tokens."""
    line = dict(values)
    speed = line.pop('examples_per_s', None)
    if speed is not None:
      per_device = speed / jax.device_count()
      mfu = per_device * self.flops_per_token / self.peak_flops
      line |= dict(zip(_SPEEDS, (speed, per_device, mfu), strict=True))
    return line


def write(
  config: Config,
  job: job_lib.Job,
  description: Mapping[str, Any],
  trainer: Trainer,
  results: Mapping[str, float],
  samples: Sequence[str],
  speeds: Speeds,
) -> None:
  """Prints results and samples; writes results.json, samples.txt, report.html.

  On process 0. `results` are the scores of the held-out documents, `samples`
  texts that the model wrote.
  """
  lines = job_report.read_lines(job.run_dir)
  speed = job_report.medians(lines, {name: name for name in _SPEEDS})
  paro, state_bytes = trainer.paro.code, trainer.bytes_per_device()
  rows = [
    ('parameters', f'{speeds.num_params:,}'),
    ('PaRO', paro),
    *((k.replace('_', ' '), f'{x:.4g}') for k, x in results.items()),
  ]
  if speed:
    rows += [
      ('tokens/s', f'{speed["tokens_per_s"]:,.0f}'),
      ('tokens/s a device', f'{speed["tokens_per_s_per_device"]:,.0f}'),
      ('MFU', f'{speed["mfu"]:.1%}'),
      ('its peak, a device', f'{speeds.peak_flops / 1e12:.3g} TFLOP/s'),
      ('', speeds.peak_name),
    ]
  show = report.format_bytes
  rows += [(f'{part} on a device', show(x)) for part, x in state_bytes.items()]
  rows += [
    (f'peak memory of the {k}', show(x))
    for k, x in job_report.peak_bytes().items()
  ]
  terminal.show_table('Language model', ('', ''), rows, show_header=False)
  for sample in samples:
    terminal.show('[bold]Sample[/]')
    print(sample)
  (job.run_dir / 'samples.txt').write_text(
    '\n\n----\n\n'.join(samples) + '\n', encoding='utf-8'
  )
  notes = [
    f'MFU counts {speeds.flops_per_token:.4g} FLOP a token (forward and'
    ' backward pass, no recomputation) against a peak of'
    f' {speeds.peak_flops / 1e12:.3g} TFLOP/s a device, {speeds.peak_name}.',
    *(f'Sample: {sample}' for sample in samples),
  ]
  if description['acknowledgement']:
    notes.append(f'Texts: {description["acknowledgement"]}')
  job.report(
    'train-lm',
    {
      'results': dict(results),
      'num_params': speeds.num_params,
      'peak_flops_per_device': speeds.peak_flops,
      'peak_flops_source': speeds.peak_name,
      'state_bytes_per_device': state_bytes,
    },
    config=config,
    trainer=trainer,
    notes=notes,
    title=f'Language model on {description["name"]}',
    summary=(
      f'{speeds.num_params:,} parameters, PaRO {paro}: perplexity'
      f' {results["validation_perplexity"]:.2f} a token on held-out documents.'
    ),
    results=[
      {'scenario': 'held-out documents', 'method': f'PaRO {paro}'}
      | {
        k.removeprefix('validation_').replace('_', ' '): x
        for k, x in results.items()
      }
    ],
    lower_is_better=frozenset({'loss', 'perplexity', 'bits per character'}),
    panels={
      'loss': {'train': 'loss', 'held-out': 'validation_loss'},
      'grad norm': {'train': 'grad_norm'},
      'tokens/s a device': {'train': 'tokens_per_s_per_device'},
    },
    throughput=speed,
  )
