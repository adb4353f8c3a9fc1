# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of a transformer."""

import dataclasses
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Architecture and computation of the model. Defaults are Llama's."""

  vocab_size: Annotated[int, 'Vocabulary size. 0: that of the tokenizer.']
  num_layers: Annotated[int, 'Number of transformer layers.'] = 4
  embed_dim: Annotated[int, 'Width of the residual stream.'] = 256
  num_heads: Annotated[int, 'Number of query heads.'] = 4
  num_kv_heads: Annotated[
    int, 'Key/value heads; divides num_heads. Fewer make a smaller cache.'
  ] = 2
  mlp_dim: Annotated[int, 'Inner width of the MLP.'] = 704
  head_dim: Annotated[
    int | None, 'Width of a head. none: embed_dim / num_heads.'
  ] = None
  causal: Annotated[
    bool, 'Causal attention; otherwise every token attends to all tokens.'
  ] = True
  positions: Annotated[
    Literal['rope', 'learned', 'relative', 'none'],
    'Position encoding: rotary (rope), a learned embedding added to the'
    ' tokens, relative biases of the scores (T5), or none.',
  ] = 'rope'
  pattern: Annotated[
    str,
    'One letter per layer, repeated to the last layer. g: global attention. w:'
    ' a sliding window. n: global attention without rotation.',
  ] = 'g'
  window: Annotated[int, 'Window of letter w, in tokens.'] = 0
  rope_theta: Annotated[float, 'Base of the rotary wavelengths.'] = 10_000.0
  rope_local_theta: Annotated[
    float, 'Unscaled base of letter w. 0: the same as other layers.'
  ] = 0.0
  rope_scaling: Annotated[
    str, 'JSON of rope_scaling from config.json, with max_position_embeddings.'
  ] = ''
  rope_fraction: Annotated[float, 'Share of each head that is rotated.'] = 1.0
  max_positions: Annotated[int, 'Number of learned positions.'] = 0
  position_offset: Annotated[
    int, 'Number of rows before the first learned position.'
  ] = 0
  relative_buckets: Annotated[int, 'Distance buckets, for relative.'] = 32
  relative_max_distance: Annotated[
    int, 'For relative: distance from which all are in one bucket.'
  ] = 128
  also_relative: Annotated[bool, 'Also use relative (MPNet).'] = False
  token_types: Annotated[
    int, 'Number of token types with an embedding (BERT: 2). 0: none.'
  ] = 0
  norm: Annotated[Literal['rms', 'layer'], 'RMSNorm, or LayerNorm.'] = 'rms'
  norm_place: Annotated[
    Literal['pre', 'post', 'both', 'branch'],
    'Norms before attention and MLP, after each residual sum, before and after'
    ' attention and MLP, or only after them. All but post have a final norm.',
  ] = 'pre'
  norm_bias: Annotated[bool, 'LayerNorms have a bias.'] = True
  norm_plus_one: Annotated[bool, 'Norms multiply by 1 + weight.'] = False
  first_norm: Annotated[bool, 'Apply a norm before the first attention.'] = True
  qk_norm: Annotated[
    Literal['none', 'head', 'width'],
    'Norms of queries and keys: per head, or over all heads together.',
  ] = 'none'
  norm_eps: Annotated[float, 'Added to the mean square in a norm.'] = 1e-5
  embed_norm: Annotated[bool, 'Apply a norm to the embeddings.'] = False
  embed_scale: Annotated[float, 'Scale of the embeddings.'] = 1.0
  residual_scale: Annotated[float, "Scale of a layer's output."] = 1.0
  attention_scale: Annotated[
    float | None, 'Scale of the attention scores. none: 1 / sqrt(head width).'
  ] = None
  score_cap: Annotated[float, 'Scores s become cap * tanh(s / cap). 0: s.'] = (
    0.0
  )
  logit_cap: Annotated[float, 'The same for logits. 0: no cap.'] = 0.0
  logit_divisor: Annotated[float, 'Divisor of the logits.'] = 1.0
  qkv_bias: Annotated[bool, 'Queries, keys and values have biases.'] = False
  out_bias: Annotated[bool, 'Bias of the attention output.'] = False
  mlp_bias: Annotated[bool, 'The MLP has biases.'] = False
  gated_mlp: Annotated[
    bool, 'Multiply the activations of the MLP by a second projection (GLU).'
  ] = True
  activation: Annotated[
    Literal['silu', 'gelu', 'gelu_tanh', 'relu'], 'Activation of the MLP.'
  ] = 'silu'
  num_experts: Annotated[
    int, 'Number of expert MLPs of width mlp_dim. 0: a single MLP.'
  ] = 0
  experts_per_token: Annotated[int, 'Number of experts per token.'] = 1
  normalize_experts: Annotated[bool, 'Expert weights of a token sum to 1.'] = (
    True
  )
  tie_embeddings: Annotated[
    bool, 'Share the embedding with the output layer.'
  ] = True
  lora_scale: Annotated[
    float, 'Scale of LoRA adapters, if the layers have them: alpha / rank.'
  ] = 1.0
  remat: Annotated[
    Literal['none', 'layer', 'dots'],
    'What the backward pass recomputes: nothing, each layer, or each layer'
    ' except its matrix products (dots).',
  ] = 'layer'
  layers_per_step: Annotated[
    int,
    'Layers per iteration of the layer loop; divides num_layers. With 2, one'
    ' layer is gathered while another computes, and both are in memory. On one'
    ' CPU without remat, num_layers saves the copies of the loop.',
  ] = 1
  attention: Annotated[
    Literal['auto', 'plain', 'blocked', 'cudnn', 'splash'],
    'Attention implementation; see antjax/lm/attention.py.',
  ] = 'auto'

  def __post_init__(self) -> None:
    sizes = 'num_layers embed_dim num_heads num_kv_heads mlp_dim'
    for name in sizes.split():
      if getattr(self, name) < 1:
        raise ValueError(
          f'{name} must be at least 1; got {getattr(self, name)}.'
        )
    for name in ('vocab_size', 'position_offset', 'token_types'):
      if getattr(self, name) < 0:
        raise ValueError(
          f'{name} must not be negative; got {getattr(self, name)}.'
        )
    if self.layers_per_step < 1 or self.num_layers % self.layers_per_step:
      raise ValueError(
        f'layers_per_step={self.layers_per_step} must divide num_layers='
        f'{self.num_layers}.'
      )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} must be a multiple of'
        f' num_kv_heads={self.num_kv_heads}.'
      )
    if self.head_dim is None and self.embed_dim % self.num_heads:
      raise ValueError(
        f'embed_dim={self.embed_dim} is no multiple of num_heads='
        f'{self.num_heads}; change one of them or set head_dim.'
      )
    width = self.rotary_width
    if self.positions == 'rope' and (width % 2 or not width):
      raise ValueError(
        f'{width} numbers of a head {self.head_width} wide are'
        ' rotated; rotary positions need an even width.'
      )
    if self.positions == 'learned' and self.max_positions < 1:
      raise ValueError(
        "positions='learned' needs max_positions, the longest sequence; got"
        f' {self.max_positions}.'
      )
    self._check_layers()
    if self.is_relative and (
      self.relative_buckets < 4
      or self.relative_max_distance <= self.relative_buckets
    ):
      raise ValueError(
        f'relative_buckets={self.relative_buckets} must be at least 4, and'
        f' relative_max_distance={self.relative_max_distance} above it.'
      )

  @property
  def head_width(self) -> int:
    return self.head_dim or self.embed_dim // self.num_heads

  @property
  def rotary_width(self) -> int:
    return int(self.head_width * self.rope_fraction)

  @property
  def is_relative(self) -> bool:
    return self.positions == 'relative' or self.also_relative

  @property
  def letters(self) -> str:
    """The pattern with a letter for every layer."""
    return (self.pattern * self.num_layers)[: self.num_layers]

  def _check_layers(self) -> None:
    """Checks pattern, window and experts; shortens the pattern."""
    letters = self.letters
    if not letters or set(letters) - set('gwn'):
      raise ValueError(f'pattern={self.pattern!r}: needed are letters g, w, n.')
    if ('w' in self.pattern) != (self.window > 0):
      raise ValueError(
        f'pattern={self.pattern!r}, window={self.window}: layers of letter w'
        ' need a window above 0, others have none.'
      )
    most, chosen = self.num_experts, self.experts_per_token
    if most and not (self.gated_mlp and 1 <= chosen <= most):
      raise ValueError(
        f'experts_per_token={chosen}: needed is a number from 1 to num_experts='
        f'{most}, and gated_mlp.'
      )
    n = self.num_layers
    periods = (letters[:i] for i in range(1, n + 1))
    shortest = next(x for x in periods if (x * n)[:n] == letters)
    object.__setattr__(self, 'pattern', shortest)
    if 'w' not in shortest:  # The pattern's w is beyond the last layer.
      object.__setattr__(self, 'window', 0)

  def check_length(self, num_tokens: int) -> None:
    """Raises ValueError if there are more tokens than learned positions."""
    if self.positions == 'learned' and num_tokens > self.max_positions:
      raise ValueError(
        f'sequences of {num_tokens} tokens: the model has {self.max_positions}'
        ' learned positions (config.max_positions); cut the sequences.'
      )
