"""The messages of the protocol's gRPC side, made from its published definition.

`open_inference.proto` is the definition as published. protoc, which grpcio-tools brings, makes the other file of it:

    protoc --descriptor_set_out=open_inference.binpb open_inference.proto

The classes are made from that here, in a pool of their own: code that protoc generates is bound to one major version
of protobuf, and clashes with that of a client in the same process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

DEFINITION = Path(__file__).with_name("open_inference.binpb")

_pool = DescriptorPool()
for _file in FileDescriptorSet.FromString(DEFINITION.read_bytes()).file:
    _pool.AddSerializedFile(_file.SerializeToString())

SERVICE = _pool.FindServiceByName("inference.GRPCInferenceService")


def message(name: str) -> Any:
    """Return the class of a message, such as "ModelInferRequest"."""
    return GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}"))
