# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters from metrics of scikit-learn, metrax and clu to antjax.

None of the three is imported here: pass in their functions and classes.

  trainer.evaluate(state, batches, predict_fn, {
    'ap': FunctionMetric(sklearn.metrics.average_precision_score),
    'auc': ClassMetric(metrax.AUCROC),
  })
"""

from collections.abc import Callable, Mapping
import inspect
from typing import Any, Self

import jax
import numpy as np

from antjax.metrics.columns import Kept
from antjax.metrics.metric import Metric

# Argument of a class's `from_model_output` -> its name in `Metric.update`.
METRAX = {
  'predictions': 'prediction',
  'labels': 'label',
  'sample_weights': 'weight',
}


class FunctionMetric(Kept):
  """A function of all rows at once, so rows are kept; nan without rows.

  Args:
    function: f(y_true [N], y_score [N], sample_weight=[N]) -> number, as in
      `sklearn.metrics`. Wrap one that needs classes in a lambda.
  """

  def __init__(self, function: Callable[..., Any]):
    super().__init__()
    self._function = function

  def _update(self, prediction, label, weight, group):
    self._chunks.append(
      {'prediction': prediction, 'label': label, 'weight': weight}
    )

  def compute(self) -> float:
    rows = self._arrays()
    if not rows or not len(rows['label']):
      return float('nan')
    return float(
      self._function(
        rows['label'], rows['prediction'], sample_weight=rows['weight']
      )
    )

  def empty(self) -> Self:
    return type(self)(self._function)


class ClassMetric(Metric):
  """A class with from_model_output, merge and compute; nan without rows.

  Its sums are float32, as in JAX.

  Args:
    metric_class: Class of `metrax`, or of `clu.metrics`.
    inputs: Argument of its `from_model_output` -> prediction, label, weight or
      group. None: those entries of `METRAX` that it accepts. For clu, e.g.,
      {'values': 'prediction', 'mask': 'weight'}.
    **settings: Further arguments of `from_model_output`.
  """

  def __init__(
    self,
    metric_class: type[Any],
    inputs: Mapping[str, str] | None = None,
    **settings: Any,
  ):
    if inputs is None:
      known = inspect.signature(metric_class.from_model_output).parameters
      inputs = {name: of for name, of in METRAX.items() if name in known}
      if not {'prediction', 'label'} <= set(inputs.values()):
        raise ValueError(
          f'ClassMetric({metric_class.__name__}): from_model_output takes'
          f' {", ".join(known)}; say as inputs= which of them is the'
          ' prediction, the label and the weight.'
        )
    self._class, self._inputs, self._settings = metric_class, inputs, settings
    self._found: Any = None  # Metric of the rows so far.

  def _update(self, prediction, label, weight, group):
    if 'weight' not in self._inputs.values() and np.any(weight != 1):
      raise ValueError(
        f'ClassMetric({self._class.__name__}): rows have weights other than 0'
        ' and 1, and it takes none; name its argument of them as inputs=, or'
        ' use another metric.'
      )
    if not len(label):
      return
    given = {
      'prediction': prediction,
      'label': label,
      'weight': weight,
      'group': group,
    }
    found = self._class.from_model_output(
      **{
        name: jax.numpy.asarray(given[of]) for name, of in self._inputs.items()
      },
      **self._settings,
    )
    self._found = found if self._found is None else self._found.merge(found)

  def compute(self) -> float:
    if self._found is None:
      return float('nan')
    return float(self._found.compute())

  def empty(self) -> Self:
    return type(self)(self._class, self._inputs, **self._settings)

  def _arrays(self):
    leaves = jax.tree.leaves(self._found)
    return {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}

  def _add(self, arrays):
    if not arrays:
      return
    structure = jax.tree.structure(self._class.empty())
    leaves = [arrays[str(i)] for i in range(len(arrays))]
    found = jax.tree.unflatten(structure, leaves)
    self._found = found if self._found is None else self._found.merge(found)
