# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From what `benchmarks.bahe_bench` measured to its lines."""

import statistics
from typing import Any

from benchmarks import bahe_problem, harness

# float32 sums through a deep model, in another order.
_LOSS_RTOL = 1e-4


def seconds_per_example(form: dict[str, Any]) -> float:
  """Medians of a form's calls, over the examples that each is for."""
  return (
    statistics.median(form['gradient']) / form['num_examples']
    + statistics.median(form['update']) / bahe_problem.STEP_EXAMPLES
  )


def line_of(
  case: bahe_problem.Case, found: dict[str, dict[str, Any]]
) -> dict[str, Any]:
  """The figures of a case; see `benchmarks.bahe_bench`.

  Args:
    case: The case.
    found: Form -> what was measured; forms may be missing.
  """
  seconds = {form: seconds_per_example(x) for form, x in found.items()}
  line: dict[str, Any] = {
    'model': case.model,
    'text_length': case.text_length,
    'dtype': case.dtype,
    'num_behaviors': case.num_behaviors,
  }
  for form, x in found.items():
    line[form] = {
      's_per_example': harness.rounded(seconds[form], 4),
      'mb_per_example': round(x['bytes'] / 1e6, 2),
      'peak_mb': round(x['peak_bytes'] / 1e6),
      'micro_batch': x['num_examples'],
      'num_calls': len(x['gradient']),
    }
  long = [form for form in ('full_text', 'peer') if form in found]
  if 'full_text' in found and 'peer' in found:
    ratio = seconds['peer'] / seconds['full_text']
    line['full_text_speed_ratio'] = harness.rounded(ratio)
    ours, theirs = found['full_text']['loss'], found['peer']['loss']
    difference = abs(ours - theirs)
    if case.dtype == 'float32' and difference > _LOSS_RTOL * abs(theirs):
      line['error'] = f'full_text and peer disagree: losses {ours}, {theirs}.'
  if 'bahe' in found and long:
    bahe = found['bahe']
    build_s = bahe_problem.NUM_BEHAVIORS / bahe['behaviors_per_s']
    build_s /= bahe_problem.NUM_EXAMPLES
    slow_s = min(seconds[form] for form in long)
    least, peak = (
      min(found[form][name] for form in long) / bahe[name]
      for name in ('bytes', 'peak_bytes')
    )
    line |= {
      'time_ratio': harness.rounded(slow_s / seconds['bahe']),
      'memory_ratio': harness.rounded(least),
      'peak_ratio': harness.rounded(peak),
      'end_to_end_ratio': harness.rounded(slow_s / (seconds['bahe'] + build_s)),
      'behaviours_per_s': round(bahe['behaviors_per_s']),
    }
    if 'dedup' in found:
      line['dedup_time_ratio'] = harness.rounded(slow_s / seconds['dedup'])
  # Of the fastest products that a form was seen to do.
  peak = max(x.get('peak_flops', 0) for x in found.values())
  line['flops_bound_s'] = {
    form: harness.rounded(x['flops'] / peak, 4)
    for form, x in found.items()
    if 'flops' in x
  }
  line['matmul_gflops'] = round(peak / 1e9)
  return line
