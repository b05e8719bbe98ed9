from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_BFLOAT16: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]

class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REDUCTION_UNSPECIFIED: _ClassVar[Reduction]
    REDUCTION_NONE: _ClassVar[Reduction]
    REDUCTION_MEAN: _ClassVar[Reduction]
    REDUCTION_SUM: _ClassVar[Reduction]

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_STARTING: _ClassVar[WorkerState]
    WORKER_STATE_READY: _ClassVar[WorkerState]
    WORKER_STATE_RECOVERING: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
    WORKER_STATE_GONE: _ClassVar[WorkerState]

class OverflowMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERFLOW_MODE_UNSPECIFIED: _ClassVar[OverflowMode]
    OVERFLOW_MODE_INF_NAN: _ClassVar[OverflowMode]
    OVERFLOW_MODE_SATURATION: _ClassVar[OverflowMode]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_BFLOAT16: DataType
DATA_TYPE_FLOAT64: DataType
REDUCTION_UNSPECIFIED: Reduction
REDUCTION_NONE: Reduction
REDUCTION_MEAN: Reduction
REDUCTION_SUM: Reduction
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_STARTING: WorkerState
WORKER_STATE_READY: WorkerState
WORKER_STATE_RECOVERING: WorkerState
WORKER_STATE_DRAINING: WorkerState
WORKER_STATE_GONE: WorkerState
OVERFLOW_MODE_UNSPECIFIED: OverflowMode
OVERFLOW_MODE_INF_NAN: OverflowMode
OVERFLOW_MODE_SATURATION: OverflowMode

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ComputeGradientRequest(_message.Message):
    __slots__ = ("predict", "label", "dout", "reduction", "numel")
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    DOUT_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    NUMEL_FIELD_NUMBER: _ClassVar[int]
    predict: Tensor
    label: Tensor
    dout: Tensor
    reduction: Reduction
    numel: int
    def __init__(self, predict: _Optional[_Union[Tensor, _Mapping]] = ..., label: _Optional[_Union[Tensor, _Mapping]] = ..., dout: _Optional[_Union[Tensor, _Mapping]] = ..., reduction: _Optional[_Union[Reduction, str]] = ..., numel: _Optional[int] = ...) -> None: ...

class ComputeGradientResponse(_message.Message):
    __slots__ = ("y", "fallback")
    Y_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    y: Tensor
    fallback: bool
    def __init__(self, y: _Optional[_Union[Tensor, _Mapping]] = ..., fallback: bool = ...) -> None: ...

class StreamGradientsRequest(_message.Message):
    __slots__ = ("headers", "chunks", "cancel_ids")
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_IDS_FIELD_NUMBER: _ClassVar[int]
    headers: _containers.RepeatedCompositeFieldContainer[GradientHeader]
    chunks: _containers.RepeatedCompositeFieldContainer[GradientChunk]
    cancel_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, headers: _Optional[_Iterable[_Union[GradientHeader, _Mapping]]] = ..., chunks: _Optional[_Iterable[_Union[GradientChunk, _Mapping]]] = ..., cancel_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class GradientHeader(_message.Message):
    __slots__ = ("id", "dtype", "shape", "reduction", "scalar_dout", "numel", "time_left_us", "request_id", "traceparent", "tensors", "metadata")
    ID_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    SCALAR_DOUT_FIELD_NUMBER: _ClassVar[int]
    NUMEL_FIELD_NUMBER: _ClassVar[int]
    TIME_LEFT_US_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    id: int
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    reduction: Reduction
    scalar_dout: bytes
    numel: int
    time_left_us: int
    request_id: str
    traceparent: str
    tensors: int
    metadata: _containers.RepeatedCompositeFieldContainer[MetadataEntry]
    def __init__(self, id: _Optional[int] = ..., dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., reduction: _Optional[_Union[Reduction, str]] = ..., scalar_dout: _Optional[bytes] = ..., numel: _Optional[int] = ..., time_left_us: _Optional[int] = ..., request_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., tensors: _Optional[int] = ..., metadata: _Optional[_Iterable[_Union[MetadataEntry, _Mapping]]] = ...) -> None: ...

class MetadataEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class GradientChunk(_message.Message):
    __slots__ = ("id", "offset", "predict", "label", "dout", "shared")
    ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    DOUT_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    id: int
    offset: int
    predict: bytes
    label: bytes
    dout: bytes
    shared: SharedRange
    def __init__(self, id: _Optional[int] = ..., offset: _Optional[int] = ..., predict: _Optional[bytes] = ..., label: _Optional[bytes] = ..., dout: _Optional[bytes] = ..., shared: _Optional[_Union[SharedRange, _Mapping]] = ...) -> None: ...

class SharedRange(_message.Message):
    __slots__ = ("elements", "predict_segment", "predict_offset", "label_segment", "label_offset", "dout_segment", "dout_offset", "y_segment", "y_offset")
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    PREDICT_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    PREDICT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    LABEL_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    LABEL_OFFSET_FIELD_NUMBER: _ClassVar[int]
    DOUT_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    DOUT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    Y_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    Y_OFFSET_FIELD_NUMBER: _ClassVar[int]
    elements: int
    predict_segment: int
    predict_offset: int
    label_segment: int
    label_offset: int
    dout_segment: int
    dout_offset: int
    y_segment: int
    y_offset: int
    def __init__(self, elements: _Optional[int] = ..., predict_segment: _Optional[int] = ..., predict_offset: _Optional[int] = ..., label_segment: _Optional[int] = ..., label_offset: _Optional[int] = ..., dout_segment: _Optional[int] = ..., dout_offset: _Optional[int] = ..., y_segment: _Optional[int] = ..., y_offset: _Optional[int] = ...) -> None: ...

class StreamGradientsResponse(_message.Message):
    __slots__ = ("opened", "results", "errors", "go_away")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    GO_AWAY_FIELD_NUMBER: _ClassVar[int]
    opened: StreamOpened
    results: _containers.RepeatedCompositeFieldContainer[GradientResult]
    errors: _containers.RepeatedCompositeFieldContainer[GradientError]
    go_away: GoAway
    def __init__(self, opened: _Optional[_Union[StreamOpened, _Mapping]] = ..., results: _Optional[_Iterable[_Union[GradientResult, _Mapping]]] = ..., errors: _Optional[_Iterable[_Union[GradientError, _Mapping]]] = ..., go_away: _Optional[_Union[GoAway, _Mapping]] = ...) -> None: ...

class StreamOpened(_message.Message):
    __slots__ = ("instance_id", "limits", "shared_memory", "direct")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    limits: Limits
    shared_memory: SharedMemoryOffer
    direct: DirectOffer
    def __init__(self, instance_id: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., shared_memory: _Optional[_Union[SharedMemoryOffer, _Mapping]] = ..., direct: _Optional[_Union[DirectOffer, _Mapping]] = ...) -> None: ...

class DirectOffer(_message.Message):
    __slots__ = ("host", "port", "secret", "max_message_bytes")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    secret: bytes
    max_message_bytes: int
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ..., secret: _Optional[bytes] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class DirectGreeting(_message.Message):
    __slots__ = ("instance_id", "secret")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    secret: bytes
    def __init__(self, instance_id: _Optional[str] = ..., secret: _Optional[bytes] = ...) -> None: ...

class SharedMemoryOffer(_message.Message):
    __slots__ = ("socket_name", "secret", "max_mapped_bytes", "max_packet_bytes", "socket_path")
    SOCKET_NAME_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    MAX_MAPPED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PACKET_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOCKET_PATH_FIELD_NUMBER: _ClassVar[int]
    socket_name: str
    secret: bytes
    max_mapped_bytes: int
    max_packet_bytes: int
    socket_path: str
    def __init__(self, socket_name: _Optional[str] = ..., secret: _Optional[bytes] = ..., max_mapped_bytes: _Optional[int] = ..., max_packet_bytes: _Optional[int] = ..., socket_path: _Optional[str] = ...) -> None: ...

class SharedMemoryHandover(_message.Message):
    __slots__ = ("instance_id", "secret", "segments", "withdrawn", "requests")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    secret: bytes
    segments: _containers.RepeatedScalarFieldContainer[int]
    withdrawn: _containers.RepeatedScalarFieldContainer[int]
    requests: bool
    def __init__(self, instance_id: _Optional[str] = ..., secret: _Optional[bytes] = ..., segments: _Optional[_Iterable[int]] = ..., withdrawn: _Optional[_Iterable[int]] = ..., requests: bool = ...) -> None: ...

class SharedMemoryHandoverResult(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: _status_pb2.Status
    def __init__(self, status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class GradientResult(_message.Message):
    __slots__ = ("id", "offset", "y", "fallback")
    ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    id: int
    offset: int
    y: bytes
    fallback: bool
    def __init__(self, id: _Optional[int] = ..., offset: _Optional[int] = ..., y: _Optional[bytes] = ..., fallback: bool = ...) -> None: ...

class GradientError(_message.Message):
    __slots__ = ("id", "status")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    id: int
    status: _status_pb2.Status
    def __init__(self, id: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("last_id", "status")
    LAST_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    last_id: int
    status: _status_pb2.Status
    def __init__(self, last_id: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "backend", "device", "kernel_hash", "endpoints", "dtypes", "limits", "numerics", "instance_id", "load")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_HASH_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    version: str
    backend: str
    device: str
    kernel_hash: str
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    dtypes: _containers.RepeatedScalarFieldContainer[DataType]
    limits: Limits
    numerics: Numerics
    instance_id: str
    load: Load
    def __init__(self, version: _Optional[str] = ..., backend: _Optional[str] = ..., device: _Optional[str] = ..., kernel_hash: _Optional[str] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., dtypes: _Optional[_Iterable[_Union[DataType, str]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., numerics: _Optional[_Union[Numerics, _Mapping]] = ..., instance_id: _Optional[str] = ..., load: _Optional[_Union[Load, _Mapping]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("in_flight_requests", "in_flight_bytes", "queued_messages", "open_streams", "state")
    IN_FLIGHT_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUEUED_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    OPEN_STREAMS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    in_flight_requests: int
    in_flight_bytes: int
    queued_messages: int
    open_streams: int
    state: WorkerState
    def __init__(self, in_flight_requests: _Optional[int] = ..., in_flight_bytes: _Optional[int] = ..., queued_messages: _Optional[int] = ..., open_streams: _Optional[int] = ..., state: _Optional[_Union[WorkerState, str]] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("address", "device", "state")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    address: str
    device: str
    state: WorkerState
    def __init__(self, address: _Optional[str] = ..., device: _Optional[str] = ..., state: _Optional[_Union[WorkerState, str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_unary_bytes", "max_stream_message_bytes", "window_chunks", "chunk_bytes", "max_open_requests", "max_in_flight_bytes")
    MAX_UNARY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WINDOW_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_OPEN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_unary_bytes: int
    max_stream_message_bytes: int
    window_chunks: int
    chunk_bytes: int
    max_open_requests: int
    max_in_flight_bytes: int
    def __init__(self, max_unary_bytes: _Optional[int] = ..., max_stream_message_bytes: _Optional[int] = ..., window_chunks: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., max_open_requests: _Optional[int] = ..., max_in_flight_bytes: _Optional[int] = ...) -> None: ...

class Numerics(_message.Message):
    __slots__ = ("intermediate", "subnormals", "rounding", "verified", "overflow_mode", "infinities", "nans", "overflow")
    INTERMEDIATE_FIELD_NUMBER: _ClassVar[int]
    SUBNORMALS_FIELD_NUMBER: _ClassVar[int]
    ROUNDING_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    OVERFLOW_MODE_FIELD_NUMBER: _ClassVar[int]
    INFINITIES_FIELD_NUMBER: _ClassVar[int]
    NANS_FIELD_NUMBER: _ClassVar[int]
    OVERFLOW_FIELD_NUMBER: _ClassVar[int]
    intermediate: str
    subnormals: bool
    rounding: str
    verified: bool
    overflow_mode: OverflowMode
    infinities: bool
    nans: bool
    overflow: bool
    def __init__(self, intermediate: _Optional[str] = ..., subnormals: bool = ..., rounding: _Optional[str] = ..., verified: bool = ..., overflow_mode: _Optional[_Union[OverflowMode, str]] = ..., infinities: bool = ..., nans: bool = ..., overflow: bool = ...) -> None: ...
