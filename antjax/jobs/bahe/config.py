# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of launch/train_bahe.py."""

import dataclasses
from typing import Annotated, Literal

from antjax import paths
from antjax.ctr.bahe.model import HeadConfig, IdConfig
from antjax.ctr.bahe.store import BehaviorStore
from antjax.ctr.bahe.table import Home
from antjax.ctr.tuning import Tuning
from antjax.data import output_folder
from antjax.jobs.training_config import LanguageConfig
from antjax.lm import pretrained
from antjax.metrics import click_metrics
from antjax.train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
  """Training of a click model on textual behavior."""

  run_dir: str = 'runs/bahe'
  data: Annotated[
    str, 'Folder written by launch/prepare_data.py.', paths.URL
  ] = 'data/ml-1m'
  store: Annotated[
    str, 'Store that launch/build_behavior_store.py made of it.', paths.URL
  ] = 'data/ml-1m-minilm-k3'
  tower: Annotated[
    Literal['store', 'frozen', 'dedup', 'full_text', 'none'],
    'How texts become vectors. store: BAHE. frozen: a store of the whole'
    ' model, of which nothing is trained. dedup: as store, but each batch'
    ' encodes its distinct behaviors. full_text: all tokens through all'
    ' layers. none: ids only.',
  ] = 'store'
  max_behaviors: Annotated[
    tuple[int, ...],
    'Maximum number of behaviors per sequence, the newest ones: one number for'
    ' all sequences, or one per sequence.',
  ] = (32,)
  pooling: Annotated[
    Literal['mean', 'last'],
    'Vector of a sequence: the mean of its outputs, or the last output.',
  ] = 'mean'
  fusion: Annotated[
    Literal['late', 'early'],
    'early appends the title to each sequence; late keeps it separate until'
    ' the head.',
  ] = 'late'
  num_low: Annotated[
    int | None,
    'Number of layers below the cut; must match the store. none: that of the'
    ' store, or 3 for --tower=dedup.',
  ] = None
  max_tokens: Annotated[
    int,
    'Maximum number of tokens: per sequence for full_text, which keeps the'
    ' newest behaviors, and per behavior for dedup.',
  ] = 256
  token_cache: Annotated[
    str,
    'Folder of token ids, for full_text and dedup. Empty: in the data.',
    paths.MAPPED,
  ] = ''
  table: Annotated[
    Home,
    'Location of the behavior vectors: every device, split over devices, host'
    " memory, or the store's files (disk). auto: the first with enough room.",
  ] = 'auto'
  hot_mb: Annotated[
    int, 'For table=disk: MiB of memory for recently used rows.'
  ] = 256
  table_dtype: Annotated[
    Literal['float32', 'float16', 'bfloat16'], 'Dtype of the vectors there.'
  ] = 'float32'
  max_distinct: Annotated[
    int,
    "Maximum distinct behaviors of a device's micro-batch, for dedup and for"
    ' tables that are not on every device. 0: the largest possible number.',
  ] = 0
  user_embeddings: Annotated[
    str, 'Folder user_embeddings of another run: user vectors as features.'
  ] = ''
  export_users: Annotated[
    bool, 'Write the user vectors of all examples at the end.'
  ] = False
  export: Annotated[
    bool, 'Write the folder export at the end, which antjax-serve reads.'
  ] = False
  eval_examples: Annotated[
    int,
    'Number of validation and test examples to score, in evenly spaced runs of'
    ' 64. 0: all.',
  ] = 0
  best_metric: str = 'validation_auc'
  head: HeadConfig = HeadConfig()
  ids: IdConfig = IdConfig()
  optimizer: OptimizerConfig = OptimizerConfig(lm_learning_rate=1e-4)

  def __post_init__(self) -> None:
    super().__post_init__()
    click_metrics.best_mode(self.best_metric)
    if not self.best_metric.startswith('validation_'):
      raise ValueError(
        f'best_metric={self.best_metric}: runs log it as validation_'
        f'{self.best_metric}; give that.'
      )
    others = ('max_distinct', 'eval_examples', 'hot_mb', 'num_low')
    self.check_least({'max_tokens': 1, **dict.fromkeys(others, 0)})
    if not self.max_behaviors or min(self.max_behaviors) < 1:
      raise ValueError(
        f'max_behaviors={self.max_behaviors}: must be at least 1.'
      )
    if self.tower == 'full_text' and (
      self.fusion != 'late' or self.pooling != 'mean'
    ):
      raise ValueError(
        f'tower=full_text takes neither fusion={self.fusion} nor pooling='
        f'{self.pooling}: its vectors are means over the tokens of a text; give'
        ' late and mean.'
      )
    if self.export_users and (self.tower == 'none' or self.fusion == 'early'):
      raise ValueError(
        f'export_users: tower={self.tower} with fusion={self.fusion} has no'
        ' vector of a user alone; use another tower and fusion=late.'
      )
    if self.export and (why := self._not_exported()):
      raise ValueError(f'export: {why}.')
    if self.tower == 'none' and not (self.ids.use or self.user_embeddings):
      raise ValueError(
        'tower=none without ids.use: the model would see nothing.'
      )

  def _not_exported(self) -> str:
    """What cannot be exported; '' for nothing."""
    if self.tower not in ('store', 'frozen', 'none'):
      return f'tower={self.tower} reads tokens; give store, frozen or none'
    if self.user_embeddings:
      return 'user_embeddings are vectors of the examples of the data'
    if self.quantize != 'none':
      return f'quantize={self.quantize} is not exported; give none'
    return ''

  @property
  def effective_tuning(self) -> Tuning:
    """`tuning`, or none where the tower has no layers to train."""
    return 'none' if self.tower in ('frozen', 'none') else self.tuning

  def check_inputs(self) -> None:
    super().check_inputs()
    output_folder.open_view(self.data, 'examples')
    if self.tower in ('store', 'frozen'):
      BehaviorStore.open(self.store)
    if self.tower != 'none':
      pretrained.check_there(self.model)
