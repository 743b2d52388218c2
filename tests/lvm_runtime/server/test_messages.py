"""The messages are those of the published definition."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from lvm_runtime.server.messages import DEFINITION


def test_the_definition_is_what_protoc_makes_of_the_published_text(tmp_path: Path) -> None:
    made = tmp_path / "made.binpb"
    source = DEFINITION.with_suffix(".proto")
    assert protoc.main(["", f"-I{source.parent}", f"--descriptor_set_out={made}", source.name]) == 0
    assert FileDescriptorSet.FromString(made.read_bytes()) == FileDescriptorSet.FromString(DEFINITION.read_bytes())
    assert source.read_text().startswith(
        "// Copyright 2023 The KServe Authors.\n//\n// Licensed under the Apache License"
    )
