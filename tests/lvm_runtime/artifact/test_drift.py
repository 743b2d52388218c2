"""Drift keeps its digits, and never calls a broken row a good one."""

from __future__ import annotations

import numpy as np
import pytest

from lvm_runtime.artifact.drift import drift, max_drift


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 1e300], ids=str)
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
