"""Every public argument of a wrong type or size is InvalidInput."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime import Artifact, InvalidInput, Predictor, predict_file
from lvm_runtime.corpus.corpus import BUNDLED
from lvm_runtime.request import Request
from lvm_runtime.retrieval import Index, next_chunks
from tests.artifacts import some_contexts

Get = Callable[[str], Path]

WRONG: dict[str, Callable[[Predictor], Any]] = {
    "artifact": lambda p: Predictor(None),  # type: ignore[arg-type]
    "backend": lambda p: Predictor(p.artifact.path, backend=3),  # type: ignore[arg-type]
    "device": lambda p: Predictor(p.artifact.path, device=["cpu"]),  # type: ignore[arg-type]
    "precision": lambda p: Predictor(p.artifact.path, precision=32),  # type: ignore[arg-type]
    "precision, a list": lambda p: Predictor(p.artifact.path, precision=["fp32"]),  # type: ignore[arg-type]
    "precision, an array": lambda p: Predictor(p.artifact.path, precision=np.ones(2)),  # type: ignore[arg-type]
    "max_drift": lambda p: Predictor(p.artifact.path, max_drift="1e-3"),  # type: ignore[arg-type]
    "max_drift, nan": lambda p: Predictor(p.artifact.path, max_drift=np.nan),
    "threads": lambda p: Predictor(p.artifact.path, threads="2"),  # type: ignore[arg-type]
    "threads, true": lambda p: Predictor(p.artifact.path, threads=True),
    "threads, without a text": lambda p: Predictor(p.artifact.path, threads=10**5000),
    "threads, absurd": lambda p: Predictor(p.artifact.path, threads=4096),
    "typical_batch": lambda p: Predictor(p.artifact.path, typical_batch=np.ones(3)),  # type: ignore[arg-type]
    "request": lambda p: Predictor.from_request(p.artifact.path, {}),  # type: ignore[arg-type]
    "contexts": lambda p: p.predict(object()),
    "contexts, masked": lambda p: p.predict(np.ma.masked_invalid(some_contexts(1))),
    "return_attention": lambda p: p.predict(some_contexts(1), return_attention="yes"),  # type: ignore[call-overload]
    "return_attention, an array": lambda p: p.predict(some_contexts(1), return_attention=np.ones(2)),  # type: ignore[call-overload]
    "out": lambda p: p.predict(some_contexts(1), out="out"),  # type: ignore[call-overload]
    "vectors": lambda p: p.predict_sequence(7),
    "vectors, masked": lambda p: p.predict_sequence(np.ma.masked_invalid(some_contexts(1)[0])),
    "steps": lambda p: p.rollout(some_contexts(1), True),
    "steps, a fraction in an array": lambda p: p.rollout(some_contexts(1), np.array(2.7)),  # type: ignore[arg-type]
    "steps, a fraction in a tensor": lambda p: p.rollout(some_contexts(1), torch.tensor(2.7)),  # type: ignore[arg-type]
    "steps, text in an array": lambda p: p.rollout(some_contexts(1), np.array("3")),  # type: ignore[arg-type]
    "max_drift, complex": lambda p: Predictor(p.artifact.path, max_drift=np.complex128(1e-3 + 5j)),  # type: ignore[arg-type]
    "max_drift, true": lambda p: Predictor(p.artifact.path, max_drift=np.True_),  # type: ignore[arg-type]
    "max_drift, text in an array": lambda p: Predictor(p.artifact.path, max_drift=np.array("1")),  # type: ignore[arg-type]
    "steps, without a text": lambda p: p.rollout(some_contexts(1), 10**5000),
    "steps, beyond arrays": lambda p: p.rollout(some_contexts(1), 2**62),
    "stream": lambda p: p.stream(5),  # type: ignore[arg-type]
    "batch_size": lambda p: p.stream([], batch_size="4"),  # type: ignore[arg-type]
    "max_batch": lambda p: p.batcher(max_batch=1.5),  # type: ignore[arg-type]
    "max_delay_ms": lambda p: p.batcher(max_delay_ms="2"),  # type: ignore[arg-type]
    "max_drift, beyond floats": lambda p: Predictor(p.artifact.path, max_drift=10**400),
    "max_delay_ms, without a text": lambda p: p.batcher(max_delay_ms=10**5000),
    "max_delay_ms, infinite": lambda p: p.batcher(max_delay_ms=np.inf),
    "max_pending": lambda p: p.batcher(max_pending=True),
    "timeout": lambda p: p.batcher().submit(some_contexts(1)[0], timeout="1"),  # type: ignore[arg-type]
    "contexts, of a batcher": lambda p: p.batcher().submit(np.ma.masked_invalid(some_contexts(1)[0])).result(20),
    "path, NUL": lambda p: Artifact.load("a\0b"),
    "path, of an artifact": lambda p: Artifact.load(3),  # type: ignore[arg-type]
    "source": lambda p: predict_file(p, None, "o.npy"),  # type: ignore[arg-type]
    "target": lambda p: predict_file(p, BUNDLED, None),  # type: ignore[arg-type]
    "predictor": lambda p: predict_file(None, BUNDLED, "o.npy"),  # type: ignore[arg-type]
    "corpus": lambda p: Index.build(None),  # type: ignore[arg-type]
    "path, of an index": lambda p: Index.open(3),  # type: ignore[arg-type]
    "index": lambda p: next_chunks(p, None, some_contexts(1)),  # type: ignore[arg-type]
    "contexts, awaited": lambda p: asyncio.run(p.batcher().predict(None)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_argument_is_invalid_input(small_artifacts: Get, wrong: str) -> None:
    message = rf"^{wrong.partition(',')[0]}(: got| is) .*(expected|mask)"
    with Predictor(small_artifacts("amn")) as predictor, pytest.raises(InvalidInput, match=message):
        WRONG[wrong](predictor)


def test_integers_of_numpy_are_numbers(small_artifacts: Get) -> None:
    request = Request(threads=np.int64(2), typical_batch=np.uint8(8), max_drift=np.float32(0.5))  # type: ignore[arg-type]
    assert (request.threads, request.typical_batch, request.max_drift) == (2, 8, 0.5)
    with Predictor(small_artifacts("amn")) as predictor:
        assert predictor.rollout(some_contexts(1), np.int32(2)).shape == (1, 2, 16)  # type: ignore[arg-type]
