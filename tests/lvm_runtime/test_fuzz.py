"""Predictors that are handed anything: a documented error, or finite rows of norm 1."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvm_runtime import InvalidInput, Predictor
from lvm_runtime.batcher import Batcher
from tests.artifacts import some_contexts
from tests.fuzzing import quick_settings

FORMS = ["onnx", "openvino", "torchscript", "eager"]
HUGE = [1e3, 9.99e5, 1.01e6, 1e19, 1e20, 3e38, 1e39, 1e300, np.inf, -np.inf, np.nan]
TINY = [0.0, -0.0, 1e-3, 1e-30, 1e-38, 1.4e-45, 1e-45, 1e-310, 5e-324]
DTYPES = ["f2", "<f4", ">f4", "<f8", ">f8", "g", "i1", "i4", "u8", "?", "c8", "O", "U3", "M8[s]", "V4"]
POOL = some_contexts(600)
sizes = st.sampled_from([0, 1, 2, 4, 5, 6, 15, 16, 17, 40])
shapes = st.one_of(
    st.tuples(st.sampled_from([0, 1, 2, 3, 40]), st.just(5), st.just(16)),
    st.sampled_from([(5, 16), (40, 16)]),
    st.lists(sizes, max_size=4).map(tuple),
)


@st.composite
def arrays(draw: Any) -> Any:
    """Arrays of any shape, type, layout and values; most are nearly contexts."""
    shape = draw(shapes)
    values = np.resize(POOL, shape).astype(np.float64) * draw(st.sampled_from([1.0, 1.0, 1e-20, 1e-40, 1e4, 1e5, 1e6]))
    flat = values.reshape(-1)
    for value in draw(st.lists(st.sampled_from(HUGE + TINY) | st.floats(), max_size=3)) if flat.size else ():
        flat[draw(st.integers(0, flat.size - 1))] = value
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts of numpy
        array = np.asarray(values).astype(
            draw(st.just("f4") | st.sampled_from(DTYPES)), order=draw(st.sampled_from("CFK"))
        )
    array = np.asarray(array)  # without axes numpy hands out scalars
    layout = draw(st.integers(0, 8))
    if layout == 0:
        array = np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    elif layout == 1:
        array = array[::-1] if array.ndim else array
    elif layout == 2:
        array = np.broadcast_to(array, (3, *array.shape))
    elif layout == 3:
        shifted = np.frombuffer(b"\0" + np.ascontiguousarray(array).tobytes(), np.uint8)[1:]
        array = shifted.view(array.dtype).reshape(array.shape) if array.dtype != object else array
    elif layout == 4:
        array = np.ma.masked_array(array, mask=False)
    elif layout == 5:
        array.flags.writeable = False
    return array


def _as_tensor(array: Any) -> Any:
    try:
        return torch.from_numpy(np.array(array))
    except (TypeError, ValueError):
        return array


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
nested = st.recursive(scalars, lambda children: st.lists(children, max_size=6) | st.dictionaries(scalars, children))
values = st.one_of(
    arrays(),
    arrays().map(_as_tensor),
    arrays().map(lambda array: _as_tensor(array).to(torch.bfloat16) if array.dtype == np.float32 else array),
    arrays().map(lambda array: array.tolist()),
    nested,
    st.sampled_from([object(), int, len, np.float32(1), memoryview(b"12"), range(5), {1}, torch.nn.Linear(2, 2)]),
)


@pytest.fixture(scope="module")
def served(small_artifacts: Callable[[str], Path]) -> Iterator[dict[str, tuple[Predictor, Batcher]]]:
    """Yield a Predictor of each backend, with a batcher."""
    predictors = {name: Predictor(small_artifacts("gru"), backend=name, threads=1) for name in FORMS}
    yield {name: (p, p.batcher(max_delay_ms=0)) for name, p in predictors.items()}
    for predictor in predictors.values():
        predictor.close()


def _try(predictor: Predictor, batcher: Batcher, call: str, value: Any) -> str:
    try:
        if call == "predict":
            found = predictor.predict(value)
        elif call == "predict_sequence":
            found = predictor.predict_sequence(value)
        elif call == "rollout":
            found = predictor.rollout(value, 2)
        elif call == "stream":
            found = np.array(list(predictor.stream(value if isinstance(value, list) else [value])))
        else:
            found = batcher.submit(value).result(30)
    except InvalidInput as error:
        return "refused" if str(error).isprintable() else repr(error)
    norms = np.linalg.norm(np.asarray(found, np.float64), axis=-1) if np.size(found) else np.ones(1)
    np.testing.assert_allclose(norms, 1, rtol=0, atol=1e-5)
    return "answered"


calls = st.sampled_from(["predict", "predict", "predict_sequence", "rollout", "stream", "submit"])


@quick_settings(150)
@given(call=calls, value=values)
@pytest.mark.parametrize("backend", FORMS)
def test_any_input_is_refused_or_answered(served: Any, backend: str, call: str, value: Any) -> None:
    assert _try(*served[backend], call, value) in ("refused", "answered")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@quick_settings(10_000)
@given(call=calls, value=values)
@pytest.mark.parametrize("backend", FORMS)
def test_very_many_inputs_are_refused_or_answered(served: Any, backend: str, call: str, value: Any) -> None:
    assert _try(*served[backend], call, value) in ("refused", "answered")
