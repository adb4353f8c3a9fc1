# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of antjax.config: flags from dataclasses, and saved runs."""

import dataclasses
import enum
import json
import os
import subprocess
import sys
from typing import Annotated, Any, Literal

from absl import flags
import hypothesis
from hypothesis import strategies as st
import pytest

from antjax import config as config_lib


class Level(enum.Enum):
  NONE = 'none'
  INTRA = 'intra'
  GLOBAL = 'global'


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  learning_rate: Annotated[float, 'Step size of the optimizer.'] = 1e-3
  nesterov: Annotated[bool, 'Look ahead.'] = False
  clip_norm: Annotated[float | None, 'Largest gradient norm.'] = None

  def __post_init__(self):
    if self.learning_rate <= 0:
      raise ValueError(
        f'learning_rate must be positive;\n got {self.learning_rate}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  num_steps: Annotated[int, 'Optimizer steps.'] = 10
  name: Annotated[str, 'Name of the run.'] = 'x'
  level: Annotated[Level, 'Where rows live.'] = Level.INTRA
  sync: Annotated[Literal['xla', 'ring'], 'Collective.'] = 'ring'
  order: Annotated[Literal[1, 2], 'Order of the meta-gradient.'] = 2
  layers: Annotated[tuple[int, ...], 'Widths, in units.'] = (64, 32)
  betas: Annotated[tuple[float, float], 'Decays.'] = (0.9, 0.999)
  words: Annotated[list[str], 'Words.'] = dataclasses.field(
    default_factory=list
  )
  resume: Annotated[str | None, 'Folder to go on from.'] = None
  optimizer: OptimizerConfig = OptimizerConfig()


def parse(*arguments: str, default: Any = None) -> Config:
  default = Config() if default is None else default
  flag_values = flags.FlagValues()
  config_lib.define_flags(default, flag_values)
  flags.DEFINE_string('flagfile', '', 'Flags.', flag_values=flag_values)
  flag_values(['job', *arguments])
  return config_lib.parse_flags(default, flag_values)


def test_without_flags_gives_the_default():
  assert parse() == Config()


@pytest.mark.parametrize(
  'flag, expected',
  [
    ('--num_steps=-3', {'num_steps': -3}),
    ('--name=a b,c', {'name': 'a b,c'}),
    ('--level=global', {'level': Level.GLOBAL}),
    ('--level=GLOBAL', {'level': Level.GLOBAL}),
    ('--level=none', {'level': Level.NONE}),
    ('--sync=xla', {'sync': 'xla'}),
    ('--order=1', {'order': 1}),
    ('--layers=8,4,2', {'layers': (8, 4, 2)}),
    ('--layers=', {'layers': ()}),
    ('--betas=0.5,1e-2', {'betas': (0.5, 0.01)}),
    ('--words=a,"b,c"', {'words': ['a', 'b,c']}),
    ('--resume=none', {'resume': None}),
    ('--resume=runs/1', {'resume': 'runs/1'}),
    ('--optimizer.learning_rate=3', {'learning_rate': 3.0}),
    ('--optimizer.nesterov', {'nesterov': True}),
    ('--nooptimizer.nesterov', {'nesterov': False}),
    ('--optimizer.clip_norm=2', {'clip_norm': 2.0}),
  ],
)
def test_flag_sets_its_field_only(flag, expected):
  actual = parse(flag)
  nested = {k: v for k, v in expected.items() if not hasattr(Config(), k)}
  outer = {k: v for k, v in expected.items() if k not in nested}
  assert actual == dataclasses.replace(
    Config(),
    **outer,
    optimizer=dataclasses.replace(OptimizerConfig(), **nested),
  )


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--num_steps=1.5', "'1.5' is not an integer"),
    ('--level=node', "'node' is not <none|intra|global>"),
    ('--sync=tree', "'tree' is not <xla|ring>"),
    ('--order=3', "'3' is not <1|2>"),
    ('--layers=8,x', "'x' is not an integer"),
    ('--betas=0.5', 'comma-separated: a number, a number'),
    ('--optimizer.clip_norm=big', "'big' is not a number, or none"),
  ],
)
def test_bad_value_says_what_is_needed(flag, message):
  with pytest.raises(flags.IllegalFlagValueError) as error:
    parse(flag)
  assert message.replace(', or none', '') in str(error.value)
  assert flag.split('=')[0] in str(error.value)


def test_typo_gets_a_hint():
  with pytest.raises(
    flags.UnrecognizedFlagError, match=r'mean: optimizer\.learning_rate'
  ):
    parse('--optimizer.lr=1')


def test_post_init_error_is_one_line_and_names_the_nested_config():
  with pytest.raises(flags.IllegalFlagValueError) as error:
    parse('--optimizer.learning_rate=-1')
  assert str(error.value) == (
    'optimizer: learning_rate must be positive; got -1.0.'
  )


def test_help_shows_help_type_and_default():
  flag_values = flags.FlagValues()
  config_lib.define_flags(Config(), flag_values)
  text = ' '.join(flag_values.get_help().split())
  for expected in (
    "--num_steps: Optimizer steps. (default: '10') (an integer)",
    "--level: Where rows live. (default: 'intra') (<none|intra|global>)",
    "--layers: Widths, in units. (default: '64,32')",
    "--[no]optimizer.nesterov: Look ahead. (default: 'false')",
    '--resume: Folder to go on from. (default: none) (a string, or none)',
  ):
    assert expected in text


def test_help_of_a_script_lists_the_flags_as_its_own(tmp_path):
  script = tmp_path / 'job.py'
  script.write_text(
    '"""A job."""\n'
    'import dataclasses\n'
    'from absl import app\n'
    'from antjax import config\n'
    '@dataclasses.dataclass(frozen=True)\n'
    'class Config:\n'
    '  width: int = 3\n'
    "if __name__ == '__main__':\n"
    '  config.define_flags(Config())\n'
    '  app.run(print)\n'
  )
  root = os.path.dirname(os.path.dirname(config_lib.__file__))
  done = subprocess.run(
    [sys.executable, str(script), '--help'],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': root},
  )
  assert '--width' in done.stdout, done.stderr


def test_flagfile_and_later_flags_win(tmp_path):
  file = tmp_path / 'a.flags'
  file.write_text('# A recipe.\n--num_steps=5\n--optimizer.learning_rate=0.5\n')
  actual = parse(f'--flagfile={file}', '--num_steps=6')
  assert actual.num_steps == 6
  assert actual.optimizer.learning_rate == 0.5


def test_unsupported_field_is_a_type_error_that_names_it():
  @dataclasses.dataclass(frozen=True)
  class Bad:
    table: dict[str, int] | None = None

  with pytest.raises(TypeError, match=r'Bad\.table: dict'):
    config_lib.define_flags(Bad(), flags.FlagValues())
  with pytest.raises(TypeError, match='not an instance of a dataclass'):
    config_lib.define_flags(Bad, flags.FlagValues())


def test_none_cannot_be_both_a_choice_and_none():
  @dataclasses.dataclass(frozen=True)
  class Bad:
    level: Level | None = None

  with pytest.raises(TypeError, match=r'Bad\.level'):
    config_lib.define_flags(Bad(), flags.FlagValues())


def test_config_flag_repeats_a_run_and_given_flags_win(tmp_path):
  saved = parse('--num_steps=7', '--optimizer.nesterov', '--words=a')
  path = config_lib.save(saved, tmp_path)
  assert parse(f'--config={path}') == saved
  assert parse(f'--config={tmp_path}') == saved  # The folder will do.
  # A flag wins even if it names the default of the job.
  assert parse(
    f'--config={path}', '--num_steps=10', '--nooptimizer.nesterov'
  ) == dataclasses.replace(Config(), words=['a'])


def test_record_has_command_version_and_revision(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['job', '--num_steps=7'])
  record = json.loads(config_lib.save(Config(), tmp_path).read_text())
  assert record['argv'] == ['job', '--num_steps=7']
  assert set(record) == {'config', 'argv', 'antjax_version', 'git'}
  assert record['git'] == config_lib.git_revision()
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']


def test_git_revision_of_a_checkout_and_outside_one(tmp_path, monkeypatch):
  file = tmp_path / 'config.py'
  file.write_text('x = 1\n')
  monkeypatch.setattr(config_lib, '__file__', str(file))
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
  assert config_lib.git_revision() is None

  def git(*arguments):
    identity = ('-c', 'user.name=a', '-c', 'user.email=a@example.com')
    subprocess.run(
      ['git', '-C', str(tmp_path), *identity, *arguments],
      check=True,
      capture_output=True,
    )

  git('init')
  assert config_lib.git_revision() is None  # In a repository, not of it.
  git('add', 'config.py')
  git('commit', '-m', 'x')
  clean = config_lib.git_revision()
  assert clean is not None and len(clean['revision']) == 40
  assert clean['dirty'] is False
  file.write_text('x = 2\n')
  assert config_lib.git_revision() == {**clean, 'dirty': True}


def test_save_keeps_an_earlier_config(tmp_path):
  first = Config(num_steps=1)
  config_lib.save(first, tmp_path)
  config_lib.save(first, tmp_path)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['config.json']
  config_lib.save(Config(num_steps=2), tmp_path)
  config_lib.save(Config(num_steps=3), tmp_path)
  assert config_lib.load(Config, tmp_path / 'config.0.json') == first
  assert config_lib.load(Config, tmp_path / 'config.1.json').num_steps == 2
  assert config_lib.load(Config, tmp_path).num_steps == 3


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda c: c.update(extra=1), 'unknown: extra'),
    (lambda c: c.pop('name'), 'missing: name'),
    (
      lambda c: c['optimizer'].update(momentum=1),
      r'unknown: optimizer\.momentum',
    ),
    (
      lambda c: c['optimizer'].pop('nesterov'),
      r'missing: optimizer\.nesterov',
    ),
    (lambda c: c.update(num_steps=True), 'num_steps must be an integer'),
    (lambda c: c.update(num_steps='1'), 'num_steps must be an integer'),
    (lambda c: c.update(level='NODE'), 'level must be <none'),
    (lambda c: c.update(order=1.0), 'order must be <1'),
    (lambda c: c.update(betas=[1.0]), 'betas must be comma-separated'),
    (lambda c: c.update(optimizer=3), 'optimizer must be an object'),
    (
      lambda c: c['optimizer'].update(learning_rate=-1.0),
      'learning_rate must be positive',
    ),
  ],
)
def test_load_refuses_what_does_not_fit(tmp_path, change, message):
  path = config_lib.save(Config(), tmp_path)
  record = json.loads(path.read_text())
  change(record['config'])
  path.write_text(json.dumps(record))
  with pytest.raises(ValueError, match=message) as error:
    config_lib.load(Config, path)
  assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_a_config_of_an_older_version_takes_defaults_if_asked(tmp_path, caplog):
  path = config_lib.save(Config(num_steps=3), tmp_path)
  record = json.loads(path.read_text())
  del record['config']['name'], record['config']['optimizer']['nesterov']
  path.write_text(json.dumps(record))
  config = config_lib.load(Config, path, may_lack_fields=True)
  assert config == Config(num_steps=3)
  assert 'lacks name' in caplog.text
  assert 'lacks optimizer.nesterov' in caplog.text
  with pytest.raises(ValueError, match=r'missing: name'):
    config_lib.load(Config, path)


def test_load_of_no_config(tmp_path):
  with pytest.raises(ValueError, match='cannot read the config'):
    config_lib.load(Config, tmp_path)
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='not a JSON file'):
    config_lib.load(Config, tmp_path)
  (tmp_path / 'config.json').write_text('[]')
  with pytest.raises(ValueError, match="no key 'config'"):
    config_lib.load(Config, tmp_path)


_FLOATS = st.floats(allow_nan=False)
# absl strips nothing, but an operating system passes no NUL and no surrogate.
_TEXTS = st.text(
  st.characters(exclude_characters='\0', exclude_categories=('Cs',))
)
_CONFIGS = st.builds(
  Config,
  num_steps=st.integers(),
  name=_TEXTS,
  level=st.sampled_from(Level),
  sync=st.sampled_from(['xla', 'ring']),
  order=st.sampled_from([1, 2]),
  layers=st.lists(st.integers()).map(tuple),
  betas=st.tuples(_FLOATS, _FLOATS),
  words=st.lists(_TEXTS),
  resume=st.none() | _TEXTS.filter(lambda text: text != 'none'),
  optimizer=st.builds(
    OptimizerConfig,
    learning_rate=st.floats(
      min_value=0, exclude_min=True, allow_nan=False, allow_infinity=True
    ),
    nesterov=st.booleans(),
    clip_norm=st.none() | _FLOATS,
  ),
)


@hypothesis.given(config=_CONFIGS)
@hypothesis.settings(max_examples=40)
def test_flags_round_trip(config):
  written = flags.FlagValues()
  config_lib.define_flags(config, written)
  arguments = [
    written[name].serialize() or f'--{name}=none'
    for name in written
    if name != 'config'
  ]
  assert parse(*arguments) == config


@hypothesis.given(config=_CONFIGS)
@hypothesis.settings(max_examples=40)
def test_json_round_trip(config):
  data = json.loads(json.dumps(config_lib.to_dict(config)))
  assert config_lib.from_dict(Config, data) == config


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--name=gs://bucket/x', 'name=gs://bucket/x: .* local paths only'),
    ('--resume=s3://bucket/x', 'resume=s3://bucket/x: .* local paths only'),
  ],
)
def test_a_url_is_refused_where_nobody_takes_it(flag, message):
  with pytest.raises(flags.IllegalFlagValueError, match=message):
    parse(flag)
