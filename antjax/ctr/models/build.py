# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click models by name."""

from flax import nnx

from antjax.ctr.models.adasparse import AdaSparse
from antjax.ctr.models.apg import APG
from antjax.ctr.models.autoint import AutoInt
from antjax.ctr.models.bst import BST
from antjax.ctr.models.dcnv2 import DCNv2
from antjax.ctr.models.deepfm import DeepFM
from antjax.ctr.models.din import DIN
from antjax.ctr.models.esmm import ESMM
from antjax.ctr.models.finalmlp import FinalMLP
from antjax.ctr.models.fm import FM
from antjax.ctr.models.hamur import HAMUR
from antjax.ctr.models.inputs import NetworkConfig, Sizes
from antjax.ctr.models.lr import LR
from antjax.ctr.models.m2m import M2M
from antjax.ctr.models.mlp_model import MLPModel
from antjax.ctr.models.mmoe import MMoE
from antjax.ctr.models.pepnet import PEPNet
from antjax.ctr.models.ple import PLE
from antjax.ctr.models.sar_net import SARNet
from antjax.ctr.models.shared_bottom import SharedBottom
from antjax.ctr.models.star import STAR
from antjax.ctr.models.wide_deep import WideDeep
from antjax.ctr.models.xdeepfm import XDeepFM

SINGLE_SCENARIO: dict[str, type] = {
  'lr': LR,
  'fm': FM,
  'mlp': MLPModel,
  'wide_deep': WideDeep,
  'deepfm': DeepFM,
  'dcnv2': DCNv2,
  'xdeepfm': XDeepFM,
  'autoint': AutoInt,
  'finalmlp': FinalMLP,
  'din': DIN,
  'bst': BST,
}
MULTI_SCENARIO: dict[str, type] = {
  'shared_bottom': SharedBottom,
  'mmoe': MMoE,
  'ple': PLE,
  'star': STAR,
  'sar_net': SARNet,
  'm2m': M2M,
  'pepnet': PEPNet,
  'adasparse': AdaSparse,
  'hamur': HAMUR,
  'apg': APG,
}
MULTI_TASK: dict[str, type] = {'esmm': ESMM}
MODELS: dict[str, type] = SINGLE_SCENARIO | MULTI_SCENARIO | MULTI_TASK
# They have layers of each scenario, see `antjax.layers.grouped`.
OWN_LAYERS = frozenset(
  {'shared_bottom', 'mmoe', 'ple', 'star', 'sar_net', 'm2m', 'hamur'}
)
# They read `Inputs.first_order_B`.
LINEAR = frozenset({'lr', 'fm', 'wide_deep', 'deepfm', 'xdeepfm'})
# They read `Inputs.moments` when they score.
NORMALISING = frozenset({'star'})


def make(
  name: str, sizes: Sizes, config: NetworkConfig, *, rngs: nnx.Rngs
) -> nnx.Module:
  """The model of that name: `Inputs` to logits [B], of esmm to its `Logits`.

  Args:
    name: One of `MODELS`.
    sizes: Shapes of its inputs.
    config: Sizes of its network.
    rngs: Source of the initial weights.

  Raises:
    ValueError: There is no such model, or it needs what the sizes lack.
  """
  if name not in MODELS:
    raise ValueError(
      f'model={name!r}: there is no such model. Of one scenario:'
      f' {", ".join(SINGLE_SCENARIO)}; of several: {", ".join(MULTI_SCENARIO)}.'
    )
  return MODELS[name](sizes, config, rngs=rngs)
