# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The console commands of an installed antjax: antjax-train-lm and the others.

Each command is the script of launch/ with the same name. `python -m
antjax.jobs.console train-lm` also runs it. antjax-local-cluster and
antjax-agent accept this form after `--`.
"""

import importlib
import pathlib
import sys

from absl import flags

if __name__ != '__main__':
  flags.disclaim_key_flags()  # They are the command's, and --help shows them.

# Command -> module in antjax.jobs, of commands that use devices.
_JOBS = {
  'train-lm': 'lm.job',
  'train-gmeta': 'gmeta.job',
  'train-bahe': 'bahe.job',
  'train-llm-rec': 'llm_rec.job',
  'train-clicks': 'clicks.job',
  'train-dlrm': 'clicks.dlrm',
  'llm-rec-baselines': 'llm_rec.baselines',
  'plan': 'plan',
  'compile-for-pod': 'compile_for_pod',
  'accelerator-check': 'accelerator_check',
}
# Those that do not: they start without JAX.
_SCRIPTS = {
  'prepare-data': 'prepare_data',
  'prepare-text': 'lm.prepare_text',
  'make-antm2c-synthetic': 'clicks.make_synthetic',
  'make-criteo-synthetic': 'clicks.make_criteo',
  'encode-images': 'clicks.encode_images',
  'build-behavior-store': 'bahe.build_store',
  'fetch-model': 'fetch_model',
  'encode': 'encode',
  'lint-step': 'lint_step',
  'export-gmeta': 'gmeta.export',
  'score-gmeta': 'gmeta.score',
  'score-clicks': 'clicks.score',
  'apply-delta': 'apply_delta',
  'serve': 'serve',
  'recommend': 'llm_rec.recommend',
  'coordinator': 'coordinator',
  'agent': 'agent',
  'local-cluster': 'local_cluster',
}
COMMANDS = _JOBS | _SCRIPTS
_PREFIX = 'antjax-'


def main() -> None:
  """Runs the command that this program is named after, or the one named."""
  name = pathlib.Path(sys.argv[0]).name.removeprefix(_PREFIX)
  if name not in COMMANDS:
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ''
    sys.argv[0] = f'{_PREFIX}{name}'
  if name not in COMMANDS:
    sys.exit(
      f'{name or "no command"}: give one of {", ".join(sorted(COMMANDS))}.'
    )
  module = importlib.import_module(f'antjax.jobs.{COMMANDS[name]}')
  if hasattr(module, 'run'):  # It takes the arguments after `--`.
    module.run()
  elif name in _JOBS:
    from antjax.jobs import job

    job.run(module.main, module.Config())
  else:
    from antjax.jobs import script

    script.run(
      module.main,
      module.Config(),
      getattr(module, 'define_flags', lambda: None),
    )


if __name__ == '__main__':
  main()
