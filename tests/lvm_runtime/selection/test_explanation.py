"""What a Predictor says of itself, word for word and as JSON values."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from lvm_runtime.request import Request
from lvm_runtime.selection.candidates import Refusal
from lvm_runtime.selection.explanation import Explanation, Running

PLACES = {
    "plain": (
        Running("onnx", "cpu", "fp32", 1, "onnx/fp32.onnx", 1.23e-12),
        "onnx fp32 on cpu, 1 thread, drift 1.2e-12 (onnx/fp32.onnx)",
    ),
    "instructions": (
        Running("native", "cpu", "int8", 8, "n", 4e-4, "amx"),
        "native int8 on cpu (amx), 8 threads, drift 4.0e-04 (n)",
    ),
    "no threads": (Running("eager", "cuda:0", "fp32", None, "w", 0.0), "eager fp32 on cuda:0, drift 0.0e+00 (w)"),
}


@pytest.mark.parametrize(("running", "text"), PLACES.values(), ids=PLACES.keys())
def test_what_runs_is_one_line(running: Running, text: str) -> None:
    assert str(running) == text


def test_an_explanation_is_a_line_for_each_fact_and_plain_json() -> None:
    running, text = PLACES["plain"]
    refused = (Refusal("onnx int8", "drift"), Refusal("eager fp32", "not tried"))
    explanation = Explanation("artifacts/amn", "amn", Request(device="cpu", typical_batch=4), running, refused)
    assert str(explanation).splitlines() == [
        "amn from artifacts/amn",
        "  asked for: backend auto, device cpu, typical_batch 4",
        f"  running: {text}",
        "  ruled out: onnx int8: drift",
        "  ruled out: eager fp32: not tried",
    ]
    values = explanation.to_dict()
    assert json.loads(json.dumps(values)) == values | {"refused": [asdict(refusal) for refusal in refused]}
    assert (values["architecture"], values["running"]["file"]) == ("amn", "onnx/fp32.onnx")
