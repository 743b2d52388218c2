"""Export to ONNX: deployment forms as graphs, in fp32 and int8."""
