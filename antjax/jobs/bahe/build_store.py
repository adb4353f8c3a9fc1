# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Encodes all distinct behaviors with the low half of a language model.

  python -m launch.build_behavior_store --vocabulary=data/ml-1m \
      --model=data/minilm --num_low=3 --out=data/ml-1m-minilm-k3

Encodes only texts that are not in the store: a second run adds the texts of a
new day or resumes after a crash. Readers see the previous rows until all new
rows are written.

Several hosts can share the work under one coordinator in two ways. With
--coordinator each process is independent: if one is killed, only its current
rows are encoded again, and the others continue. Or run it under launch/agent.py
like an elastic job. The store must be on a shared disk. See docs/bahe.md.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import os
import socket
import time
from typing import Annotated, Any, Literal, TYPE_CHECKING

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from antjax import config_values, paths
from antjax.ctr.bahe import manifest as manifest_lib
from antjax.ctr.bahe import store
from antjax.ctr.bahe.encode import Encoder
from antjax.ctr.bahe.manifest import Manifest
from antjax.ctr.bahe.store import StoreWriter
from antjax.data import output_folder
from antjax.data.behavior_vocabulary import BehaviorVocabulary
from antjax.jobs import job as job_lib
from antjax.jobs import script
from antjax.jobs.bahe.known_rows import KnownRows
from antjax.lm import fingerprint, pretrained, pretrained_tokenizer
from antjax.lm.token_cache import RowTokenizer
from antjax.report.progress import Progress

if TYPE_CHECKING:
  from antjax.elastic.worker import Agent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to encode with what, and where to."""

  vocabulary: Annotated[
    str,
    'Folder written by launch/prepare_data.py, or that of its vocabulary.',
    paths.URL,
  ] = 'data/ml-1m'
  model: Annotated[
    str,
    'Folder or GGUF file with a model and its tokenizer (see fetch_model), or'
    ' hf://org/name on the Hugging Face Hub.',
    paths.MODEL_URL,
  ] = 'data/minilm'
  out: Annotated[
    str, 'Folder of the store; created, or extended.', paths.LOCKED
  ] = 'data/ml-1m-minilm-k3'
  num_low: Annotated[int, 'Layers below the cut (k). 0: embeddings only.'] = 3
  dtype: Annotated[
    manifest_lib.Dtype,
    'Dtype of the stored vectors. int8 has one fp32 scale per row.',
  ] = 'float16'
  max_tokens: Annotated[
    int, 'Maximum tokens per text, with special ones; the rest is cut.'
  ] = 128
  compute_dtype: Annotated[
    Literal['float32', 'bfloat16'], 'Dtype of the computation.'
  ] = 'float32'
  tokens_per_batch: Annotated[
    int | None,
    'Tokens that a device encodes at once. none: 2,048 on CPU, else 32,768.',
  ] = None
  shard_rows: Annotated[
    int,
    'Number of rows that are encoded, written and (with a coordinator) leased'
    ' as a unit. A killed process loses at most this many.',
  ] = 8192
  known_store: Annotated[
    str,
    'Store of the same model and cut, from which rows of equal texts are'
    ' copied instead of encoded again. Empty: none.',
    paths.MAPPED,
  ] = ''
  known_vocabulary: Annotated[
    str, 'Vocabulary of --known_store.', paths.URL
  ] = ''
  coordinator: Annotated[
    str,
    'Address host:port of a coordinator that divides the work among all'
    ' processes with this flag. Empty: this process does all, unless'
    ' launch/agent.py started it.',
  ] = ''
  job: Annotated[str, 'With --coordinator: name of the job.'] = 'store'
  token_file: Annotated[
    str, "With --coordinator: file with the worker's token. Empty: no token."
  ] = ''
  tls_dir: Annotated[
    str,
    'With --coordinator: folder with ca.pem, cert.pem, key.pem. Empty: no TLS.',
  ] = ''

  def __post_init__(self) -> None:
    for name in ('vocabulary', 'model', 'out'):
      if not getattr(self, name):
        raise ValueError(f'{name} is empty; name a folder.')
    least = {'num_low': 0, 'tokens_per_batch': 1, 'shard_rows': 1}
    config_values.check_least(self, least)
    if bool(self.known_store) != bool(self.known_vocabulary):
      raise ValueError(
        f'known_store={self.known_store!r} and known_vocabulary='
        f'{self.known_vocabulary!r}: give both, or neither.'
      )


def build(
  config: Config,
  agent: 'Agent | None' = None,
  vocabulary: fingerprint.TextRows | None = None,
) -> int:
  """Encodes what the store lacks; returns how many rows this process did.

  With an agent the work is shared out; else this process does all. The texts
  are `config.vocabulary`'s where none are given.

  Raises:
    FileNotFoundError: Vocabulary or model are not there.
    ValueError: The store was made otherwise.
    OSError: The store cannot be written.
  """
  if vocabulary is None:
    vocabulary = _vocabulary(config.vocabulary)
  total = len(vocabulary)
  identity = _identity(config, vocabulary)
  if _is_complete(config, identity, vocabulary):
    print(f'{config.out} has all {total:,} rows already: nothing was done.')
    return 0
  # A wrong flag is refused before it is in the store's manifest.
  encoder, tokenizer = _encoder(config)
  writer = _writer(config, identity, vocabulary, encoder.dim)
  known = None
  if config.known_store:
    known = KnownRows(
      config.known_store, _vocabulary(config.known_vocabulary), writer.manifest
    )

  def rows_of(texts: list[str], show: Callable[[int], None]) -> np.ndarray:
    def encode(texts: list[str]) -> np.ndarray:
      return encoder(*tokenizer(texts), show)

    return encode(texts) if known is None else known.fill(texts, encode)

  began = time.monotonic()
  shards = _shards(config, writer.manifest, total, agent)
  num_done, is_whole = _fill(writer, vocabulary, shards, rows_of)
  if not is_whole:
    return num_done
  if tokenizer.num_cut:
    logging.warning(
      '%d texts were cut to max_tokens=%d.',
      tokenizer.num_cut,
      config.max_tokens,
    )
  if known is not None:
    logging.info(
      '%d rows are those of %s.', known.num_taken, config.known_store
    )
  writer.commit(total)
  took_s = time.monotonic() - began
  size = store.BehaviorStore.open(config.out).stored_bytes
  print(
    f'{config.out}: {total:,} rows of {encoder.dim} {config.dtype},'
    f' {size / 1e6:,.1f} MB; {num_done:,} encoded here in {took_s:.1f} s,'
    f' {num_done / took_s:,.0f} behaviors/s.'
  )
  return num_done


def _identity(
  config: Config, vocabulary: fingerprint.TextRows
) -> dict[str, Any]:
  """What a row depends on, beside its text."""
  return {
    'model': fingerprint.of_model(config.model),
    'tokenizer': fingerprint.of_tokenizer(config.model),
    'num_low': config.num_low,
    'normalizer': vocabulary.normalizer,
    'max_tokens': config.max_tokens,
    'compute_dtype': config.compute_dtype,
  }


def _is_complete(
  config: Config, identity: dict[str, Any], vocabulary: fingerprint.TextRows
) -> bool:
  """Whether the store has all rows; a wrong one is refused."""
  found = store.read_manifest(config.out)
  if found is None:
    return False
  found.check(**identity)
  found.check_vocabulary(vocabulary)
  if found.dtype != config.dtype:
    raise ValueError(
      f'dtype={config.dtype}: the store at {config.out} has {found.dtype};'
      ' give another folder for another dtype.'
    )
  if found.rows:
    store.BehaviorStore.open(config.out)
  return found.rows == len(vocabulary)


def _writer(
  config: Config,
  identity: dict[str, Any],
  vocabulary: fingerprint.TextRows,
  dim: int,
) -> StoreWriter:
  total = len(vocabulary)
  head = min(total, fingerprint.HEAD_ROWS)
  writer = StoreWriter(
    config.out,
    Manifest(
      **identity,
      vocabulary=fingerprint.of_rows(vocabulary, 0, head),
      vocabulary_rows=head,
      dtype=config.dtype,
      dim=dim,
      store='',
    ),
    lambda start, stop: (
      fingerprint.of_rows(vocabulary, start, stop) if stop <= total else 'none'
    ),
  )
  writer.manifest.check_vocabulary(vocabulary)
  return writer


def _fill(
  writer: StoreWriter,
  vocabulary: fingerprint.TextRows,
  shards: Iterator[tuple[int, int]],
  rows_of: Callable[[list[str], Callable[[int], None]], np.ndarray],
) -> tuple[int, bool]:
  """Writes rows that are missing, shard by shard.

  Returns:
    Number of rows that this process wrote, and whether it was not told to stop.
  """
  total, num_done = len(vocabulary), 0
  left = _num_rows(writer.missing(0, total))
  with Progress(
    total, start_step=total - left, name='encode', unit='behaviors'
  ) as progress:
    for shard in shards:
      # What others have done since, or a killed run has.
      left = _num_rows(writer.missing(0, total))
      progress.advance_to(total - left)
      for start, stop in writer.missing(*shard):
        show = functools.partial(progress.advance_to, start=total - left)
        writer.write(start, rows_of(vocabulary.texts(start, stop), show))
        num_done += stop - start
        left -= stop - start
        progress.advance_to(total - left)  # Those without tokens too.
      if script.stop_request():
        return num_done, False
  return num_done, True


def _vocabulary(folder: str) -> BehaviorVocabulary:
  """The vocabulary in a data folder, or the folder itself."""
  found = output_folder.find_view(folder, 'examples') / 'behaviors'
  return BehaviorVocabulary.open(found if found.is_dir() else folder)


def _encoder(config: Config) -> tuple[Encoder, RowTokenizer]:
  # The high half goes when this returns.
  lm = pretrained.load(config.model, dtype=jnp.dtype(config.compute_dtype))
  tokenizer = RowTokenizer(
    pretrained_tokenizer.load_tokenizer(config.model, lm.config.vocab_size),
    config.max_tokens,
  )
  encoder = Encoder(
    lm,
    num_low=config.num_low,
    max_tokens=config.max_tokens,
    tokens_per_batch=config.tokens_per_batch,
  )
  return encoder, tokenizer


def _num_rows(parts: list[tuple[int, int]]) -> int:
  return sum(stop - start for start, stop in parts)


def _shards(
  config: Config, manifest: Manifest, total: int, agent: 'Agent | None'
) -> Iterator[tuple[int, int]]:
  """Ranges of rows to look at."""
  first = manifest.rows
  if agent is None:
    for start in range(first, total, config.shard_rows):
      yield start, min(start + config.shard_rows, total)
    return
  # Another build, or one of other rows, is other work.
  name = f'{manifest.store}-{first}-{total}'
  for shard in agent.work(
    total - first, name=name, shard_size=config.shard_rows
  ):
    yield first + shard.start, first + shard.stop


def _agent(config: Config) -> 'Agent | None':
  if not config.coordinator:
    return job_lib.agent_from_environment()
  from antjax.elastic import security, worker  # Others need no grpc.

  file = config.token_file
  return worker.Agent(
    config.coordinator,
    job=config.job,
    worker=f'{socket.gethostname()}-{os.getpid()}',
    token=security.read_token(file, 'worker') if file else '',
    tls_dir=config.tls_dir,
  )


def main(config: Config) -> None:
  script.stop_request.install()
  agent = _agent(config)
  with script.stop_request.deferred(), agent or contextlib.nullcontext():
    if agent is not None:
      agent.describe(
        device_kind=jax.devices()[0].device_kind,
        num_devices=jax.local_device_count(),
      )
    build(config, agent)
