"""Where ONNX files lie in an artifact."""

from __future__ import annotations

PRECISIONS = ("fp32", "int8")
SEQUENCE_FILE = "onnx/sequence-fp32.onnx"


def context_file(precision: str) -> str:
    """Return where the context form of `precision` lies in an artifact."""
    return f"onnx/{precision}.onnx"
