# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Changes of a job by decisions and operators: generations, plans, fences.

Each function returns whether it has changed something.
"""

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import job_data
from antjax.elastic.job_state import GenerationRecord, JobState
from antjax.elastic.protocol import invalid

_OPERATIONS = ('stop', 'restart', 'replace', 'set_plan', 'retry_set_aside')
_MAX_TEXT = 1000
_MAX_REPLACED = 1000
_MAX_GAPS = 64


def start_generation(
  job: JobState, message: pb.StartGeneration, now: float
) -> bool:
  """Begins the next generation of a job that waits."""
  if job.phase != 'waiting':
    return False
  members = list(message.members)
  last = job.history[-1].members if job.history else members
  if set(last) != set(members) or set(job.replaced) & set(members):
    if job.plan.version:  # It was made for other hosts.
      _set_plan(job, pb.Plan(reason='other hosts: as set up'))
  job.generation += 1
  job.is_managed = True
  job.phase = 'running'
  job.members, job.jax_coordinator = members, message.jax_coordinator
  job.is_restart_asked, job.replace_asked = False, []
  job.replaced = [name for name in job.replaced if name not in members]
  _release_all(job)
  job.history.append(GenerationRecord(job.generation, members, now))
  return True


def end_generation(
  job: JobState, message: pb.EndGeneration, now: float
) -> bool:
  """Ends the running generation, or a job that waits for good."""
  if job.phase == 'ended' or message.generation != job.generation:
    return False
  was_running = job.phase == 'running'
  if not was_running and not message.is_final:
    return False
  reason = message.reason[:_MAX_TEXT]
  job.phase = 'ended' if message.is_final else 'waiting'
  job.is_success = message.is_final and message.is_success
  if was_running:
    job.restarts_used += message.counts
    if message.counts:
      job.num_same_errors = job.same_errors_with(message.error)
      job.error, job.error_step = message.error, job.last_step
    gone = [name for name in message.replaced if name not in job.replaced]
    job.replaced = [*job.replaced, *gone][-_MAX_REPLACED:]
    _release_all(job)
    last = job.history[-1]
    last.ended_unix_s = now
    last.reason, last.counts = reason, message.counts
    job.mtbf_s = job.measured_mtbf_s()
  job.is_restart_asked, job.replace_asked = False, []
  job.actions.append((now, f'generation {job.generation} ended: {reason}'))
  return True


def expire_workers(
  job: JobState, message: pb.ExpireWorkers, now: float
) -> bool:
  """Gives the shards of workers back, and fences the workers off."""
  gone = set(message.workers)
  count = sum(ledger.release(gone) for ledger in job.data_sets.values())
  clients = [job.clients[name] for name in gone if name in job.clients]
  if not count and all(client.is_expired for client in clients):
    return False
  for client in clients:
    client.is_expired = True
  text = (
    f'{", ".join(sorted(gone))[:200]} expired ({message.reason[:200]}):'
    f' {count} shards go to others'
  )
  job.actions.append((now, text))
  return True


def recover(job: JobState, message: pb.RecoverJob, now: float) -> bool:
  """Makes a job of which the journal lost a part begin at its checkpoint.

  Nobody who was there before is heard any more, and their generation is over.
  """
  if message.revision <= job.revision:
    return False
  reason = message.reason[:_MAX_TEXT]
  job.revision = job.least_revision = message.revision
  job.gaps = []  # All of before are fenced off.
  job.generation = message.generation
  if job.phase == 'running':
    last = job.history[-1]
    last.ended_unix_s, last.reason = now, reason
  job.phase, job.is_success = 'waiting', False
  _release_all(job)
  for data in job.sets.values():
    data.generation, data.begun_by = -1, set()
  job.actions.append((now, reason))
  return True


def resume(job: JobState, message: pb.ResumeJob, now: float) -> bool:
  """Notes the revisions that nobody is told, since a coordinator restarted."""
  del now
  if message.revision <= job.revision:
    return False
  job.gaps = [*job.gaps, (job.revision, message.revision)][-_MAX_GAPS:]
  job.revision = message.revision
  return True


def set_plan(job: JobState, message: pb.SetPlan, now: float) -> bool:
  """Puts a plan in force, unless the job has ended."""
  del now
  if job.phase == 'ended':
    return False
  _set_plan(job, message.plan)
  return True


def _set_plan(job: JobState, plan: pb.Plan) -> None:
  """Takes a plan over; its version is the next one, whatever it says."""
  version = job.plan.version + 1
  job.plan = pb.Plan()
  job.plan.CopyFrom(plan)
  job.plan.version = version
  job.plan.lr_scale = plan.lr_scale or 1.0


def why_ended(job: JobState, *, is_new: bool) -> str:
  """What an agent of an ended job says as it leaves; a new one came after."""
  reason = job.history[-1].reason if job.history else 'stopped as asked'
  if not is_new:
    return reason
  return (
    f'job {job.name} has ended already; `python -m launch.coordinator'
    f' --operate=restart --job={job.name}`, with the --address and --port of'
    f' the coordinator, lets it resume. It had ended so: {reason}'
  )


def operate(job: JobState, request: pb.OperateRequest, now: float) -> bool:
  """Does what an operator, or the controller, asks for.

  Raises:
    Refused: There is no such action, or nothing that it could be done to.
  """
  action, target = request.action, request.target
  if action == 'stop':
    job.is_stopping = True
  elif action == 'restart':
    _restart(job)
  elif action == 'replace':
    _replace(job, target)
  elif action == 'set_plan':
    _set_plan(job, request.plan)
  elif action == 'retry_set_aside':
    names = [target] if target else list(job.sets)
    for data in [job_data.data_set(job, name) for name in names]:
      data.ledger.retry_set_aside()
  else:
    raise invalid(
      f'Operate: action must be one of {", ".join(_OPERATIONS)}; got'
      f' {action!r}.'
    )
  text = f'{action} {target}'.strip() + f' by {request.head.client}'
  if request.reason:
    text += f': {request.reason}'
  job.actions.append((now, text[:_MAX_TEXT]))
  return True


def _restart(job: JobState) -> None:
  # Only agents end a job, were it before its first generation.
  if not job.is_managed and job.phase != 'ended':
    raise invalid(f'restart: no agents run job {job.name!r}.')
  job.is_stopping = False
  if job.phase == 'running':
    job.is_restart_asked = True
  elif job.phase == 'ended':
    job.phase, job.is_success = 'waiting', False
    job.restarts_used = job.num_same_errors = 0


def _replace(job: JobState, worker: str) -> None:
  if job.phase != 'running' or worker not in job.members:
    raise invalid(
      f'replace: {worker!r} is no worker of job {job.name!r} now; it has'
      f' {", ".join(job.members[:20]) or "none"}.'
    )
  if worker not in job.replace_asked:
    job.replace_asked.append(worker)


def _release_all(job: JobState) -> None:
  for ledger in job.data_sets.values():
    ledger.release()
