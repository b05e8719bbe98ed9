"""gRPC reflection, versions v1 and v1alpha, which have the same messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

__all__ = ["add_reflection"]

_V1ALPHA = reflection.SERVICE_NAME
_V1 = "grpc.reflection.v1.ServerReflection"
_V1_FILE = "grpc/reflection/v1/reflection.proto"


def add_reflection(server: Any, services: Sequence[str]) -> None:
    """Adds the reflection service to a grpc.aio server, to describe `services` and itself.

    The Python package has only v1alpha, which newer tools try last or not at all.
    """
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer((*services, _V1, _V1ALPHA))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in (_V1, _V1ALPHA)]
    )


def _describe_v1() -> None:
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_V1_FILE)
    except KeyError:
        text = reflection_pb2.DESCRIPTOR.serialized_pb
        file = descriptor_pb2.FileDescriptorProto.FromString(text)
        file.name, file.package = _V1_FILE, _V1.rpartition(".")[0]
        for part in _parts(file):
            for name in ("type_name", "input_type", "output_type"):
                if hasattr(part, name) and getattr(part, name):
                    setattr(
                        part, name, getattr(part, name).replace(".grpc.reflection.v1alpha.", ".grpc.reflection.v1.")
                    )
        pool.Add(file)


def _parts(file: descriptor_pb2.FileDescriptorProto) -> list[Any]:
    fields = [field for message in file.message_type for field in message.field]
    return [*fields, *(method for service in file.service for method in service.method)]
