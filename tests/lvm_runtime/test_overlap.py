"""Arrays that the caller owns: an `out` that lies on the input, and a buffer that is used again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvm_runtime import InvalidInput, Predictor
from tests.artifacts import some_contexts

Get = Callable[[str], Path]


def _strided(array: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    return np.lib.stride_tricks.as_strided(array, shape, strides)


@pytest.mark.parametrize(
    "out_of",
    [
        lambda v: v[4:],
        lambda v: v[:-4],
        lambda v: _strided(np.zeros(16, np.float32), (3000, 16), (0, 4)),
        lambda v: _strided(np.zeros(3016, np.float32), (3000, 16), (4, 4)),
    ],
    ids=["ahead", "in place", "stride 0", "sliding"],
)
def test_an_out_that_lies_on_the_input_or_on_itself_is_refused(small_artifacts: Get, out_of: Any) -> None:
    vectors = some_contexts(1, length=3004)[0]
    before = vectors.copy()
    with Predictor(small_artifacts("amn")) as predictor:
        with pytest.raises(InvalidInput, match=r"shares memory with the input|lie on each other"):
            predictor.predict_sequence(vectors, out=out_of(vectors))
        batch = _strided(vectors, (3000, 5, 16), (64, 64, 4))
        with pytest.raises(InvalidInput, match=r"shares memory with the input|lie on each other"):
            predictor.predict(batch, out=out_of(vectors))
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize("rows", [slice(4, None), slice(None, -4), slice(None, None, -1)], ids=str)
def test_an_out_in_another_mapping_of_the_input_is_refused(small_artifacts: Get, tmp_path: Path, rows: slice) -> None:
    vectors = some_contexts(1, length=3004)[0]
    vectors.tofile(tmp_path / "both")
    source = np.memmap(tmp_path / "both", np.float32, "r", shape=(3004, 16))
    out = np.memmap(tmp_path / "both", np.float32, "r+", shape=(3004, 16))[rows][:3000]
    with Predictor(small_artifacts("amn")) as predictor:
        with pytest.raises(InvalidInput, match="shares memory with the input"):
            predictor.predict_sequence(source, out=np.asarray(out))
        np.testing.assert_array_equal(source, vectors)
        apart = np.memmap(tmp_path / "both", np.float32, "r+", 3004 * 64, (3000, 16))
        private = np.memmap(tmp_path / "both", np.float32, "c", shape=(3000, 16))
        expected = predictor.predict_sequence(vectors)
        for whole in (apart, private):
            np.testing.assert_array_equal(predictor.predict_sequence(source, out=whole), expected)


def test_an_out_beside_the_input_is_filled(small_artifacts: Get) -> None:
    both = np.zeros((3000, 6, 16), np.float32)
    both[:, :5] = some_contexts(3000)
    with Predictor(small_artifacts("amn")) as predictor:
        expected = predictor.predict(both[:, :5].copy())
        assert predictor.predict(both[:, :5], out=both[:, 5]) is not None
    np.testing.assert_array_equal(both[:, 5], expected)


def test_the_caller_may_use_its_array_again(small_artifacts: Get) -> None:
    contexts = some_contexts(8)
    buffer = np.empty((5, 16), np.float32)

    def read() -> Iterator[Any]:
        for context in contexts:
            buffer[:] = context
            yield buffer

    with Predictor(small_artifacts("amn")) as predictor, predictor.batcher(max_delay_ms=100) as batcher:
        futures = [batcher.submit(array) for array in read()]
        buffer[:] = np.nan
        found = np.stack([future.result(20) for future in futures])
        np.testing.assert_allclose(found, predictor.predict(contexts), rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.stack(list(predictor.stream(read()))), found, rtol=0, atol=1e-6)
