# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The worker of `benchmarks.straggler_bench`: trains a small LM on real text.

Started by launch/agent.py on each virtual host. Sequences come by leases from
the coordinator, all of them as often as asked. Rank 0 prints when each step
ended (`STEP`) and what it cost; all append what they used to
`records.<name>.txt`.
"""

import json
import pathlib
import sys
import time
from typing import Any

import grain
import jax
import optax

from antjax.jobs import job as job_lib
from antjax.lm import tokenizer as tokenizer_lib
from antjax.lm import transformer
from antjax.mesh.mesh import make_mesh
from antjax.shards import position
from antjax.train.trainer import Trainer
from benchmarks import text_job

MARK = 'STEP '


class _Log(grain.transforms.Map):
  """Notes the keys of the records that were used, and hides them."""

  def __init__(self, path: pathlib.Path):
    self._file = path.open('a', buffering=1)

  def map(self, batch: dict[str, Any]) -> dict[str, Any]:
    keys = batch['record_key']
    self._file.write(' '.join(map(str, keys.tolist())) + '\n')
    return {k: v for k, v in batch.items() if k != 'record_key'}


def main() -> None:
  job = text_job.Job(**json.loads(sys.argv[1]))
  job_lib.initialize_distributed()
  agent = job_lib.agent_from_environment()
  assert agent is not None, 'start it by launch/agent.py'
  config = transformer.Config(
    vocab_size=tokenizer_lib.load(
      pathlib.Path(job.data) / tokenizer_lib.FILE_NAME
    ).vocab_size,
    embed_dim=job.dim,
    mlp_dim=4 * job.dim,
    num_layers=job.num_layers,
    remat='none',
  )
  trainer = Trainer(
    lambda params, batch, rng: transformer.loss(config, params, batch),
    optax.adamw(1e-3),
    mesh=make_mesh(intra=jax.local_device_count()),
    paro=job.paro,
    num_micro_batches=job.num_micro_batches,
  )
  state = trainer.init(lambda key: transformer.init(config, key))
  out = pathlib.Path(job.out)
  with agent:
    agent.describe(
      device_kind=jax.devices()[0].device_kind,
      num_devices=jax.local_device_count(),
    )
    batches = (
      agent.dataset(
        text_job.open_source(job),
        shard_size=job.shard_size,
        num_epochs=job.num_epochs,
        key_field='record_key',
      )
      .batch(job.rows)
      .map(_Log(out / f'records.{agent.worker}.txt'))
    )

    def on_step(step: int, values: dict[str, float]) -> None:
      if jax.process_index() == 0:
        line = {'step': step, 'now': time.time(), 'loss': values.get('loss')}
        print(MARK + json.dumps(line), flush=True)

    trainer.fit(
      state,
      batches,
      10**9,
      checkpoint_dir=str(out / 'checkpoints') if job.checkpoint_every else None,
      checkpoint_every=job.checkpoint_every or 10**9,
      merge_input_states=position.merge_states,
      on_step=on_step,
      elastic=agent,
    )


if __name__ == '__main__':
  main()
