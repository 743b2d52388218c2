"""Drift keeps its digits, and never calls a broken row a good one."""

from __future__ import annotations

import numpy as np
import pytest

from lvm_runtime.artifact.drift import drift, largest_difference, largest_length_difference, max_drift, require
from lvm_runtime.errors import VerificationFailed


@pytest.mark.parametrize("angle", [1e-9, 1e-6, 1e-3, 0.5, np.pi], ids=str)
def test_drift_is_one_minus_the_cosine_of_the_angle(angle: float) -> None:
    answer = np.array([[1.0, 0.0]])
    prediction = np.array([[np.cos(angle), np.sin(angle)]])
    expected = 2 * np.sin(angle / 2) ** 2
    assert drift(prediction, answer)[0] == pytest.approx(expected, rel=1e-9)


def test_drift_does_not_depend_on_length() -> None:
    rng = np.random.default_rng(0)
    p, a = rng.standard_normal((2, 4, 8))
    np.testing.assert_allclose(drift(3 * p, a), drift(p, 7 * a), rtol=1e-12)


def test_length_is_that_of_each_row() -> None:
    p, a = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32), np.array([[0.0, 1.0], [0.0, 1.5]])
    assert largest_length_difference(p, a) == largest_length_difference(a, p) == 4.0
    assert largest_length_difference(p[1:], a[1:]) == 0.5
    assert largest_length_difference(p, a * np.nan) == largest_length_difference(np.full((2, 2), np.inf), a) == np.inf
    assert largest_length_difference(p[:0], a[:0]) == 0.0


def test_drift_of_float32_is_computed_in_float64() -> None:
    p, a = np.random.default_rng(0).standard_normal((2, 4, 768)).astype(np.float32)
    expected = drift(p.astype(np.float64), a.astype(np.float64))
    for found in (drift(p, a), drift(p.astype(np.float64), a), drift(p, a.astype(np.float64))):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 1e-200, 1e300], ids=str)
def test_a_row_without_direction_has_infinite_drift(bad: float) -> None:
    answers = np.eye(3)
    predictions = np.eye(3)
    predictions[1] = bad
    found = drift(predictions, answers)
    if bad != 1e300:
        assert found[1] == np.inf
    assert found[1] > 0.1
    assert (found[[0, 2]] == 0).all()
    assert max_drift(predictions, answers) == found[1]


def test_no_rows_have_no_drift() -> None:
    assert max_drift(np.empty((0, 3)), np.empty((0, 3))) == 0.0
    assert largest_difference(np.empty((0, 3)), np.empty((0, 3))) == 0.0


def test_largest_difference_is_that_of_one_component_in_float64() -> None:
    found, expected = np.zeros((2, 3), np.float32), np.zeros((2, 3))
    found[1, 2], expected[0, 1] = -0.25, 0.125
    assert largest_difference(found, expected) == 0.25
    expected[0, 1] = 1.5
    assert largest_difference(found, expected) == 1.5
    tenth = np.full((1, 1), 0.1)
    assert largest_difference(tenth.astype(np.float32), tenth) == pytest.approx(1.49e-9, rel=0.01)
    assert largest_difference(tenth, tenth.astype(np.float32)) == pytest.approx(1.49e-9, rel=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_a_number_that_is_none_or_another_shape_is_an_infinite_difference(bad: float) -> None:
    right, wrong = np.zeros((2, 3)), np.zeros((2, 3))
    wrong[1, 1] = bad
    assert largest_difference(wrong, right) == largest_difference(right, wrong) == np.inf
    assert largest_difference(wrong, wrong) == np.inf
    assert largest_difference(right, right[:1]) == np.inf


def test_a_limit_itself_is_met_and_a_nan_never() -> None:
    require(1e-4, 1e-4, "drift", "")
    for over in (1.01e-4, np.nan):
        with pytest.raises(VerificationFailed, match=rf"^the drift is {over:.2e}, expected ≤ 1\.0e-04; export again$"):
            require(over, 1e-4, "the drift", "export again")
