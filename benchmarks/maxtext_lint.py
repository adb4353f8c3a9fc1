# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lints the traffic of MaxText's train step over a slow axis.

  python -m benchmarks.maxtext_lint > results.jsonl

compiles the step of `maxtext.trainers.pre_train` from shapes on eight virtual
CPU devices, with four micro-batches, and prints a JSON line per mode, by
`antjax.plan.lint`. It needs a separate environment: Python 3.12,
requirements.txt, `pip install --no-deps maxtext==0.2.5`, then by name what its
step imports: pydantic, omegaconf, transformers, sentencepiece, tiktoken,
ml-collections, jaxtyping, aqtp, qwix, tokamax, drjax, jinja2, sympy and
pathwaysutils.

Keys of a line:
  sent, least    bytes that a device sends to other groups in a step, and those
                 that would do
  ratio          the first over the second
  findings       leaf: what, times a step, bytes sent, bytes that would do
"""

import importlib
import json
import os
import pathlib

from flax import nnx
from flax.core import spmd
import jax

from antjax.plan.lint import lint
from antjax.plan.lint_report import LintReport

_ALWAYS = (
  'run_name=lint hardware=cpu dataset_type=synthetic enable_checkpointing=false'
  ' skip_jax_distributed_system=true max_target_length=64'
  ' per_device_batch_size=4 gradient_accumulation_steps=4 '
)
_TINY = (
  'base_emb_dim=128 base_num_query_heads=4 base_num_kv_heads=4 head_dim=32'
  ' base_mlp_dim=320 base_num_decoder_layers=2 vocab_size=512 '
)
_ZERO1 = 'shard_optimizer_over_data=true shard_mode=explicit '
_MODES = {
  'fsdp': f'{_TINY}ici_data_parallelism=2 ici_fsdp_parallelism=4',
  'zero1_tensor': f'{_TINY}{_ZERO1}ici_data_parallelism=2'
  ' ici_fsdp_parallelism=1 ici_tensor_parallelism=4',
  'zero1_deepseek3_tiny': f'{_ZERO1}model_name=deepseek3-tiny'
  ' ici_data_parallelism=8 ici_fsdp_parallelism=1',
}


def _report(flags: str) -> LintReport:
  """Lints the step built by `train_compile`."""
  pyconfig, train, train_compile, utils, sharding = (
    importlib.import_module(f'maxtext.{name}')
    for name in (
      *('configs.pyconfig', 'trainers.pre_train.train'),
      *('trainers.pre_train.train_compile', 'utils.maxtext_utils'),
      'utils.sharding',
    )
  )
  base = pathlib.Path(str(pyconfig.__file__)).parent / 'base.yml'
  config = pyconfig.initialize(['', str(base), *(_ALWAYS + flags).split()])
  mesh = utils.get_mesh_from_config(config)
  args, _, shardings, _, model = train_compile.get_shaped_inputs(mesh, config)
  params, shardings = sharding.maybe_update_params_sharding_with_opt(
    config, shardings
  )
  signature = utils.get_functional_train_with_signature(
    train.train_step,
    sharding.get_input_data_sharding(config, mesh),
    sharding.build_zero1_input_state_mesh_shardings(config, shardings, params),
    *(model, config, params),
  )
  step, ins, outs, _, donated = signature
  step = jax.jit(
    step, in_shardings=ins, out_shardings=outs, donate_argnums=donated
  )
  leaves = args[0].model.filter(nnx.Param)
  with jax.set_mesh(mesh), spmd.logical_axis_rules(config.logical_axis_rules):
    return lint(step, *args, mesh=mesh, slow='data', params=leaves)


def main() -> None:
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
  for mode, flags in _MODES.items():
    report = _report(flags)
    line = {
      'mode': mode,
      'sent': report.sent,
      'least': report.least,
      'ratio': round(report.sent / report.least, 2),
      'findings': {
        x.leaf: [x.kind, x.runs, x.sent, x.least] for x in report.findings
      },
    }
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
