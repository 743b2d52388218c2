"""What the engine reads: a malformed plan is an error that says what is wrong, and never a crash."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.native.files import FILES
from lvm_runtime.artifact.config import ARCHITECTURES
from tests.lvm_runtime.native.sample import Case

_engine = pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")


def _with_plan(content: bytes, plan: str) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["plan"] = plan
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + content[8 + size :]


def _plan(content: bytes) -> str:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["plan"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("small")
    return [Case(a, folder, kind, rows=2, precision=p, dim=16) for a in ARCHITECTURES for kind, p in FILES]


def _load_and_run(case: Case, content: bytes) -> None:
    """Build the engine and, if it takes the file, run it: neither may crash."""
    try:
        engine = _engine.Engine(content)
    except _engine.FileError:
        return
    about = engine.about
    length, dim = about["context_length"], about["dim"]
    rows = 3 * length if about["form"] == "context" else length + 2
    engine.run(np.ones((rows, dim), np.float32), np.empty((3, dim), np.float32))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_changed_numbers_in_a_plan_never_crash(small: list[Case], data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(small))
    plan = json.loads(_plan(case.content))
    place: Any = plan
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key]:
            break
        place = place[key]
    numbers = st.integers(-3, 200) | st.sampled_from([2**31, 2**40, -(2**63), 1 << 20, 0.5, 1e300, None, True, "x", []])
    place[key] = data.draw(numbers)
    _load_and_run(case, _with_plan(case.content, json.dumps(plan)))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_changed_bytes_in_a_header_never_crash(small: list[Case], data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(small))
    content = bytearray(case.content)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 8 + int.from_bytes(case.content[:8], "little") - 1))] = data.draw(
            st.integers(0, 255)
        )
    stop = data.draw(st.none() | st.integers(0, len(content)))
    _load_and_run(case, bytes(content[:stop]))


def test_malformed_plans_say_what_is_wrong(small: list[Case]) -> None:
    floats, content = (case.content for case in small[:2])
    plan = json.loads(_plan(content))

    def problem(**changes: Any) -> str:
        with pytest.raises(_engine.FileError) as caught:
            _engine.Engine(_with_plan(content, json.dumps(plan | changes)))
        return str(caught.value)

    assert "version is 2" in problem(version=2)
    assert "fp64" in problem(precision="fp64")
    assert "context_length is 65, expected 1 to 64" in problem(context_length=65)
    assert "first buffer" in problem(dim=17)
    assert "operation 0: there is no operation pow" in problem(operations=[plan["operations"][0] | {"op": "pow"}])
    assert "nothing writes the prediction" in problem(operations=plan["operations"][:-1])
    assert "before it is written" in problem(operations=plan["operations"][1:])
    assert "not valid JSON" in _message(b"\x02\0\0\0\0\0\0\0{]")
    assert "too short" in _message(b"")
    assert "is not a matrix of floats" in problem(precision="fp32")
    assert "is not a matrix of signed bytes" in _message(_with_plan(floats, _plan(floats).replace("fp32", "int8")))
    centred = _plan(floats).replace('"weights":{"weight"', '"weights":{"centre":"x","weight"')
    assert "has no centre" in _message(_with_plan(floats, centred))
    assert "NaN or infinity" in _message(floats[:-4] + b"\0\0\xc0\x7f")


def _with_weights(content: bytes, rows: tuple[int, int], value: int) -> bytes:
    """The file with `value` in the last column of two rows of each int8 weight; negative rows count from the end."""
    size = int.from_bytes(content[:8], "little")
    changed = bytearray(content)
    for name, tensor in json.loads(content[8 : 8 + size]).items():
        if name != "__metadata__" and tensor["dtype"] == "I8":
            start, stop = (8 + size + offset for offset in tensor["data_offsets"])
            weight = np.frombuffer(changed, np.int8)[start:stop].reshape(tensor["shape"])
            weight[list(rows), -1] = value
    return bytes(changed)


@pytest.mark.parametrize("value", [65, -65])
def test_neighbouring_weights_that_could_saturate_are_refused(small: list[Case], value: int) -> None:
    content = small[1].content
    assert "neighbours that add up to more than 128" in _message(_with_weights(content, (0, 1), value))
    assert "neighbours that add up to more than 128" in _message(_with_weights(content, (-2, -1), value))
    _engine.Engine(_with_weights(content, (0, 1), value - np.sign(value)))


def _message(content: bytes) -> str:
    with pytest.raises(_engine.FileError) as caught:
        _engine.Engine(content)
    return str(caught.value)
