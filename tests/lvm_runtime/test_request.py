"""What a request allows: the limit of a precision holds, whatever else is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime import Predictor
from lvm_runtime.backends import coreai, onnx
from lvm_runtime.coreml import package
from lvm_runtime.errors import InvalidInput
from lvm_runtime.request import DEVICES, Request


@pytest.mark.parametrize(
    ("asked", "precision", "limit"),
    [
        ({}, "fp32", 1e-6),
        ({}, "int8", 1e-6),
        ({"precision": "int8"}, "int8", 1e-3),
        ({"backend": "onnx"}, "bf16", 1e-3),
        ({"device": "cpu"}, "fp16", 1e-6),
        ({"max_drift": 1e-4}, "int8", 1e-4),
        ({"max_drift": 0.5}, "int8", 1e-3),
        ({"max_drift": 0.5}, "fp32", 1e-6),
        ({"max_drift": 0.5, "backend": "onnx", "precision": "fp16"}, "fp16", 1e-4),
    ],
)
def test_drift_limit_is_that_of_the_precision_or_less(asked: dict[str, Any], precision: str, limit: float) -> None:
    assert Request(**asked).drift_limit(precision) == limit


def test_a_device_that_no_backend_has_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="unknown device 'cuda:0'; expected auto or one of cpu, cuda, mps"):
        Request(device="cuda:0")
    assert {*onnx.PROVIDERS, *coreai.UNITS, *package.UNITS, "mps"} == {*DEVICES}
    assert [Request(device=device).device for device in ("auto", *DEVICES)] == ["auto", *DEVICES]


def test_a_request_serves_as_its_keywords_do(small_artifacts: Callable[[str], Path]) -> None:
    request = Request("onnx", threads=1)
    with Predictor.from_request(small_artifacts("amn"), request) as asked:
        with Predictor(small_artifacts("amn"), backend="onnx", threads=1) as named:
            assert (asked.request, asked.explain()) == (named.request, named.explain())
        assert asked.request == request
