# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of a run's inputs, so that it resumes with the same ones.

Shapes do not identify inputs. Vectors of another model, another cut or other
texts have the same width, and tables of other data may have as many rows. The
model would silently become worse.
"""

from collections.abc import Collection, Iterable, Mapping
import functools
import hashlib
import json
import pathlib
import re
from typing import Any

from absl import logging

from antjax import config as config_lib
from antjax import paths
from antjax.report import job_report
from antjax.train import checkpoint

_MAX_TOLD = 40  # Characters.
_FILE = 'made_of.json'
_OLD_FILE = 'data.json'  # Written by earlier versions of train_lm.
# Settings of how long, how fast, where and at which rates a run trains, and of
# what is made of it. `made_of` tells whether data and models at paths differ.
_MAY_CHANGE = re.compile(
  r'(num|joint|per_task|eval)_(steps|epochs)|(checkpoint|evaluate)_every'
  r'|steps_per_call'
  r'|patience|best_metric|intra|paro|links|collectives|min_shard_size'
  r'|num_micro_batches|shard_size|compute_dtype|(.*\.)?remat|peak_tflops'
  r'|model\.(layers_per_step|attention)|device_gib|regather|check_memory'
  r'|overlap|early_sums|late_params|sums_dtype'
  r'|token_cache|data|init_from|model|store|table|table_dtype|max_distinct'
  r'|num_(chunks|shapes)|(user|text|image)_(embeddings|vectors)'
  r'|eval_(examples|batch_size)|validation_tasks|num_resamples|prompts'
  r'|sample_tokens|export|export_users|published_marks|baselines|sweep'
  r'|with_hybrid|(optimizer|sampling|score|held_out|hybrid|swept)\..*'
  r'|(ids|fields)\.(learning_rate|level|home)|model\.table_(learning_rate|level)'
)


def of_data(description: Mapping[str, Any]) -> str:
  """Fingerprint of a data folder: of what it was made with, and its counts."""
  told = [description.get(name) for name in ('config', 'counts', 'splits')]
  text = json.dumps(told, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def check(
  run_dir: pathlib.Path,
  made_of: Mapping[str, Any],
  *,
  models: Iterable[str] = ('.',),
  is_part: bool = False,
  advice: str = '',
) -> None:
  """Refuses to resume with inputs other than those of the run so far.

  `made_of` is JSON-able, by the names that messages use. With `is_part` what it
  does not name may be anything. `models` are folders of the run that may hold
  checkpoints. `advice` follows "another run folder" in the message.

  Raises:
    ValueError: Something differs, or the run does not say what it was made of.
  """
  path = run_dir / _FILE
  if not path.exists() and (run_dir / _OLD_FILE).exists():
    path = run_dir / _OLD_FILE
  if not path.exists():
    folders = (run_dir / model / paths.CHECKPOINTS for model in models)
    # A run says it before its first step ends.
    if any(checkpoint.latest_step(folder) for folder in folders):
      raise ValueError(
        f'{run_dir} has checkpoints and no {_FILE}, so nobody can tell which'
        f' {" and ".join(made_of)} it was trained with; use another run folder,'
        ' or put the file back.'
      )
    return
  there = json.loads(path.read_text(encoding='utf-8'))
  names = made_of if is_part else {**there, **made_of}
  wrong = [name for name in names if there.get(name) != made_of.get(name)]
  if wrong:
    both = {name: (there.get(name), made_of.get(name)) for name in wrong}
    # Names of models say something, fingerprints and nested settings nothing.
    told = ', '.join(
      f'{name}: {was}, now {now}'
      for name, (was, now) in both.items()
      if all(isinstance(x, str) and len(x) <= _MAX_TOLD for x in (was, now))
    )
    raise ValueError(
      f'{run_dir} was trained with another {" and ".join(wrong)} than given'
      f' now{told and f" ({told})"}; use those of the run, or another run'
      f' folder{advice}.'
    )


def check_settings(
  run_dir: pathlib.Path, config: Any, step: int, free: Collection[str] = ()
) -> None:
  """Compares the settings with those of the run so far, by its config.json.

  `free` are fields that have nothing to do with this run, which resumes from a
  step.

  Raises:
    ValueError: Settings that decide what is trained differ; names each.
  """
  path = run_dir / config_lib.FILE_NAME
  if not path.exists():
    return
  saved = json.loads(path.read_text(encoding='utf-8'))['config']
  changed: dict[str, list[str]] = {'may': [], 'must not': []}
  for name, now in config_lib.values_of(config).items():
    try:
      was = functools.reduce(lambda one, key: one[key], name.split('.'), saved)
    except (KeyError, TypeError):  # Of another version, which had no such name.
      continue
    if was != now and name not in ('run_dir', *free):
      kind = 'may' if _MAY_CHANGE.fullmatch(name) else 'must not'
      changed[kind].append(f'{name} was {was} and is {now}')
  if changed['must not']:
    raise ValueError(
      f'{run_dir} was trained with other settings than given now:'
      f' {", ".join(changed["must not"])}. Give those of the run'
      f' (--config={path}), or another run_dir.'
    )
  if changed['may']:
    logging.warning(
      '%s resumes from step %d with other settings than before: %s.',
      *(run_dir, step, ', '.join(changed['may'])),
    )


def save(run_dir: pathlib.Path, made_of: Mapping[str, Any]) -> None:
  """Writes what `check` reads; on process 0."""
  job_report.write_json(run_dir / _FILE, made_of)
