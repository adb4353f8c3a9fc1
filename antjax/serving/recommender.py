# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a trained recommender to what `exporter.write` writes."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from antjax.embedding.table import EmbeddingTables
from antjax.meta import maml
from antjax.meta.recommender import MetaRecommender
from antjax.serving import exporter, functions


def exported(
  recommender: MetaRecommender,
  inner: maml.InnerLoop,
  params: Any,
  tables: Mapping[str, np.ndarray],
  *,
  vocabularies: Mapping[str, tuple[np.ndarray, np.ndarray]],
  support_sizes: Sequence[int],
  query_size: int,
  numeric: Sequence[str] = (),
  info: Mapping[str, Any],
) -> exporter.Exported:
  """Compiles a recommender's functions and puts them beside its arrays.

  Args:
    recommender: the model.
    inner: how it adapts to a user.
    params: its dense parameters, from `Trainer.params`.
    tables: its tables, from `table_rows`.
    vocabularies: see `exporter.Exported`.
    support_sizes: support rows that a user may have, padded up to the next.
    query_size: query rows that training used.
    numeric: names of the numeric inputs, in their order.
    info: for the manifest.
  """
  specs = recommender.tables.specs
  table_of = {
    name: recommender.tables.features[name].tables[0]
    for name in recommender.features
  }
  features: dict[str, dict[str, Any]] = {
    name: {
      'table': table_of[name],
      'num_ids': specs[table_of[name]].num_embeddings,
      'max_values': max_values,
      'embedding_dim': specs[table_of[name]].embedding_dim,
    }
    for name, max_values in recommender.features.items()
  }
  made, flat = functions.serving_functions(
    recommender.task_model, inner, params
  )
  lowered = functions.export_functions(
    made,
    flat,
    {
      name: functions.FeatureSpec(f['max_values'], f['embedding_dim'])
      for name, f in features.items()
    },
    support_sizes,
    len(numeric),
  )
  return exporter.Exported(
    functions=lowered,
    params=flat,
    tables=tables,
    features=features,
    vocabularies={n: v for n, v in vocabularies.items() if n in features},
    support_sizes=support_sizes,
    query_size=query_size,
    numeric=numeric,
    info=info,
  )


def table_rows(tables: EmbeddingTables, state: Any) -> dict[str, np.ndarray]:
  """Table name -> float32 [V, D], whole in the memory of this one process."""
  canonical = jax.jit(
    lambda state: {
      name: parts['table'] for name, parts in tables.to_canonical(state).items()
    }
  )(state)
  return {
    name: np.asarray(rows)[: tables.specs[name].num_embeddings]
    for name, rows in canonical.items()
  }
