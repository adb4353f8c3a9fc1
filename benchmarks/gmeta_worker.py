# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One host of `benchmarks.gmeta_bench`: times steps; host 0 prints JSON.

gmeta_worker <JSON of {"cases": [fields of a Case ...], "rounds": n}>

See `benchmarks.host_steps`. The clock sees steps from the ids in memory on.
"""

import dataclasses
import json
import sys

import jax
import numpy as np

from antjax.jobs import job as job_lib
from benchmarks import gmeta_problem, host_steps


def _make_step(case: gmeta_problem.Case) -> host_steps.Step:
  """A case's step, compiled."""
  mesh, places = host_steps.mesh_of(case.num_hosts)
  trainer, state = gmeta_problem.make_trainer(case, mesh)
  parts = [case.batch(place) for place in places]
  batch = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  step = trainer.compiled_step()
  if case.variant == 'no_donation':
    step = jax.jit(step.__wrapped__)
  return host_steps.Step(
    str(case),
    case.num_hosts,
    mesh,
    step,
    state,
    lambda: trainer.step_inputs(batch),
  )


def main(text: str) -> None:
  job_lib.initialize_distributed()
  order = json.loads(text)
  cases = [
    gmeta_problem.Case(**fields | {'widths': tuple(fields['widths'])})
    for fields in order['cases']
  ]
  steps = [_make_step(case) for case in cases]
  found = host_steps.take_turns(steps, order['rounds'], num_warm_ups=2)
  host_steps.report(
    cases=[
      result | dataclasses.asdict(case)
      for case, result in zip(cases, found, strict=True)
    ]
  )


if __name__ == '__main__':
  main(sys.argv[1])
