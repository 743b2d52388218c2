"""Where the native forms lie in an artifact."""

PRECISIONS = ("fp32", "int8")
FILES = {
    ("context", "fp32"): "native/fp32.safetensors",
    ("context", "int8"): "native/int8.safetensors",
    ("sequence", "fp32"): "native/sequence-fp32.safetensors",
    ("sequence", "int8"): "native/sequence-int8.safetensors",
}
"""The file of a form's kind in a precision."""
