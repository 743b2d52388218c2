"""A document in the native engine has the bits of its windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.forms import refinements
from lvm_runtime.artifact.config import ARCHITECTURES
from tests.lvm_runtime.native.sample import DRIFT, Case

pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_refined_products_give_a_document_its_windows_bits(
    architecture: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every weight has what its rounding left, and no row is halved, so that biases of positions could be folded in."""
    for name, number in {"TOLERATED": 0, "AIM": 0, "MOST_MORE": 9, "LEAST_WORTH": -1}.items():
        monkeypatch.setattr(refinements, name, number)
    found = refinements._refinements
    monkeypatch.setattr(refinements, "_refinements", lambda *given: (r for r in found(*given) if r.start is not None))
    windows = Case(architecture, tmp_path, rows=400, context_length=length)
    sequence = Case(architecture, tmp_path, "sequence", context_length=length)
    assert b"_left" in windows.content
    vectors = windows.contexts.reshape(-1, windows.dim)
    predictions = np.empty((len(vectors) - length + 1, windows.dim), np.float32)
    sequence.engine().run(vectors, predictions)
    np.testing.assert_array_equal(predictions[::length], windows.run(windows.engine()))


@pytest.mark.parametrize("length", [1, 4, 11, *(pytest.param(t, marks=pytest.mark.soak) for t in (2, 3, 5, 6, 7, 8))])
@pytest.mark.parametrize("precision", DRIFT)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sequence_form_gives_the_windows_bits(architecture: str, precision: str, length: int, tmp_path: Path) -> None:
    windows = Case(architecture, tmp_path, precision=precision, context_length=length)
    sequence = Case(architecture, tmp_path, "sequence", precision=precision, context_length=length)
    vectors = windows.contexts.reshape(-1, windows.dim)
    for threads in (1, 2):
        predictions = np.empty((len(vectors) - length + 1, windows.dim), np.float32)
        sequence.engine(threads=threads).run(vectors, predictions)
        expected = windows.run(windows.engine())
        np.testing.assert_array_equal(predictions[::length], expected)
