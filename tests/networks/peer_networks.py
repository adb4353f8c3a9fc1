# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Published networks with our weights: python peer_networks.py IN.npz OUT.npz.

Runs in the peers' environment. IN has parameters as 'name/path' and inputs as
'inputs/...'; OUT gets the logits of each network whose code is there:
torch-rechub, TorchRec, or FuxiCTR, whose package has some models and whose
repository, on PYTHONPATH, has all.

Where a publication's code differs by what weights can say, they say it: norms
of batches are the identity, gates have no bias, scales are in the weights.
"""

from collections.abc import Callable
import importlib
import sys
from typing import Any

import numpy as np
import torch
from torch import nn

DIM, NUM_TASKS, HEADS, TARGET = 4, 2, 2, 2
REFERENCES: dict[str, Callable[['Weights', Any], Any]] = {}


class Weights:
  """The parameters of a network, by path, and what it reads."""

  def __init__(self, arrays: dict[str, np.ndarray], name: str):
    self.found = {
      path.removeprefix(f'{name}/'): torch.from_numpy(x).double()
      for path, x in arrays.items()
      if path.startswith(f'{name}/')
    }
    self.left = set(self.found)

  def __call__(self, path: str) -> torch.Tensor:
    self.left.discard(path)
    return self.found[path]

  def linear(self, module: nn.Linear, path: str, kernel: Any = None) -> None:
    """Fills a layer; `kernel` instead of the one at the path."""
    if kernel is None:
      kernel = self(f'{path}/kernel')
    if kernel.ndim == 3:  # Of one scenario.
      kernel = kernel[:, 0]
    module.weight.copy_(kernel.reshape(kernel.shape[0], -1).T)
    if module.bias is not None:
      has_bias = f'{path}/bias' in self.found
      bias = self(f'{path}/bias').reshape(-1) if has_bias else 0
      module.bias.copy_(torch.as_tensor(bias))

  def layers(self, module: nn.Module, *paths: str) -> None:
    """Fills the linear layers of a module, in their order."""
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    for one, path in zip(linears, paths, strict=True):
      self.linear(one, path)

  def mlp(self, module: nn.Module, path: str, *more: str) -> None:
    """Fills an MLP of ours, and the layers after it."""
    number = 0
    while f'{path}/layers/{number}/kernel' in self.found:
      number += 1
    first = [f'{path}/layers/{i}' for i in range(number)]
    self.layers(module, *first, *more)

  def deep(self, module: nn.Module, path: str) -> None:
    """Fills an MLP with one output."""
    self.mlp(module, f'{path}/mlp', f'{path}/out')

  def experts(self, modules: Any, path: str) -> None:
    """Fills experts, which lie beside each other in our first layer."""
    kernel, bias = self(f'{path}/first/kernel'), self(f'{path}/first/bias')
    width = bias.shape[-1] // len(modules)
    for e, module in enumerate(modules):
      part = slice(e * width, (e + 1) * width)
      self.found['first/kernel'] = kernel[..., part]
      self.found['first/bias'] = bias[..., part]
      rest, i = [], 0
      while f'{path}/rest/{i}/{e}/kernel' in self.found:
        rest.append(f'{path}/rest/{i}/{e}')
        i += 1
      self.layers(module, 'first', *rest)


def reference(function: Callable[[Weights, Any], Any]) -> Any:
  """Registers the logits of a network by the name of their function."""
  REFERENCES[function.__name__] = function
  return function


def rechub(name: str) -> Any:
  return importlib.import_module(f'torch_rechub.{name}')


def plain(module: nn.Module) -> nn.Module:
  """In double, to score, with norms of batches that change nothing."""
  for part in module.modules():
    if isinstance(part, nn.BatchNorm1d):
      part.eps = 0.0
  return module.double().eval()


def features(x: dict[str, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
  """A table for each field with a row for each row, and their ids."""
  sparse = rechub('basic.features').SparseFeature
  num_rows, num_fields, dim = x['fields'].shape
  names = [f'f{i}' for i in range(num_fields)]
  found = [sparse(n, vocab_size=num_rows, embed_dim=dim) for n in names]
  return found, dict.fromkeys(names, torch.arange(num_rows))


def embed(model: Any, x: dict[str, torch.Tensor]) -> None:
  for i in range(x['fields'].shape[1]):
    model.embedding.embed_dict[f'f{i}'].weight.copy_(x['fields'][:, i])


def logit(share: torch.Tensor) -> torch.Tensor:
  return torch.logit(share)


@reference
def lr(w, x):
  model = plain(rechub('basic.layers').LR(x['first'].shape[0]))
  model.fc.weight.copy_(x['first'][None])
  model.fc.bias.copy_(w('bias'))
  return model(x['fields'].flatten(1))[:, 0]


@reference
def fm(w, x):
  pairs = rechub('basic.layers').FM(reduce_sum=True)(x['fields'])
  return lr(w, x) + pairs[:, 0]


def wide(name: str, w: Weights, x: Any, *args: Any) -> torch.Tensor:
  found, ids = features(x)
  widths = [w.found[f'deep/mlp/layers/{i}/bias'].shape[0] for i in range(2)]
  kind = getattr(rechub('models.ranking'), name)
  model = plain(kind(found, found, {'dims': widths}))
  embed(model, x)
  model.linear.fc.weight.copy_(x['first'][None])
  model.linear.fc.bias.zero_()
  w.deep(model.mlp, 'deep')
  return logit(model(ids))


@reference
def deepfm(w, x):
  return wide('DeepFM', w, x)


@reference
def wide_deep(w, x):
  return wide('WideDeep', w, x)


@reference
def dcnv2(w, x):
  layers = importlib.import_module('fuxictr.pytorch.layers')
  flat = x['fields'].flatten(1)
  cross = plain(layers.CrossNetV2(flat.shape[1], 2))
  w.layers(cross, 'cross/0', 'cross/1')
  deep = plain(layers.MLP_Block(flat.shape[1], [16, 8]))
  w.mlp(deep, 'mlp')
  out = nn.Linear(flat.shape[1] + 8, 1).double()
  w.linear(out, 'out')
  return out(torch.cat([cross(flat), deep(flat)], dim=-1))[:, 0]


@reference
def xdeepfm(w, x):
  layers = importlib.import_module('fuxictr.pytorch.layers')
  fields = x['fields']
  cin = plain(layers.CompressedInteractionNet(fields.shape[1], [5, 4]))
  for i, layer in enumerate(cin.cin_layer.values()):
    kernel = w(f'maps/{i}/kernel')  # Map, new map, field.
    kernel = kernel.permute(1, 2, 0).reshape(kernel.shape[1], -1, 1)
    layer.weight.copy_(kernel)
    layer.bias.zero_()
  w.linear(cin.fc, 'cin_out')
  deep = plain(layers.MLP_Block(fields[0].numel(), [16, 8], output_dim=1))
  w.deep(deep, 'deep')
  linear = fields.flatten(1) @ x['first']
  return linear + (cin(fields) + deep(fields.flatten(1)))[:, 0]


@reference
def autoint(w, x):
  found, ids = features(x)
  model = plain(rechub('models.ranking.autoint').AutoInt(found, [], 2, HEADS))
  for i in range(x['fields'].shape[1]):
    table = model.sparse_embedding.embed_dict[f'f{i}']
    table.weight.copy_(x['fields'][:, i])
  for i, layer in enumerate(model.interacting_layers):
    parts = w(f'layers/{i}/project/kernel').chunk(4, dim=1)
    query, key, value, rest = (part.T for part in parts)
    layer.W_Q.weight.copy_(query / layer.scale)
    layer.W_K.weight.copy_(key)
    layer.W_V.weight.copy_(value)
    layer.W_Res.weight.copy_(rest)
  w.linear(model.attn_linear, 'out')
  for x_ in model.linear.parameters():
    x_.zero_()
  return logit(model(ids))


@reference
def finalmlp(w, x):
  layers = importlib.import_module('fuxictr.pytorch.layers')
  try:
    zoo = importlib.import_module('model_zoo.LongCTR.FinalMLP.FinalMLP')
  except ImportError:
    zoo = importlib.import_module('model_zoo.FinalMLP.src.FinalMLP')
  flat, streams = x['fields'].flatten(1), []
  for name, own in (('user', (0, 1)), ('item', (2, 3))):
    gate = plain(
      layers.MLP_Block(
        len(own) * DIM,
        output_dim=flat.shape[1],
        hidden_units=[],
        output_activation='Sigmoid',
      )
    )
    w.layers(gate, f'{name}/gate')
    deep = plain(layers.MLP_Block(flat.shape[1], [16, 8]))
    w.mlp(deep, f'{name}/mlp')
    chosen = x['fields'][:, own].flatten(1)
    streams.append(deep(flat * gate(chosen) * 2))
  fusion = plain(zoo.InteractionAggregation(8, 8, num_heads=HEADS))
  one, two = w('linear/kernel').split(8)
  w.linear(fusion.w_x, 'linear', one)
  fusion.w_y.weight.copy_(two.T)
  fusion.w_y.bias.zero_()
  fusion.w_xy.copy_(w('form').reshape(-1, 1))
  return fusion(*streams)[:, 0]


def masked(w: Weights, x: Any, kind: str, **sizes: Any) -> torch.Tensor:
  zoo = importlib.import_module('model_zoo.MaskNet.src.MaskNet')
  fields = x['fields']
  width = fields[0].numel()
  model = plain(
    getattr(zoo, kind)(width, output_dim=1, reduction_ratio=1.5, **sizes)
  )
  for i, block in enumerate(model.mask_blocks):
    w.mlp(block.mask_layer, f'blocks/{i}/mask')
    hidden, norm, _ = block.hidden_layer
    w.linear(hidden, f'blocks/{i}/hidden')
    norm.weight.copy_(w(f'blocks/{i}/norm/scale'))
    norm.bias.copy_(w(f'blocks/{i}/norm/bias'))
  parts = []
  for i, (scale, bias) in enumerate(zip(w('scale'), w('bias'), strict=True)):
    norm = nn.LayerNorm(DIM).double()
    norm.weight.copy_(scale)
    norm.bias.copy_(bias)
    parts.append(norm(fields[:, i]))
  if kind == 'ParallelMaskNet':
    w.deep(model.dnn, 'out')
  else:
    w.layers(model.fc, 'out')
  return model(fields.flatten(1), torch.cat(parts, dim=1))[:, 0]


@reference
def masknet(w, x):
  sizes = {'num_blocks': 2, 'block_dim': 7, 'hidden_units': [16, 8]}
  return masked(w, x, 'ParallelMaskNet', **sizes)


@reference
def masknet_serial(w, x):
  return masked(w, x, 'SerialMaskNet', hidden_units=[16, 8])


def gated(w: Weights, x: Any) -> torch.Tensor:
  zoo = importlib.import_module('model_zoo.GDCN.src.GDCN')
  flat = x['fields'].flatten(1)
  cross = plain(zoo.GateCorssLayer(flat.shape[1], 2))
  for i in range(2):
    w.linear(cross.w[i], f'cross/{i}')
    cross.b[i].copy_(w(f'cross/{i}/bias'))
    w.linear(cross.wg[i], f'gates/{i}')
  return cross(flat)


@reference
def gdcn(w, x):
  layers = importlib.import_module('fuxictr.pytorch.layers')
  flat = x['fields'].flatten(1)
  deep = plain(layers.MLP_Block(flat.shape[1], [16, 8]))
  w.mlp(deep, 'mlp')
  out = nn.Linear(flat.shape[1] + 8, 1).double()
  w.linear(out, 'out')
  return out(torch.cat([gated(w, x), deep(flat)], dim=1))[:, 0]


@reference
def gdcn_serial(w, x):
  layers = importlib.import_module('fuxictr.pytorch.layers')
  crossed = gated(w, x)
  deep = plain(layers.MLP_Block(crossed.shape[1], [16, 8], output_dim=1))
  w.mlp(deep, 'mlp', 'out')
  return deep(crossed)[:, 0]


@reference
def pepnet(w, x):
  zoo = importlib.import_module('model_zoo.PEPNet.src.PPNet')
  fields, flat = x['fields'], x['fields'].flatten(1)
  width, hidden = flat.shape[1], w.found['ep_hidden/bias'].shape[0]
  gate = plain(zoo.GateNU(DIM + width, hidden, output_dim=width))
  w.layers(gate, 'ep_hidden', 'ep_gate')
  model = plain(
    zoo.PPNet_MLP(width, 1, 4 * DIM + width, hidden, hidden_units=[16, 8])
  )
  kernel, bias = w('pp_hidden/first/kernel'), w('pp_hidden/first/bias')
  for i, one in enumerate(model.gate_layers):
    part = slice(i * hidden, (i + 1) * hidden)
    # Theirs: what is stopped comes first.
    w.found['own/bias'] = bias[part]
    prior, stopped = kernel[:, part].split([4 * DIM, width])
    w.found['own/kernel'] = torch.cat([stopped, prior])
    w.layers(one, 'own', f'pp_gates/{i}')
    w.linear(model.mlp_layers[i][0], f'layers/{i}')
  w.linear(model.mlp_layers[-1], f'layers/{len(model.gate_layers)}')
  gated_flat = flat * gate(torch.cat([fields[:, 4], flat], dim=1))
  return model(gated_flat, fields[:, :4].flatten(1))[:, 0]


@reference
def din(w, x):
  basic = rechub('basic.features')
  found, ids = features(x)
  num_rows, num_places, dim = x['keys'].shape
  history = basic.SequenceFeature(
    'h', num_rows * num_places, dim, pooling='concat'
  )
  ids['h'] = torch.arange(num_rows * num_places).view(num_rows, num_places)
  others = [f for i, f in enumerate(found) if i != TARGET]
  model = rechub('models.ranking').DIN(
    others,
    [history],
    [found[TARGET]],
    {'dims': [16, 8]},
    {'dims': [6], 'activation': 'relu'},
  )
  for i, part in enumerate(model.mlp.mlp):
    if type(part).__name__ == 'Dice':
      model.mlp.mlp[i] = nn.ReLU()
  model = plain(model)
  embed(model, x)
  keys = torch.where(x['is_there'][..., None] > 0, x['keys'], 0.0)
  model.embedding.embed_dict['h'].weight.copy_(keys.reshape(-1, dim))
  w.deep(model.attention_layers[0], 'attention/0')
  # Theirs: attention, which is a sum, then the target, then other fields.
  parts = list(w.found['deep/mlp/layers/0/kernel'].split(dim))
  attended = parts.pop() / num_places
  target = parts.pop(TARGET)
  w.found['deep/mlp/layers/0/kernel'] = torch.cat([attended, target, *parts])
  w.deep(model.mlp, 'deep')
  return logit(model(ids))


@reference
def shared_bottom(w, x):
  found, ids = features(x)
  model = plain(
    rechub('models.multi_task').SharedBottom(
      found,
      ['classification'] * NUM_TASKS,
      {'dims': [16, 8]},
      [{'dims': [8]}] * NUM_TASKS,
    )
  )
  embed(model, x)
  w.mlp(model.bottom_mlp, 'bottom')
  towers(w, model)
  return logit(model(ids))


def towers(w: Weights, model: Any) -> None:
  for k, tower in enumerate(model.towers):
    w.mlp(tower, f'towers/tasks/{k}')


@reference
def mmoe(w, x):
  found, ids = features(x)
  model = plain(
    rechub('models.multi_task').MMOE(
      found,
      ['classification'] * NUM_TASKS,
      2,
      {'dims': [8, 6]},
      [{'dims': [8]}] * NUM_TASKS,
    )
  )
  embed(model, x)
  w.experts(model.experts, 'experts')
  for k, gate in enumerate(model.gates):
    w.layers(gate, f'gates/{k}')
  towers(w, model)
  return logit(model(ids))


@reference
def ple(w, x):
  found, ids = features(x)
  model = plain(
    rechub('models.multi_task').PLE(
      found,
      ['classification'] * NUM_TASKS,
      2,
      2,
      2,
      {'dims': [8, 6]},
      [{'dims': [8]}] * NUM_TASKS,
    )
  )
  embed(model, x)
  first, last = model.cgc_layers
  every = [*first.experts_specific, *first.experts_shared]
  w.experts(every, 'levels/0/experts/0')
  w.layers(first.gate_shared, 'levels/0/shared_gate')
  w.experts(last.experts_shared, 'last/shared')
  for k in range(NUM_TASKS):
    w.layers(first.gates_specific[k], f'levels/0/gates/{k}')
    w.layers(last.gates_specific[k], f'last/gates/{k}')
    own = last.experts_specific[2 * k : 2 * k + 2]
    w.experts(own, f'last/specific/{k}')
  towers(w, model)
  return logit(model(ids))


@reference
def esmm(w, x):
  found, ids = features(x)
  widths = {'dims': [16, 8]}
  kind = rechub('models.multi_task').ESMM
  model = plain(kind(found[:2], found[2:], widths, widths))
  embed(model, x)
  w.deep(model.tower_ctr, 'tasks/0')
  w.deep(model.tower_cvr, 'tasks/1')
  return logit(model(ids)[:, 1:])  # Clicks, and clicks with a conversion.


@reference
def aitm(w, x):
  found, ids = features(x)
  model = plain(
    rechub('models.multi_task').AITM(
      found, NUM_TASKS, {'dims': [16, 8]}, [{'dims': [8]}] * NUM_TASKS
    )
  )
  embed(model, x)
  for k in range(NUM_TASKS):
    w.mlp(model.bottoms[k], f'bottoms/{k}')
    w.deep(model.towers[k], f'towers/{k}')
  w.layers(model.info_gates[0], 'carry/0')
  attention = model.aits[0]
  parts = w('attend/0/kernel').chunk(3, dim=1)
  layers = attention.q_layer, attention.k_layer, attention.v_layer
  for layer, part in zip(layers, parts, strict=True):
    layer.weight.copy_(part.T)
  return logit(model(ids))


def interaction(w: Weights, x: Any, kind: str, **sizes: Any) -> torch.Tensor:
  """A DLRM of TorchRec behind its tables: theirs has the numbers first."""
  arch = importlib.import_module('torchrec.models.dlrm')
  fields = x['fields']
  bottom = plain(arch.DenseArch(x['dense'].shape[1], [6, DIM]))
  w.mlp(bottom, 'bottom')
  inner = plain(
    getattr(arch, kind)(num_sparse_features=fields.shape[1], **sizes)
  )
  order = torch.arange(0)
  if kind == 'InteractionArch':
    # (i, j), i > j, row by row, where theirs are (i, j), i < j.
    last = fields.shape[1]
    theirs = [last, *range(last)]
    pairs = [(i, j) for i in range(last + 1) for j in range(i)]
    place = {pair: DIM + n for n, pair in enumerate(pairs)}
    order = [*range(DIM)] + [
      place[max(a, b), min(a, b)]
      for n, a in enumerate(theirs)
      for b in theirs[n + 1 :]
    ]
  else:
    width = (fields.shape[1] + 1) * DIM
    order = [*range(width - DIM, width), *range(width - DIM)]
    cross = inner.crossnet
    for i in range(2):
      into, out = (
        w(f'cross/{i}/layers/0/kernel'),
        w(f'cross/{i}/layers/1/kernel'),
      )
      cross.V_kernels[i].copy_(into[order].T)
      cross.W_kernels[i].copy_(out[:, order].T)
      cross.bias[i].copy_(w(f'cross/{i}/layers/1/bias')[order])
  over = plain(arch.OverArch(len(order), [16, 8, 1]))
  w.found['top/layers/0/kernel'] = w('top/layers/0/kernel')[order]
  w.mlp(over, 'top', 'head')
  return over(inner(bottom(x['dense']), fields))[:, 0]


@reference
def dlrm(w, x):
  return interaction(w, x, 'InteractionArch')


@reference
def dlrm_dcn(w, x):
  arch = importlib.import_module('torchrec.modules.crossnet')
  width = (x['fields'].shape[1] + 1) * DIM
  cross = plain(arch.LowRankCrossNet(width, num_layers=2, low_rank=3))
  return interaction(w, x, 'InteractionDCNArch', crossnet=cross)


def main(path_in: str, path_out: str) -> None:
  arrays = dict(np.load(path_in))
  x = Weights(arrays, 'inputs').found
  found = {}
  with torch.no_grad():
    for name, function in REFERENCES.items():
      weights = Weights(arrays, name)
      try:
        found[name] = function(weights, x).numpy()
      except ImportError as error:
        print(f'{name}: {error}', file=sys.stderr)
  np.savez(path_out, **found)


if __name__ == '__main__':
  main(*sys.argv[1:])
