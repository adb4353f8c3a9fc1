from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXACTLY_ONCE: _ClassVar[Delivery]
    AT_MOST_ONCE: _ClassVar[Delivery]
EXACTLY_ONCE: Delivery
AT_MOST_ONCE: Delivery

class Head(_message.Message):
    __slots__ = ("job", "client", "incarnation", "sequence", "generation", "revision", "revision_proof")
    JOB_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REVISION_PROOF_FIELD_NUMBER: _ClassVar[int]
    job: str
    client: str
    incarnation: int
    sequence: int
    generation: int
    revision: int
    revision_proof: bytes
    def __init__(self, job: _Optional[str] = ..., client: _Optional[str] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ..., generation: _Optional[int] = ..., revision: _Optional[int] = ..., revision_proof: _Optional[bytes] = ...) -> None: ...

class Empty(_message.Message):
    __slots__ = ("revision", "revision_proof")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REVISION_PROOF_FIELD_NUMBER: _ClassVar[int]
    revision: int
    revision_proof: bytes
    def __init__(self, revision: _Optional[int] = ..., revision_proof: _Optional[bytes] = ...) -> None: ...

class DataSet(_message.Message):
    __slots__ = ("name", "num_records", "shard_size", "seed", "num_epochs", "is_stream", "max_data_errors", "delivery")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_RECORDS_FIELD_NUMBER: _ClassVar[int]
    SHARD_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NUM_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    IS_STREAM_FIELD_NUMBER: _ClassVar[int]
    MAX_DATA_ERRORS_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_records: int
    shard_size: int
    seed: int
    num_epochs: int
    is_stream: bool
    max_data_errors: int
    delivery: Delivery
    def __init__(self, name: _Optional[str] = ..., num_records: _Optional[int] = ..., shard_size: _Optional[int] = ..., seed: _Optional[int] = ..., num_epochs: _Optional[int] = ..., is_stream: _Optional[bool] = ..., max_data_errors: _Optional[int] = ..., delivery: _Optional[_Union[Delivery, str]] = ...) -> None: ...

class Shard(_message.Message):
    __slots__ = ("epoch", "index", "start", "stop")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    index: int
    start: int
    stop: int
    def __init__(self, epoch: _Optional[int] = ..., index: _Optional[int] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("shard", "consumed")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    CONSUMED_FIELD_NUMBER: _ClassVar[int]
    shard: Shard
    consumed: bytes
    def __init__(self, shard: _Optional[_Union[Shard, _Mapping]] = ..., consumed: _Optional[bytes] = ...) -> None: ...

class DataError(_message.Message):
    __slots__ = ("shard", "message")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    shard: Shard
    message: str
    def __init__(self, shard: _Optional[_Union[Shard, _Mapping]] = ..., message: _Optional[str] = ...) -> None: ...

class CreateDataSetRequest(_message.Message):
    __slots__ = ("head", "data_set")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_SET_FIELD_NUMBER: _ClassVar[int]
    head: Head
    data_set: DataSet
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., data_set: _Optional[_Union[DataSet, _Mapping]] = ...) -> None: ...

class BeginRequest(_message.Message):
    __slots__ = ("head", "data_set", "state", "pass_number")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_SET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PASS_NUMBER_FIELD_NUMBER: _ClassVar[int]
    head: Head
    data_set: str
    state: bytes
    pass_number: int
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., data_set: _Optional[str] = ..., state: _Optional[bytes] = ..., pass_number: _Optional[int] = ...) -> None: ...

class ExchangeRequest(_message.Message):
    __slots__ = ("head", "data_set", "pass_number", "consumed", "progress", "returned", "failed", "num_wanted")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_SET_FIELD_NUMBER: _ClassVar[int]
    PASS_NUMBER_FIELD_NUMBER: _ClassVar[int]
    CONSUMED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    NUM_WANTED_FIELD_NUMBER: _ClassVar[int]
    head: Head
    data_set: str
    pass_number: int
    consumed: _containers.RepeatedCompositeFieldContainer[Shard]
    progress: _containers.RepeatedCompositeFieldContainer[Lease]
    returned: _containers.RepeatedCompositeFieldContainer[Lease]
    failed: _containers.RepeatedCompositeFieldContainer[DataError]
    num_wanted: int
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., data_set: _Optional[str] = ..., pass_number: _Optional[int] = ..., consumed: _Optional[_Iterable[_Union[Shard, _Mapping]]] = ..., progress: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., returned: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., failed: _Optional[_Iterable[_Union[DataError, _Mapping]]] = ..., num_wanted: _Optional[int] = ...) -> None: ...

class ExchangeReply(_message.Message):
    __slots__ = ("leases", "outcome", "first_open_epoch", "revision", "revision_proof")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LEASED: _ClassVar[ExchangeReply.Outcome]
        WAIT: _ClassVar[ExchangeReply.Outcome]
        FINISHED: _ClassVar[ExchangeReply.Outcome]
    LEASED: ExchangeReply.Outcome
    WAIT: ExchangeReply.Outcome
    FINISHED: ExchangeReply.Outcome
    LEASES_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FIRST_OPEN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REVISION_PROOF_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    outcome: ExchangeReply.Outcome
    first_open_epoch: int
    revision: int
    revision_proof: bytes
    def __init__(self, leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., outcome: _Optional[_Union[ExchangeReply.Outcome, str]] = ..., first_open_epoch: _Optional[int] = ..., revision: _Optional[int] = ..., revision_proof: _Optional[bytes] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("head", "step", "states")
    class StatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    HEAD_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    head: Head
    step: int
    states: _containers.ScalarMap[str, bytes]
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., step: _Optional[int] = ..., states: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class ExtendStreamRequest(_message.Message):
    __slots__ = ("head", "data_set", "num_records", "is_closed")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_SET_FIELD_NUMBER: _ClassVar[int]
    NUM_RECORDS_FIELD_NUMBER: _ClassVar[int]
    IS_CLOSED_FIELD_NUMBER: _ClassVar[int]
    head: Head
    data_set: str
    num_records: int
    is_closed: bool
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., data_set: _Optional[str] = ..., num_records: _Optional[int] = ..., is_closed: _Optional[bool] = ...) -> None: ...

class BatchTime(_message.Message):
    __slots__ = ("step", "end_unix_s", "compute_s", "wait_s", "num_micro_batches", "num_samples", "device_s")
    STEP_FIELD_NUMBER: _ClassVar[int]
    END_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    NUM_MICRO_BATCHES_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_S_FIELD_NUMBER: _ClassVar[int]
    step: int
    end_unix_s: float
    compute_s: float
    wait_s: float
    num_micro_batches: int
    num_samples: int
    device_s: float
    def __init__(self, step: _Optional[int] = ..., end_unix_s: _Optional[float] = ..., compute_s: _Optional[float] = ..., wait_s: _Optional[float] = ..., num_micro_batches: _Optional[int] = ..., num_samples: _Optional[int] = ..., device_s: _Optional[float] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("cpu_share", "rss_bytes", "memory_bytes")
    CPU_SHARE_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    cpu_share: float
    rss_bytes: int
    memory_bytes: int
    def __init__(self, cpu_share: _Optional[float] = ..., rss_bytes: _Optional[int] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("head", "step", "num_samples", "batch_times", "resources", "device_kind", "num_devices", "max_micro_batches", "plan_version", "is_last", "loss")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BATCH_TIMES_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KIND_FIELD_NUMBER: _ClassVar[int]
    NUM_DEVICES_FIELD_NUMBER: _ClassVar[int]
    MAX_MICRO_BATCHES_FIELD_NUMBER: _ClassVar[int]
    PLAN_VERSION_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    head: Head
    step: int
    num_samples: int
    batch_times: _containers.RepeatedCompositeFieldContainer[BatchTime]
    resources: Resources
    device_kind: str
    num_devices: int
    max_micro_batches: int
    plan_version: int
    is_last: bool
    loss: float
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., step: _Optional[int] = ..., num_samples: _Optional[int] = ..., batch_times: _Optional[_Iterable[_Union[BatchTime, _Mapping]]] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., device_kind: _Optional[str] = ..., num_devices: _Optional[int] = ..., max_micro_batches: _Optional[int] = ..., plan_version: _Optional[int] = ..., is_last: _Optional[bool] = ..., loss: _Optional[float] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("version", "num_micro_batches", "lr_scale", "deadline_s", "reason")
    class NumMicroBatchesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_MICRO_BATCHES_FIELD_NUMBER: _ClassVar[int]
    LR_SCALE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: int
    num_micro_batches: _containers.ScalarMap[str, int]
    lr_scale: float
    deadline_s: float
    reason: str
    def __init__(self, version: _Optional[int] = ..., num_micro_batches: _Optional[_Mapping[str, int]] = ..., lr_scale: _Optional[float] = ..., deadline_s: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("plan", "is_stopping", "revision", "beat_s", "mtbf_s", "revision_proof")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    IS_STOPPING_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BEAT_S_FIELD_NUMBER: _ClassVar[int]
    MTBF_S_FIELD_NUMBER: _ClassVar[int]
    REVISION_PROOF_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    is_stopping: bool
    revision: int
    beat_s: float
    mtbf_s: float
    revision_proof: bytes
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., is_stopping: _Optional[bool] = ..., revision: _Optional[int] = ..., beat_s: _Optional[float] = ..., mtbf_s: _Optional[float] = ..., revision_proof: _Optional[bytes] = ...) -> None: ...

class NodeCheck(_message.Message):
    __slots__ = ("state", "error", "is_wrong", "platform", "device_kind", "num_devices", "matmul_flops", "memory_bytes", "disk_bytes", "link_port", "link_key", "links")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NONE: _ClassVar[NodeCheck.State]
        RUNNING: _ClassVar[NodeCheck.State]
        DONE: _ClassVar[NodeCheck.State]
        FAILED: _ClassVar[NodeCheck.State]
    NONE: NodeCheck.State
    RUNNING: NodeCheck.State
    DONE: NodeCheck.State
    FAILED: NodeCheck.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    IS_WRONG_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KIND_FIELD_NUMBER: _ClassVar[int]
    NUM_DEVICES_FIELD_NUMBER: _ClassVar[int]
    MATMUL_FLOPS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    LINK_PORT_FIELD_NUMBER: _ClassVar[int]
    LINK_KEY_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    state: NodeCheck.State
    error: str
    is_wrong: bool
    platform: str
    device_kind: str
    num_devices: int
    matmul_flops: float
    memory_bytes: float
    disk_bytes: float
    link_port: int
    link_key: int
    links: _containers.RepeatedCompositeFieldContainer[Link]
    def __init__(self, state: _Optional[_Union[NodeCheck.State, str]] = ..., error: _Optional[str] = ..., is_wrong: _Optional[bool] = ..., platform: _Optional[str] = ..., device_kind: _Optional[str] = ..., num_devices: _Optional[int] = ..., matmul_flops: _Optional[float] = ..., memory_bytes: _Optional[float] = ..., disk_bytes: _Optional[float] = ..., link_port: _Optional[int] = ..., link_key: _Optional[int] = ..., links: _Optional[_Iterable[_Union[Link, _Mapping]]] = ...) -> None: ...

class Link(_message.Message):
    __slots__ = ("peer", "bytes")
    PEER_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    peer: str
    bytes: float
    def __init__(self, peer: _Optional[str] = ..., bytes: _Optional[float] = ...) -> None: ...

class LinkTask(_message.Message):
    __slots__ = ("peer", "address", "port", "key")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    peer: str
    address: str
    port: int
    key: int
    def __init__(self, peer: _Optional[str] = ..., address: _Optional[str] = ..., port: _Optional[int] = ..., key: _Optional[int] = ...) -> None: ...

class AgentBeatRequest(_message.Message):
    __slots__ = ("head", "address", "free_port", "status", "generation", "exit_code", "log_tail", "resources", "device_kind", "min_hosts", "max_hosts", "check")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        IDLE: _ClassVar[AgentBeatRequest.Status]
        RUNNING: _ClassVar[AgentBeatRequest.Status]
        EXITED: _ClassVar[AgentBeatRequest.Status]
    IDLE: AgentBeatRequest.Status
    RUNNING: AgentBeatRequest.Status
    EXITED: AgentBeatRequest.Status
    HEAD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FREE_PORT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    LOG_TAIL_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KIND_FIELD_NUMBER: _ClassVar[int]
    MIN_HOSTS_FIELD_NUMBER: _ClassVar[int]
    MAX_HOSTS_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    head: Head
    address: str
    free_port: int
    status: AgentBeatRequest.Status
    generation: int
    exit_code: int
    log_tail: str
    resources: Resources
    device_kind: str
    min_hosts: int
    max_hosts: int
    check: NodeCheck
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., address: _Optional[str] = ..., free_port: _Optional[int] = ..., status: _Optional[_Union[AgentBeatRequest.Status, str]] = ..., generation: _Optional[int] = ..., exit_code: _Optional[int] = ..., log_tail: _Optional[str] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., device_kind: _Optional[str] = ..., min_hosts: _Optional[int] = ..., max_hosts: _Optional[int] = ..., check: _Optional[_Union[NodeCheck, _Mapping]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("generation", "rank", "num_hosts", "jax_coordinator")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    NUM_HOSTS_FIELD_NUMBER: _ClassVar[int]
    JAX_COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    generation: int
    rank: int
    num_hosts: int
    jax_coordinator: str
    def __init__(self, generation: _Optional[int] = ..., rank: _Optional[int] = ..., num_hosts: _Optional[int] = ..., jax_coordinator: _Optional[str] = ...) -> None: ...

class AgentBeatReply(_message.Message):
    __slots__ = ("command", "assignment", "exit_code", "reason", "revision", "beat_s", "is_hung", "is_to_check", "link", "generation")
    class Command(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NONE: _ClassVar[AgentBeatReply.Command]
        RUN: _ClassVar[AgentBeatReply.Command]
        KILL: _ClassVar[AgentBeatReply.Command]
        STOP: _ClassVar[AgentBeatReply.Command]
        EXIT: _ClassVar[AgentBeatReply.Command]
    NONE: AgentBeatReply.Command
    RUN: AgentBeatReply.Command
    KILL: AgentBeatReply.Command
    STOP: AgentBeatReply.Command
    EXIT: AgentBeatReply.Command
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BEAT_S_FIELD_NUMBER: _ClassVar[int]
    IS_HUNG_FIELD_NUMBER: _ClassVar[int]
    IS_TO_CHECK_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    command: AgentBeatReply.Command
    assignment: Assignment
    exit_code: int
    reason: str
    revision: int
    beat_s: float
    is_hung: bool
    is_to_check: bool
    link: LinkTask
    generation: int
    def __init__(self, command: _Optional[_Union[AgentBeatReply.Command, str]] = ..., assignment: _Optional[_Union[Assignment, _Mapping]] = ..., exit_code: _Optional[int] = ..., reason: _Optional[str] = ..., revision: _Optional[int] = ..., beat_s: _Optional[float] = ..., is_hung: _Optional[bool] = ..., is_to_check: _Optional[bool] = ..., link: _Optional[_Union[LinkTask, _Mapping]] = ..., generation: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("head",)
    HEAD_FIELD_NUMBER: _ClassVar[int]
    head: Head
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class OperateRequest(_message.Message):
    __slots__ = ("head", "action", "target", "plan", "reason")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    head: Head
    action: str
    target: str
    plan: Plan
    reason: str
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., action: _Optional[str] = ..., target: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class StartGeneration(_message.Message):
    __slots__ = ("job", "members", "jax_coordinator")
    JOB_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    JAX_COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    job: str
    members: _containers.RepeatedScalarFieldContainer[str]
    jax_coordinator: str
    def __init__(self, job: _Optional[str] = ..., members: _Optional[_Iterable[str]] = ..., jax_coordinator: _Optional[str] = ...) -> None: ...

class EndGeneration(_message.Message):
    __slots__ = ("job", "generation", "is_success", "is_final", "counts", "reason", "replaced", "error")
    JOB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    IS_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    IS_FINAL_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    job: str
    generation: int
    is_success: bool
    is_final: bool
    counts: bool
    reason: str
    replaced: _containers.RepeatedScalarFieldContainer[str]
    error: str
    def __init__(self, job: _Optional[str] = ..., generation: _Optional[int] = ..., is_success: _Optional[bool] = ..., is_final: _Optional[bool] = ..., counts: _Optional[bool] = ..., reason: _Optional[str] = ..., replaced: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ...) -> None: ...

class ExpireWorkers(_message.Message):
    __slots__ = ("job", "workers", "reason")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job: str
    workers: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    def __init__(self, job: _Optional[str] = ..., workers: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ...) -> None: ...

class SetPlan(_message.Message):
    __slots__ = ("job", "plan")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    job: str
    plan: Plan
    def __init__(self, job: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class RecoverJob(_message.Message):
    __slots__ = ("job", "revision", "generation", "reason")
    JOB_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job: str
    revision: int
    generation: int
    reason: str
    def __init__(self, job: _Optional[str] = ..., revision: _Optional[int] = ..., generation: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ResumeJob(_message.Message):
    __slots__ = ("job", "revision")
    JOB_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    job: str
    revision: int
    def __init__(self, job: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...
