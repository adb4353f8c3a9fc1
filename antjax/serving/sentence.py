# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sentence encoders: a language model and the files of sentence-transformers.

modules.json lists what follows the language model: how the outputs of a text's
tokens become one vector, linear maps, normalization. Prompts, the longest text
and the width to cut to stand in files beside it. What we do not compute is
refused by name. Vectors equal those of the package sentence-transformers
(Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import normalizers

from antjax.lm import hub, pretrained, pretrained_tokenizer
from antjax.lm.positions import token_mask
from antjax.lm.safetensors_file import SafetensorsFolder
from antjax.lm.text_encoder import pool, POOLINGS, TextEncoder
from antjax.lm.token_cache import RowTokenizer
from antjax.lm.transformer import Transformer

PyTree = Any
# Shape suffixes: B = texts, T = tokens of a text, D = width of a vector.

_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  'Tanh': jnp.tanh,
  'Identity': lambda x: x,
  'ReLU': jax.nn.relu,
  'GELU': lambda x: jax.nn.gelu(x, approximate=False),
  'SiLU': jax.nn.silu,
  'Sigmoid': jax.nn.sigmoid,
}
# Fields of sentence_bert_config.json that we read or that change no vector.
_HARMLESS = (
  *('max_seq_length', 'do_lower_case', 'modality_config', 'cache_dir'),
  *('unpad_inputs', 'unpad_text_inputs'),
)
# What others may say, beside nothing.
_PLAIN: tuple[Any, ...] = (None, {}, 'feature-extraction', 'token_embeddings')


def normalized(x_BD: jax.Array) -> jax.Array:
  """Vectors of length 1; zeros stay."""
  norm_B1 = jnp.linalg.norm(x_BD, axis=-1, keepdims=True)
  return x_BD / jnp.maximum(norm_B1, 1e-12)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceConfig:
  """What the files beside a language model say.

  Attributes:
    poolings: Names of `POOLINGS`, whose vectors are joined.
    include_prompt: Whether the prompt's tokens count in them.
    steps: After them, in order: an activation of `_ACTIVATIONS` for each linear
      map, 'Normalize' for a normalization.
    folders: Folder of each linear map's weights.
    model: Folder of the language model.
    max_tokens: Longest text, special tokens included; None: not said.
    lower_case: Whether texts are put in lower case.
    prompts: Name -> what stands before each text.
    prompt_name: Name of the prompt where none is asked for, or None.
    truncate_dim: First numbers of a vector that are kept; None: all.
  """

  poolings: tuple[str, ...]
  include_prompt: bool = True
  steps: tuple[str, ...] = ()
  folders: tuple[pathlib.Path, ...] = ()
  model: pathlib.Path
  max_tokens: int | None = None
  lower_case: bool = False
  prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  prompt_name: str | None = None
  truncate_dim: int | None = None

  def prompt(self, name: str | None) -> str:
    """The prompt of a name; None: the one by default, if any.

    Raises:
      ValueError: The model has no such prompt.
    """
    name = self.prompt_name if name is None else name
    if name is None:
      return ''
    if name not in self.prompts:
      known = ', '.join(self.prompts) or 'none'
      raise ValueError(
        f'prompt_name={name!r}: prompts of the model are {known}; give one of'
        ' these, or the prompt itself.'
      )
    return self.prompts[name] or ''


def read(
  path: str | os.PathLike[str], poolings: Sequence[str] = ()
) -> SentenceConfig:
  """Reads the files of sentence-transformers; no weights.

  Args:
    path: Folder of the model, or hf://org/name. Without a modules.json, or for
      a .gguf file, `poolings` must say how tokens become a vector.
    poolings: Names of `POOLINGS` in place of the files'.

  Raises:
    FileNotFoundError: A file that modules.json names is not there.
    ValueError: A module or option that we do not compute, or no pooling.
  """
  root = hub.local(path, or_name=True)
  _refuse(root, {*poolings} - {*POOLINGS}, POOLINGS)
  modules = _json(root / 'modules.json')
  if not modules:
    if not poolings:
      raise ValueError(
        f'{path} has no modules.json of sentence-transformers, which says how'
        f' tokens become a vector; give the pooling: {", ".join(POOLINGS)}.'
      )
    modules = [{'path': '', 'type': 'sentence_transformers.models.Transformer'}]
  found: dict[str, Any] = {}
  if poolings:
    found['poolings'] = tuple(poolings)
  steps: list[str] = []
  folders: list[pathlib.Path] = []
  for place, module in enumerate(modules):
    folder = root / module['path']
    package, _, kind = module['type'].rpartition('.')
    if not package.startswith('sentence_transformers.') or (
      (kind == 'Transformer') != (place == 0)
    ):
      kind = module['type']
    if kind == 'Transformer':
      found |= {'model': folder, **_transformer(folder)}
    elif kind == 'Pooling' and place == 1:
      found = _pooling(folder / 'config.json') | found
    elif kind in ('Dense', 'Normalize') and place:
      steps.append(_step(kind, folder / 'config.json'))
      folders += [folder] * (kind == 'Dense')
    elif kind != 'Dropout':  # Of training.
      raise ValueError(
        f'{root / "modules.json"}: module {place} is {kind}; known are a'
        ' Transformer, then Pooling, then Dense, Normalize and Dropout of'
        ' sentence_transformers.'
      )
  if 'poolings' not in found:
    raise ValueError(f'{root / "modules.json"} has no Pooling; give one.')
  top = _json(root / 'config_sentence_transformers.json')
  return SentenceConfig(
    **found,
    steps=tuple(steps),
    folders=tuple(folders),
    prompts=top.get('prompts') or {},
    prompt_name=top.get('default_prompt_name'),
    truncate_dim=top.get('truncate_dim'),
  )


def _json(path: pathlib.Path) -> Any:
  """What a file says; {} where it is not there."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (FileNotFoundError, NotADirectoryError):
    return {}
  except ValueError as error:
    raise ValueError(f'{path} is no JSON ({error}).') from error


def _refuse(path: pathlib.Path, unknown: Iterable[str], known: Iterable[str]):
  if wrong := sorted(unknown):
    raise ValueError(
      f'{path}: {", ".join(wrong)} is not supported; known are'
      f' {", ".join(known)}.'
    )


def _transformer(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / 'sentence_bert_config.json'
  fields = _json(path)
  other = {k: v for k, v in fields.items() if k not in _HARMLESS}
  _refuse(path, (k for k, v in other.items() if v not in _PLAIN), _HARMLESS)
  limits = (
    _json(folder / 'tokenizer_config.json').get('model_max_length'),
    _json(folder / 'config.json').get('max_position_embeddings'),
  )
  longest = min((int(n) for n in limits if n), default=None)
  return {
    'max_tokens': fields.get('max_seq_length') or longest,
    'lower_case': bool(fields.get('do_lower_case')),
  }


def _pooling(path: pathlib.Path) -> dict[str, Any]:
  fields = _json(path)
  if not fields:
    raise FileNotFoundError(f'{path} is not there, and modules.json needs it.')
  include_prompt = fields.pop('include_prompt', True)
  modes = fields.pop('pooling_mode', None)
  old = {f'pooling_mode_{old}': name for name, old in POOLINGS.items()}
  if modes is None:
    modes = [name for key, name in old.items() if fields.get(key)] or ['mean']
  modes = [modes] if isinstance(modes, str) else modes
  unknown = {k for k in fields if k.startswith('pooling_mode_')} - {*old}
  unknown = {k for k in unknown if fields[k]} | ({*modes} - {*POOLINGS})
  _refuse(path, unknown, POOLINGS)
  return {'include_prompt': include_prompt, 'poolings': tuple(modes)}


def _step(kind: str, path: pathlib.Path) -> str:
  """The name of a step, see `SentenceConfig.steps`."""
  fields = _json(path)
  known = {*('in_features', 'out_features', 'bias', 'activation_function')}
  plain = (None, False, 'sentence_embedding')
  other = {k: v for k, v in fields.items() if k not in known}
  _refuse(path, (k for k, v in other.items() if v not in plain), known)
  if kind == 'Normalize':
    return kind
  full = fields.get('activation_function', 'torch.nn.Tanh')
  name = full.rpartition('.')[2]
  is_known = full.startswith('torch.nn.') and name in _ACTIVATIONS
  _refuse(path, () if is_known else (full,), _ACTIVATIONS)
  return name


class SentenceEncoder(TextEncoder):
  """Texts -> vectors, on all devices of this process.

  Attributes:
    config: What the model's files say.
    tokenizer: Texts -> tokens; it counts the texts that it cut.
    prompt: Text that stands before each text.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    *,
    poolings: Sequence[str] = (),
    normalize: bool = False,
    prompt_name: str | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    max_tokens: int | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
    **options: Any,
  ):
    """Reads the model and puts it on the devices; compiles nothing yet.

    Args:
      path: See `read`; of all families that `load_pretrained` reads.
      poolings: In place of the model's own.
      normalize: Scale vectors to length 1 even if the model does not.
      prompt_name: Prompt of the model to put before each text; None: its
        default.
      prompt: The prompt itself, '' for none; None: that of `prompt_name`.
      truncate_dim: First numbers of each vector to keep (Kusupati et al. 2022,
        Matryoshka); what was of length 1 is made so again. None: the model's.
      max_tokens: Tokens of a text at most, special ones included. None: the
        model's.
      dtype: Dtype to compute in; vectors are float32.
      **options: See `TextEncoder`.

    Raises:
      FileNotFoundError: A file is not there.
      ValueError: The model has what we do not compute, no such prompt, or fewer
        positions or numbers than asked for.
    """
    self.config = config = read(path, poolings)
    self.prompt = config.prompt(prompt_name) if prompt is None else prompt
    lm, params = pretrained.load_pretrained(config.model, dtype=dtype)
    params.pop('lm_head', None)
    dense = [_dense(folder, dtype) for folder in config.folders]
    steps = config.steps + ('Normalize',) * normalize
    dim = lm.embed_dim * len(config.poolings)
    if dense:
      dim = dense[-1]['bias'].size
    keep = truncate_dim or config.truncate_dim or dim
    if not 0 < keep <= dim:
      raise ValueError(
        f'truncate_dim={keep}: vectors of {path} have {dim} numbers.'
      )
    longest = config.max_tokens or lm.max_positions or 512
    if lm.positions == 'learned':
      longest = min(longest, lm.max_positions)
    longest = max_tokens or longest
    lm.check_length(longest)
    tokenizer = pretrained_tokenizer.load_tokenizer(config.model, lm.vocab_size)
    if config.lower_case:
      old = [tokenizer.normalizer] if tokenizer.normalizer else []
      tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *old]
      )
    skipped = 0
    if self.prompt and not config.include_prompt:
      encoded = tokenizer.encode(self.prompt)
      skipped = len(encoded.ids) - encoded.special_tokens_mask[-1]
    self.tokenizer = RowTokenizer(tokenizer, longest)

    def encode(params, tokens_BT, lengths_B):
      x_BTD = Transformer.of(lm, params['lm']).hidden(tokens_BT, lengths_B)
      mask_BT = token_mask(tokens_BT, lengths_B)
      mask_BT *= (jnp.arange(tokens_BT.shape[1]) >= skipped)[None]
      pooled = [pool(x_BTD, mask_BT, mode) for mode in config.poolings]
      x_BD = jnp.concatenate(pooled, axis=-1)
      layers = iter(params['dense'])
      for step in steps:
        if step == 'Normalize':
          x_BD = normalized(x_BD)
          continue
        layer = next(layers)
        x_BD = x_BD.astype(dtype) @ layer['weight'] + layer['bias'][None]
        x_BD = _ACTIVATIONS[step](x_BD).astype(jnp.float32)
      is_unit = keep < dim and steps[-1:] == ('Normalize',)
      return normalized(x_BD[:, :keep]) if is_unit else x_BD[:, :keep]

    super().__init__(
      encode,
      {'lm': params, 'dense': dense},
      dim=keep,
      max_tokens=longest,
      **options,
    )

  def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, offsets) of texts behind the prompt, for the call."""
    return self.tokenizer([text and self.prompt + text for text in texts])

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [n, dim]; zeros for a text without characters."""
    return self(*self.tokens(texts))


def _dense(folder: pathlib.Path, dtype: Any) -> dict[str, jax.Array]:
  source = SafetensorsFolder(folder)
  weight = source.read('linear.weight').T
  bias = np.zeros(weight.shape[1:], weight.dtype)
  if 'linear.bias' in source.shapes:
    bias = source.read('linear.bias')
  return {
    'weight': jnp.asarray(weight, dtype),
    'bias': jnp.asarray(bias, dtype),
  }
