# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run was trained with, so that it resumes with the same.

Shapes tell much apart and not all. Vectors of another model, of another cut or
of other texts have the same width, and tables of other data perhaps as many
rows: the model would only become worse.
"""

from collections.abc import Iterable, Mapping
import hashlib
import json
import pathlib
from typing import Any

from antjax import paths
from antjax.report import job_report
from antjax.train import checkpoint

_FILE = 'made_of.json'
_OLD_FILE = 'data.json'  # Written by earlier versions of train_lm.


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
    raise ValueError(
      f'{run_dir} was trained with another {" and ".join(wrong)} than given'
      f' now; use those of the run, or another run folder{advice}.'
    )


def save(run_dir: pathlib.Path, made_of: Mapping[str, Any]) -> None:
  """Writes what `check` reads; on process 0."""
  job_report.write_json(run_dir / _FILE, made_of)
