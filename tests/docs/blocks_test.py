# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every Python block of the pages is whole: it runs alone, as it stands.

A block that makes devices of its own runs as a script. What a page says is
there before its code is made by `_MAKERS`, small.
"""

import ast
import concurrent.futures
import contextlib
import pathlib
import re
import sys

from google.protobuf.wrappers_pb2 import BytesValue
import grpc
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.data import (
  antm2c_synthetic,
  antm2c_synthetic_files,
  event_movielens,
  view_melu,
)
from antjax.data.stream import END
from antjax.jobs.bahe import build_store
from antjax.jobs.clicks import make_synthetic
from antjax.jobs.serve_grpc import SCORE
from antjax.serving import exporter, loader
from antjax.serving.click_loader import ClickScorer
from antjax.serving.served import ServedClicks
from tests import source_tree, warm_python
from tests.ctr.bahe import small_vocabulary
from tests.data import (
  behavior_fixture,
  movielens_fixture,
  sequence_fixture,
  views,
)
from tests.elastic.jobs_server import JobsServer
from tests.jobs import ratings, score_clicks_test, train_llm_rec_test
from tests.serving import sentence_test, serving_case

_CLICKS = """
columns: {user: string, item: string, shop: string, price: {type: float32,
  empty: 0}, clicked: int32, part: string}
user: user
item: item
label: clicked
split: part
ids: [shop]
numeric: [price]
"""
_BLOCK = re.compile(r'^```python\n(.*?)^```', re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r'^```(.*?)\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_PAGES = [
  source_tree.ROOT / 'README.md',
  *sorted((source_tree.ROOT / 'docs').rglob('*.md')),
]
# Seconds of compiling each.
_SLOW = {
  *('bahe-1', 'checkpoints-0', 'delivery-0', 'delivery-1', 'elastic-0'),
  *('gmeta-0', 'llm_rec-1', 'model_state-1'),
  *('click_models-0', 'click_models-1', 'delivery-2'),
  *('llm_rec-4', 'pretrained-1', 'pretrained-2', 'pretrained-3', 'train_lm-0'),
}


def _antm2c():
  config = antm2c_synthetic.SyntheticConfig(
    num_rows=5000, num_users=100, num_items=100
  )
  antm2c_synthetic_files.write(
    make_synthetic.Config().out, config, image_size=0
  )


def _bahe():
  _behaviors()
  small_vocabulary.write_model('data/minilm')
  build_store.build(
    build_store.Config(
      vocabulary='data/ml-1m',
      model='data/minilm',
      num_low=3,
      max_tokens=12,
      out='data/ml-1m-minilm-k3',
    )
  )


def _behaviors():
  source = behavior_fixture.Log(num_rows=50).write(pathlib.Path('log'))
  behavior_fixture.prepare(source, 'data/ml-1m')


def _clicks():
  lines = ['user,item,shop,price,clicked,part']
  for i in range(90):
    part = ('train', 'valid', 'test')[i % 3]
    lines.append(f'u{i % 5},i{i % 11},s,{i % 7}.5,{i % 2},{part}')
  folder = pathlib.Path('made')
  folder.mkdir()
  ratings.prepare_log(folder, _CLICKS, lines)
  fields = FieldConfig(embedding_dim=4)
  score_clicks_test.train(folder, 'fm', run_dir='runs/clicks', fields=fields)


def _data():
  pathlib.Path('clicks.tsv').write_text('7\ta\t1\n7\tb\t0\n9\ta\t1\n')
  movielens = movielens_fixture.Fixture().write_original(pathlib.Path('source'))
  split = view_melu.SplitConfig(query_size=4, min_ratings=7, max_ratings=20)
  views.write(
    pathlib.Path('data/ml-1m'), event_movielens.source(movielens), 'melu', split
  )


def _delivery():
  genders = np.array(['F', 'M']), np.arange(1, 3)
  model = serving_case.Case().exported(vocabularies={'gender': genders})
  exporter.write('models/day2', model)
  pathlib.Path('loader.py').write_text(
    pathlib.Path(loader.__file__).read_text()
  )


def _elastic():
  folder = pathlib.Path('data/clicks')
  folder.mkdir(parents=True)
  pq.write_table(pa.table({'x': np.arange(9)}), folder / 'a.parquet')
  (folder / END).touch()


def _encode():
  folder = pathlib.Path('data/minilm')
  sentence_test.folder_of(folder, {'pooling_mode': 'mean'})


def _llm_rec():
  source = sequence_fixture.Log().write_amazon(pathlib.Path('amazon'))
  sequence_fixture.prepare(source, 'data/ml-1m', k_core=0)


def _llm_rec_export():
  folder = pathlib.Path('made')
  ratings.prepare(folder, 'sequences')
  ratings.write_model(folder, ['Film', '(1990);', *map(str, range(40))])
  train_llm_rec_test.train(folder, 'runs/llm_rec', num_steps=1)


def _pretrained():
  small_vocabulary.write_model('data/minilm')
  small_vocabulary.write_model('data/smollm2', 'llama')


_MAKERS = {
  'antm2c': _antm2c,
  'bahe': _bahe,
  'behaviors': _behaviors,
  'click_models': _clicks,
  'data': _data,
  'delivery': _delivery,
  'delivery-2': _clicks,
  'elastic': _elastic,
  'encode': _encode,
  'llm_rec': _llm_rec,
  'llm_rec-4': _llm_rec_export,
  'pretrained': _pretrained,
}


@contextlib.contextmanager
def _grpc(code):
  """Serves `runs/clicks` where the code calls it."""
  if 'localhost:8081' not in code:
    yield code
    return
  served = ServedClicks(ClickScorer('runs/clicks/seed_0/export'), max_rows=8)

  def score(message, context):
    request = served.read(orjson.loads(message.value))
    (reply,) = served.score([request])
    return BytesValue(
      value=orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
    )

  handler = grpc.unary_unary_rpc_method_handler(
    score, BytesValue.FromString, BytesValue.SerializeToString
  )
  server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
  service, _, method = SCORE.strip('/').partition('/')
  server.add_registered_method_handlers(service, {method: handler})
  port = server.add_insecure_port('localhost:0')
  server.start()
  try:
    yield code.replace('localhost:8081', f'localhost:{port}')
  finally:
    server.stop(None)


def _custom_model(said):
  sizes, losses, scores = said.splitlines()
  assert ast.literal_eval(sizes)['params'] > 0
  first, last = map(float, re.findall(r'\d\.\d+', losses))
  assert last < 0.6 * first
  assert 'in 100 steps' in losses
  assert ast.literal_eval(scores)['AUC'] > 0.95


def _own_mesh(said):
  *steps, spec = said.splitlines()
  losses = [float(line.split()[1]) for line in steps]
  assert losses[-1] < 0.2 * losses[0]
  assert spec.endswith("('intra', 'model')")


def _batch_norm(said):
  accuracy = [float(x) for x in re.findall(r'^\d+ ([\d.]+)$', said, re.M)]
  assert not accuracy or accuracy[-1] > max(0.85, accuracy[0])
  means = [float(x) for x in re.findall(r'-?\d+\.?\d*(?:e-?\d+)?', said)[-4:]]
  assert max(map(abs, means)) > 0.5  # They were zeros.


# What a block prints, beyond that it runs.
_CHECKS = {
  'antm2c-1': lambda said: 0.7 < float(said) < 1 or pytest.fail(said),
  'behaviors-0': lambda said: 'nfkc-1' in said or pytest.fail(said),
  'custom_model-0': _custom_model,
  'custom_model-1': _own_mesh,
  # Texts of 9 tokens and more, each once.
  'data-2': lambda said: said == '904 904\n' or pytest.fail(said),
  'plan-0': lambda said: 'sum once after' in said or pytest.fail(said),
  'elastic-0': lambda said: said.startswith('384 [') or pytest.fail(said),
  'model_state-0': _batch_norm,
  'model_state-1': _batch_norm,
}


def _blocks():
  for page in _PAGES:
    for i, code in enumerate(_BLOCK.findall(page.read_text(encoding='utf-8'))):
      name = f'{page.stem}-{i}'
      marks = pytest.mark.slow if name in _SLOW else ()
      yield pytest.param(name, code, id=name, marks=marks)


@pytest.mark.parametrize('name, code', [*_blocks()])
def test_a_block_runs_alone(name, code, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  page = name.rpartition('-')[0]
  _MAKERS.get(name, _MAKERS.get(page, lambda: None))()
  capsys.readouterr()
  if 'import datasets' in code:
    pytest.importorskip('datasets')
  if 'jax.config.update' in code:
    script = tmp_path / 'my_model.py'
    script.write_text(code)
    done = warm_python.run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout
  else:
    # The made-up films have 3 genres at most.
    code = code.replace("'genres': 6", "'genres': 3")
    with JobsServer() as server, _grpc(code) as code:
      code = code.replace('10.0.0.1:7070', server.address)
      exec(compile(code, name, 'exec'), {'__name__': name})
    said = capsys.readouterr().out
  sys.modules.pop('loader', None)
  if name in _CHECKS:
    _CHECKS[name](said)


def test_code_is_in_blocks_that_are_seen():
  """Indented or in other fences, it would not run."""
  for page in _PAGES:
    text = page.read_text(encoding='utf-8')
    assert text.count('```python') == len(_BLOCK.findall(text)), page
    assert not re.search(r'^```(py|python3|pycon)\b(?!thon)', text, re.M), page
    for tag, code in _FENCE.findall(text):
      assert tag or not _is_python(code), f'{page}: tag it python:\n{code}'


def _is_python(code):
  """Whether it parses as statements that import, call, or assign calls."""
  try:
    body = ast.parse(code).body
  except SyntaxError:
    return bool(re.search(r'^(from [\w.]+ )?import \w|^def \w+\(', code, re.M))
  return any(
    not isinstance(part, ast.Expr) or isinstance(part.value, ast.Call)
    for part in body
  )
