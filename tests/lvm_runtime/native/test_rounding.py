"""Each term of a product is multiplied and added with one rounding, also where no instruction does that."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from safetensors.numpy import save

_engine = pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")

D = 16


def _product(weight: np.ndarray) -> bytes:
    """A plan that multiplies a context of one vector by `weight` `[D, D]`, and does nothing else."""
    plan = {
        "version": 1,
        "architecture": "product",
        "form": "context",
        "precision": "fp32",
        "context_length": 1,
        "dim": D,
        "buffers": [{"per": "window", "size": D}, {"per": "window", "size": D}],
        "outputs": {"prediction": 1},
        "operations": [
            {
                "op": "linear",
                "positive": False,
                "x": [0, 0, 1, D, D],
                "out": [1, 0, 1, D, D],
                "weights": {"weight": "w"},
            }
        ],
    }
    return save({"w": weight}, {"plan": json.dumps(plan)})


def _once(value: Fraction) -> float:
    """Round a number from 1 to 2 to the nearest float32, ties to even."""
    return float(Fraction(round(value * 2**23), 2**23))


@pytest.mark.parametrize("path", _engine.paths())
def test_a_sum_near_a_tie_is_rounded_once(path: str) -> None:
    """Sums w + 2⁻²⁴ · x · y that lie so near the middle of two floats that a double does not tell on which side."""
    pairs: list[tuple[np.float32, np.float32]] = []
    rng = np.random.default_rng(0)
    while len(pairs) < D:
        x = np.float32(rng.uniform(1, 2))
        if 0 < abs(float(x) * float(np.float32(1) / x) - 1) < 2**-30:
            pairs.append((x, np.float32(1) / x))
    x, y = np.array(pairs).T
    weight, contexts = np.zeros((D, D), np.float32), np.zeros((D, 1, D), np.float32)
    weight[0] = [1 + 2**-22, 1 + 2**-23] * (D // 2)  # of an even and of an odd last bit
    weight[1] = y * np.float32(2**-24) * np.array([1, 1, -1, -1] * (D // 4))
    contexts[:, 0, 0], contexts[:, 0, 1] = 1, x
    answers = np.empty((D, D), np.float32)
    _engine.Engine(_product(weight), path).run(contexts, answers)
    exact = [
        Fraction(float(w)) + Fraction(float(v)) * Fraction(float(u)) for w, v, u in zip(*weight[:2], x, strict=True)
    ]
    np.testing.assert_array_equal(answers.diagonal(), [_once(value) for value in exact])
    twice = (weight[0] + weight[1].astype(np.float64) * x).astype(np.float32)
    assert (answers.diagonal() != twice).any(), "these sums do not tell one rounding from two"
