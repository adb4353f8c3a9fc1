# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of launch/train_llm_rec.py and launch/llm_rec_baselines.py."""

import dataclasses
from typing import Annotated, Literal

from antjax import config_values, paths
from antjax.ctr.llm_rec import hybrid
from antjax.ctr.llm_rec.encoders import GRU4RecConfig, SASRecConfig
from antjax.ctr.llm_rec.late import UserConfig
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.model import VectorConfig
from antjax.ctr.tuning import Tuning
from antjax.data.sequence_data import SequenceData
from antjax.jobs.job import JobConfig
from antjax.jobs.training_config import FitConfig, LanguageConfig
from antjax.lm import pretrained
from antjax.mesh.paro import PaRO
from antjax.metrics import rank_metrics
from antjax.train.optimizer import OptimizerConfig

# Seconds each, without a language model.
CHEAP = (
  *('popularity', 'bm25', 'bm25_recency', 'bm25_new', 'item_knn'),
  *('item_knn_text', 'ease', 'hybrid'),
)
METHODS = (
  *(*CHEAP, 'last_title', 'mean_titles', 'one_text', 'hybrid_lm'),
  *('sasrec', 'gru4rec', 'sasrec_single', 'gru4rec_single', 'sasrec_text'),
  *('unisrec', 'unisrec_ids'),
)
Start = Literal['pretrained', 'random']
# NDCG@10 among drawn items.
BEST_METRIC = 'validation_ndcg@10'


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
  """What is ranked, and against what."""

  num_examples: Annotated[
    int, 'Number of examples of a split, sampled by seed. 0: all.'
  ] = 0
  num_cold: Annotated[
    int,
    'Number of additional examples whose target training never saw, because'
    ' few of the others have such a target. 0: none.',
  ] = 0
  num_negatives: Annotated[
    int, "Items of the target's domain to rank the target against."
  ] = 1000
  exclude_seen: Annotated[
    bool,
    'Exclude the target and items of the history from the negatives. The'
    ' official code of LLM-Rec does not.',
  ] = True
  seed: Annotated[int, 'Seed of the samples, the same for every model.'] = 0

  def __post_init__(self) -> None:
    at_least = {'num_examples': 0, 'num_cold': 0, 'num_negatives': 1}
    config_values.check_least(self, at_least, 'held_out.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class HybridConfig:
  """The hybrid of texts, item-kNN and popularity, see ctr/llm_rec/hybrid.py."""

  parts: Annotated[tuple[str, ...], 'Parts of the hybrid score.'] = hybrid.PARTS
  whiten: Annotated[bool, "Whiten the part `vectors`' text vectors."] = False
  num_examples: Annotated[
    int, 'Number of validation examples that the hybrid is fitted to. 0: all.'
  ] = 5000
  num_negatives: Annotated[
    int, "Items sampled from each target's domain, plus a quarter more of any."
  ] = 200
  new_share: Annotated[
    float, 'Share of the sampled items that stand in for items without events.'
  ] = 0.1
  loss_of_ndcg: Annotated[
    float,
    'Share of NDCG@10 over all validation examples that may be lost to rank'
    ' items without events higher.',
  ] = 0.02
  ridge: Annotated[float, "L2 penalty of the hybrid's weights."] = 1e-4
  seed: Annotated[int, 'Seed of the samples.'] = 0

  def __post_init__(self) -> None:
    wrong = sorted({*self.parts} - {*hybrid.PARTS})
    if wrong or not self.parts:
      raise ValueError(
        f'hybrid.parts={self.parts}: {wrong or "none"} cannot be used; there'
        f' are {", ".join(hybrid.PARTS)}.'
      )
    at_least = {'num_examples': 0, 'num_negatives': 1, 'ridge': 0}
    config_values.check_least(self, at_least, 'hybrid.')
    if not (0 <= self.new_share < 1 and 0 <= self.loss_of_ndcg < 1):
      raise ValueError(
        f'hybrid.new_share={self.new_share} and hybrid.loss_of_ndcg='
        f'{self.loss_of_ndcg} must be at least 0 and below 1.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequencesConfig(JobConfig):
  """What is learned from, and what is ranked."""

  data: Annotated[
    str, 'Folder written by launch/prepare_data.py.', paths.URL
  ] = 'data/ml-1m'
  split: Annotated[
    Literal['last', 'source'],
    'last: the last event of each user is the test target. source: the split'
    ' of users in the data.',
  ] = 'last'
  without_domain: Annotated[
    str, 'Domain to exclude from training, for zero-shot scores. Empty: none.'
  ] = ''
  train_users: Annotated[
    int, 'Users to train on, sampled once for all seeds. 0: all.'
  ] = 0
  train_users_seed: Annotated[int, 'Seed of that sample.'] = 0
  max_history: Annotated[int, "Newest items in a user's text."] = 10
  validation_examples: Annotated[
    int, 'Number of validation examples, sampled by seed. 0: all.'
  ] = 1000
  held_out: HeldOutConfig = HeldOutConfig()
  hybrid: HybridConfig = HybridConfig()

  def __post_init__(self) -> None:
    super().__post_init__()
    self.check_least(
      {'max_history': 1, 'train_users': 0, 'validation_examples': 0}
    )

  def check_inputs(self) -> None:
    super().check_inputs()
    SequenceData.open(self.data, split=self.split)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
  """What --sweep compares: all combinations."""

  models: Annotated[
    tuple[str, ...], 'Language models to compare. Empty: that of --model.'
  ] = ()
  starts: Annotated[
    tuple[Start, ...], 'Initial weights to compare. random: architecture only.'
  ] = ('pretrained', 'random')
  tunings: Annotated[
    tuple[Tuning, ...], 'What to train. none: a linear projection only.'
  ] = ('full', 'lora', 'none')
  histories: Annotated[
    tuple[int, ...], "Maximum numbers of items in a user's text to compare."
  ] = (1, 10)
  projection_dim: Annotated[
    int, 'Width of the linear projection if nothing else is trained.'
  ] = 256

  def __post_init__(self) -> None:
    if min((*self.histories, self.projection_dim)) < 1:
      raise ValueError(
        f'swept.histories={self.histories} and swept.projection_dim='
        f'{self.projection_dim} must be at least 1.'
      )
    if not (self.starts and self.tunings and self.histories):
      raise ValueError(
        'swept.starts, swept.tunings and swept.histories must not be empty.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextItemConfig(FitConfig):
  """Training of a model of items."""

  num_steps: Annotated[int, 'Maximum number of optimizer steps.'] = 4000
  batch_size: Annotated[int, 'Sequences per step, over all devices.'] = 128
  num_negatives: Annotated[
    int, 'Items sampled per sequence; those of a device share them.'
  ] = 8
  learning_rate: Annotated[float, 'Learning rate of the layers (Adam).'] = 2e-3
  row_learning_rate: Annotated[
    float, 'Learning rate of item embeddings (Adam).'
  ] = 2e-2
  num_experts: Annotated[
    int, 'For unisrec: experts that whiten text vectors, with a gate.'
  ] = 8
  evaluate_every: Annotated[int, 'Number of steps between validations.'] = 500
  patience: Annotated[
    int,
    'Number of validations without improvement after which training stops and'
    ' the best checkpoint is used. 0: train all steps and use the last.',
  ] = 3
  checkpoint_every: int = 1000

  def __post_init__(self) -> None:
    positive = 'num_steps batch_size num_negatives num_experts evaluate_every'
    positive += ' checkpoint_every steps_per_call'
    at_least = {**dict.fromkeys(positive.split(), 1), 'patience': 0}
    config_values.check_least(self, at_least, 'training.')
    rates = self.learning_rate, self.row_learning_rate
    if not min(rates) > 0:
      raise ValueError(
        f'training.learning_rate={rates[0]} and training.row_learning_rate='
        f'{rates[1]} must be positive.'
      )

  @property
  def best_metric(self) -> str:
    """What better means."""
    return BEST_METRIC


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselinesConfig(SequencesConfig):
  """Which methods, on which examples."""

  run_dir: str = 'runs/llm_rec_baselines'
  methods: Annotated[tuple[str, ...], 'Methods, in this order.'] = METHODS
  model: Annotated[
    str,
    'Language model of the texts: Hugging Face folder or GGUF file, or'
    ' hf://org/name on the Hugging Face Hub.',
    paths.MODEL_URL,
  ] = 'data/minilm'
  max_text_tokens: Annotated[
    int, 'Maximum number of tokens per text; the newest are kept.'
  ] = 256
  text_cache: Annotated[
    str,
    'Folder that caches title vectors, for runs with the same data and model.'
    ' Empty: the run folder.',
  ] = ''
  paro: Annotated[
    str, 'PaRO code: levels of parameters, gradients and optimizer state.'
  ] = 'NNN'
  seed: Annotated[int, 'Seed of parameters and shuffles.'] = 0
  training: NextItemConfig = NextItemConfig()
  sasrec: SASRecConfig = SASRecConfig()
  gru4rec: GRU4RecConfig = GRU4RecConfig()

  def __post_init__(self) -> None:
    super().__post_init__()
    PaRO.from_code(self.paro)
    wrong = sorted({*self.methods} - {*METHODS})
    if wrong or not self.methods:
      raise ValueError(
        f'methods={self.methods}: {wrong or "none"} cannot be run; use'
        f' {", ".join(METHODS)}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig, SequencesConfig):
  """Training of a language model as a recommender."""

  run_dir: str = 'runs/llm_rec'
  only_domain: Annotated[
    str, 'Train only on events of this domain. Empty: all domains.'
  ] = ''
  start: Annotated[
    Literal['pretrained', 'random'],
    'Initial weights. random: only the architecture of the model.',
  ] = 'pretrained'
  store: Annotated[
    str,
    'Folder of a store of title vectors, created if missing. A user is then'
    ' the sequence of their stored titles, and one pass of the layers above'
    ' the cut covers their history; batch_size counts such histories.',
    paths.LOCKED,
  ] = ''
  num_low: Annotated[
    int | None,
    'With --store: number of frozen layers below the cut. none: that of the'
    ' store, or all layers for a new store.',
  ] = None
  stage1_steps: Annotated[
    int, 'With --store: first steps in which a title alone predicts the next.'
  ] = 0
  published_marks: Annotated[
    bool, 'For OPT: omit the token that its texts begin with, as in the paper.'
  ] = False
  max_title_tokens: Annotated[int, 'Maximum number of tokens per title.'] = 40
  max_tokens: Annotated[
    int, "Maximum tokens of a user's text; the newest titles are kept."
  ] = 402
  max_seen: Annotated[
    int, 'Newest items of a user that are no negatives (exclude=seen).'
  ] = 100
  token_cache: Annotated[
    str,
    'Folder of the token ids of titles. Empty: tokens in the data folder.',
    paths.MAPPED,
  ] = ''
  lora_rank: int = 16
  num_chunks: Annotated[
    int,
    'Chunks in which the texts of a micro-batch are encoded (gradient'
    ' caching): less memory, with the negatives of all chunks.',
  ] = 1
  num_shapes: Annotated[
    int, 'Shapes of packed texts, each compiled once; 1 for several processes.'
  ] = 3
  batch_size: int = 96
  best_metric: str = 'validation_ndcg@10'
  export: Annotated[bool, 'Export the model for launch/recommend.py.'] = True
  baselines: Annotated[
    tuple[str, ...],
    'Methods of launch/llm_rec_baselines.py to run as well, or all. The'
    ' default takes seconds. Empty: none.',
  ] = CHEAP
  with_hybrid: Annotated[
    bool, 'Also fit a hybrid that contains the trained model as its part lm.'
  ] = True
  sweep: Annotated[
    bool, 'Compare settings in separate runs instead of training one model.'
  ] = False
  loss: LossConfig = LossConfig()
  vector: VectorConfig = VectorConfig()
  user: UserConfig = UserConfig()
  optimizer: OptimizerConfig = OptimizerConfig(
    lm_learning_rate=5e-5, weight_decay=1e-3
  )
  swept: SweepConfig = SweepConfig()

  def __post_init__(self) -> None:
    super().__post_init__()
    known = [f'validation_{name}' for name in rank_metrics.metric_names()]
    if self.best_metric not in known:
      raise ValueError(
        f'best_metric={self.best_metric}: use one of {", ".join(known)}.'
      )
    counts = 'max_title_tokens max_tokens max_seen num_chunks num_shapes'
    self.check_least({'stage1_steps': 0, **dict.fromkeys(counts.split(), 1)})
    if self.only_domain and self.only_domain == self.without_domain:
      raise ValueError(
        f'only_domain and without_domain are both {self.only_domain}: nothing'
        ' is left to train on.'
      )
    if self.tuning == 'none' and not (
      self.vector.has_head or self.loss.learn_temperature
    ):
      raise ValueError(
        'tuning=none: nothing would be trained; set vector.projection_dim or'
        ' vector.word_dim, or run launch/llm_rec_baselines.py for untrained'
        ' models.'
      )
    self._check_store()
    wrong = sorted({*self.baselines} - {*METHODS, 'all'})
    if wrong:
      raise ValueError(
        f'baselines={self.baselines}: {", ".join(wrong)} unknown; use all, or'
        f' some of {", ".join(METHODS)}.'
      )

  def check_inputs(self) -> None:
    super().check_inputs()
    pretrained.check_there(self.model)

  def _check_store(self) -> None:
    """Refuses settings that a store cannot serve."""
    if not self.store:
      if self.num_low is not None or self.stage1_steps or self.user.is_late:
        raise ValueError(
          f'num_low={self.num_low}, stage1_steps={self.stage1_steps} and'
          f' user.interaction={self.user.interaction} are of a store: give'
          ' --store.'
        )
      return
    problems = {
      'loss.negatives=own: users of a row share their negatives; use shared or'
      ' in_batch': self.loss.negatives == 'own',
      'vector.pooling=first: the first place knows one title; use mean or'
      ' last': self.vector.pooling == 'first',
      'num_chunks: a title is one place, there is nothing to cut': (
        self.num_chunks > 1
      ),
      'quantize: frozen layers are in the store': self.quantize != 'none',
      'adapter: it was trained on tokens, not on titles': bool(self.adapter),
      'start=random: a store keeps what pretrained layers make of titles': (
        self.start == 'random'
      ),
    }
    wrong = [text for text, is_so in problems.items() if is_so]
    if wrong:
      raise ValueError(f'store={self.store}: {"; ".join(wrong)}.')
