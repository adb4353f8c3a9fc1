# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of launch/manifests: their form, and that what they name exists."""

import os
import pathlib
import re
import shlex
import stat
import subprocess
import sys
from typing import Any

import pytest
import yaml

from antjax.elastic import host_sockets
from tests import warm_python

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / 'launch' / 'manifests'


# What a JobSet (v1alpha2) may have beside its Jobs; its API is no part of
# Kubernetes' own.
_JOBSET = {'successPolicy', 'replicatedJobs'}
_REPLICATED_JOB = {'name', 'replicas', 'template'}


def _documents(name: str) -> list[dict[str, Any]]:
  return list(yaml.safe_load_all((_FOLDER / name).read_text()))


def _check(document: dict[str, Any]) -> None:
  """Raises ValidationError where Kubernetes would refuse a document."""
  validator = pytest.importorskip('kubernetes_validate')
  version = validator.latest_version()
  if document['kind'] != 'JobSet':
    validator.validate(document, version, strict=True)
    return
  assert document['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert set(document['spec']) == _JOBSET
  for one in document['spec']['replicatedJobs']:
    assert set(one) == _REPLICATED_JOB
    job = {
      'apiVersion': 'batch/v1',
      'kind': 'Job',
      'metadata': document['metadata'],
      'spec': one['template']['spec'],
    }
    validator.validate(job, version, strict=True)


def _find(value: Any, key: str) -> list[Any]:
  """All values of a key, at any depth."""
  if isinstance(value, list):
    return [found for item in value for found in _find(item, key)]
  if not isinstance(value, dict):
    return []
  found = [value[key]] if key in value else []
  return found + [one for item in value.values() for one in _find(item, key)]


@pytest.mark.parametrize('name', ['jobset.yaml', 'coordinator.yaml'])
def test_kubernetes_takes_it(name):
  for document in _documents(name):
    _check(document)


@pytest.mark.parametrize(
  'path, value, message',
  [
    (('backoffLimit',), 'ten', "'ten' is not of type"),
    (('podFailurePolice',), {}, 'podFailurePolice'),
    (('template', 'spec', 'containers'), [{}], "'name' is a required"),
    (('template', 'spec', 'containers', 0, 'args'), '--job=j', 'not of type'),
  ],
)
def test_a_mistake_in_the_form_is_found(path, value, message):
  document = _documents('jobset.yaml')[-1]
  target = document['spec']['replicatedJobs'][1]['template']['spec']
  for key in path[:-1]:
    target = target[key]
  target[path[-1]] = value
  with pytest.raises(Exception, match=message):
    _check(document)


@pytest.mark.parametrize('name', ['jobset.yaml', 'coordinator.yaml'])
def test_what_a_manifest_names_is_in_it(name):
  documents = _documents(name)
  claims = {
    document['metadata']['name']
    for document in documents
    if document['kind'] == 'PersistentVolumeClaim'
  }
  services = {
    document['metadata']['name']: document['spec']
    for document in documents
    if document['kind'] == 'Service'
  }
  templates = {
    claim['metadata']['name']
    for found in _find(documents, 'volumeClaimTemplates')
    for claim in found
  }
  used = {one['claimName'] for one in _find(documents, 'persistentVolumeClaim')}
  assert used == claims
  text = (_FOLDER / name).read_text()
  for secret in _find(documents, 'secretName'):
    # The comments say how to make it.
    assert re.search(rf'^#.*\b{secret}\b', text, re.M), secret
  for containers in _find(documents, 'containers'):
    (container,) = containers
    ports = {
      port['name']: port['containerPort'] for port in container.get('ports', [])
    }
    for service in services.values():
      for port in service['ports']:
        assert ports.get(port['name'], port['port']) == port['port']
    for argument in container['args']:
      if found := re.fullmatch(r'--(port|status_port)=(\d+)', argument):
        assert int(found[2]) in ports.values()
      if found := re.fullmatch(r'--coordinator=([^:]+):(\d+)', argument):
        assert int(found[2]) in [
          port['port'] for port in services[found[1]]['ports']
        ]
      for variable in re.findall(r'\$\((\w+)\)', argument):
        assert variable in [one['name'] for one in container['env']]
  for pod in _find(documents, 'spec'):
    if 'containers' not in pod:
      continue
    volumes = {volume['name'] for volume in pod['volumes']} | templates
    (container,) = pod['containers']
    mounts = {mount['name']: mount for mount in container['volumeMounts']}
    assert set(mounts) <= volumes
    for argument in container['args']:
      path = argument.partition('=')[2]
      if path.startswith('/'):
        assert any(
          path.startswith(mount['mountPath']) for mount in mounts.values()
        ), path


def test_the_jobset_fits_together():
  (jobset,) = [
    one for one in _documents('jobset.yaml') if one['kind'] == 'JobSet'
  ]
  jobs = {job['name']: job for job in jobset['spec']['replicatedJobs']}
  assert jobset['spec']['successPolicy']['targetReplicatedJobs'] == ['host']
  host = jobs['host']['template']['spec']
  arguments = _find(jobs['coordinator'], 'args')[0]
  assert f'--max_hosts={host["completions"]}' in arguments
  assert host['completions'] == host['parallelism']
  (service,) = [
    one for one in _documents('jobset.yaml') if one['kind'] == 'Service'
  ]
  assert service['spec']['selector'] == {
    'jobset.sigs.k8s.io/jobset-name': jobset['metadata']['name'],
    'jobset.sigs.k8s.io/replicatedjob-name': 'coordinator',
  }
  # A pod that is told to go may save before it is killed.
  (grace,) = re.findall(r'--grace_s=(\d+)', ' '.join(_find(host, 'args')[0]))
  (limit,) = _find(host, 'terminationGracePeriodSeconds')
  assert int(grace) < limit
  # A failure policy needs this; exit codes as launch/agent.py has them.
  assert _find(host, 'restartPolicy') == ['Never']
  codes = {
    code: rule['action']
    for rule in host['podFailurePolicy']['rules']
    for code in rule.get('onExitCodes', {}).get('values', [])
  }
  ignored = dict.fromkeys((75, 76, 143), 'Ignore')
  assert codes == {1: 'FailJob', 2: 'FailJob', **ignored}


@pytest.mark.parametrize('name', ['jobset.yaml', 'coordinator.yaml'])
def test_coordinators_are_probed(name):
  probed = 0
  for (container,) in _find(_documents(name), 'containers'):
    assert 'livenessProbe' in container
    flags = dict(
      word.split('=', 1) for word in container['args'] if '=' in word
    )
    if '--status_port' not in flags:
      continue
    probe = container['livenessProbe']['httpGet']
    assert (probe['path'], probe['port']) == (
      '/healthz',
      int(flags['--status_port']),
    )
    assert (probe['scheme'] == 'HTTPS') == ('--tls_dir' in flags)
    ready = container['readinessProbe']['tcpSocket']
    assert ready['port'] == int(flags['--port'])
    probed += 1
  assert probed == 1


def test_slurms_journal_is_on_a_disk_of_the_node():
  script = (_FOLDER / 'slurm.sh').read_text()
  assert '--journal="$JOURNAL_DIR/' in script
  assert re.search(r'JOURNAL_DIR=.*SLURM_TMPDIR:-/tmp', script)


def _commands() -> list[tuple[str, list[str]]]:
  """(where, words after python) of every command of the manifests."""
  found = []
  for name in ('jobset.yaml', 'coordinator.yaml'):
    for containers in _find(_documents(name), 'containers'):
      for container in containers:
        words = [*container['command'], *container['args']]
        assert words[0] == 'python'
        found.append((name, words[1:]))
  script = (_FOLDER / 'slurm.sh').read_text().replace('\\\n', ' ')
  for line in re.findall(r'^ *(?:srun .*?)?python (-m .*)$', script, re.M):
    found.append(('slurm.sh', shlex.split(line.split(' &')[0].split(' ||')[0])))
  return found


def _flags_of(script: str) -> set[str]:
  done = warm_python.run('-m', f'launch.{script}', '--helpfull')
  return set(re.findall(r'^  --(?:\[no\])?([\w.]+)', done.stdout, re.M))


def test_every_flag_exists():
  commands = _commands()
  assert len(commands) == 5
  known: dict[str, set[str]] = {}
  for where, words in commands:
    while words:
      if words[0] == '-m':
        script, words = words[1].removeprefix('launch.'), words[2:]
        if script not in known:
          known[script] = _flags_of(script)
      else:
        script, words = words[0], words[1:]
        if script != '$@':
          known[script] = _flags_of(pathlib.Path(script).stem)
      end = words.index('--') if '--' in words else len(words)
      if script != '$@':
        for word in words[:end]:
          name = re.fullmatch(r'--(\w+)=.*', word)
          assert name and name[1] in known[script], f'{where}: {script} {word}'
      words = words[end + 1 :]
  assert set(known) == {'agent', 'coordinator', 'launch/train_gmeta.py'}


def test_slurm_script_parses():
  script = _FOLDER / 'slurm.sh'
  subprocess.run(['bash', '-n', script], check=True)
  options = re.findall(r'^#SBATCH --([\w-]+)', script.read_text(), re.M)
  assert {'nodes', 'no-kill', 'requeue', 'signal'} <= set(options)


_SHIMS = {
  'srun': 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
  'scontrol': 'echo node-1; echo node-2\n',
  'hostname': 'echo 127.0.0.1\n',
  'python': f'exec {shlex.quote(sys.executable)} "$@"\n',
}


@pytest.mark.slow
@pytest.mark.parametrize('code', [0, 1])
def test_slurm_script_runs_a_job(tmp_path, code):
  """With a Slurm of four shell scripts; tokens and TLS are real."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  for name, body in _SHIMS.items():
    shim = folder / name
    shim.write_text('#!/bin/bash\n' + body)
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
  job = tmp_path / 'job.py'
  job.write_text(
    'import os, signal, sys\n'
    "generation = int(os.environ['ANTJAX_GENERATION'])\n"
    "print(os.environ['ANTJAX_WORKER'], generation, sys.argv[1:])\n"
    'if generation == 1: os.kill(os.getpid(), signal.SIGKILL)\n'
    f'if {code}: sys.exit(7)\n'
  )
  script = (_FOLDER / 'slurm.sh').read_text()
  # Few restarts, so that the failure comes within seconds.
  script = script.replace('--min_hosts=', '--max_restarts=1 --min_hosts=')
  path = tmp_path / 'slurm.sh'
  path.write_text(script)
  done = subprocess.run(
    ['bash', path, job, '--a=1 2'],
    cwd=_ROOT,
    env={
      **os.environ,
      'PATH': f'{folder}:{os.environ["PATH"]}',
      'RUN_DIR': str(tmp_path / 'run'),
      'SLURM_TMPDIR': str(tmp_path),
      'PORT': str(host_sockets.free_port('127.0.0.1')),
      'MIN_HOSTS': '2',
      'SLURM_JOB_ID': '7',
      'SLURM_JOB_NUM_NODES': '2',
      'SLURM_JOB_NODELIST': 'node-[1-2]',
    },
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == code, done.stderr
  assert "[0] node-1 2 ['--a=1 2']" in done.stdout
  assert "[1] node-2 2 ['--a=1 2']" in done.stdout
  tokens = tmp_path / 'run' / 'host-tokens'
  assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
  assert 'operator' not in tokens.read_text()
