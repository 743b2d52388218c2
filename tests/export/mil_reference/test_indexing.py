"""Slices, gathers and scatters of the evaluator, compared with numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.export.mil_reference.programs import TOLERANCE, X, Y, mb, run, t

I = np.asarray([2, 0], np.int32)  # noqa: E741


def test_a_masked_begin_is_open_whatever_it_says() -> None:
    settings = {"begin": [1, 2, 3], "end": [2, 3, 4], "begin_mask": [True, False, True]}
    np.testing.assert_array_equal(run(lambda a: mb.slice_by_index(x=a, **settings), X)[0], X[:2, 2:3, :4])


def test_gathers_equal_torch() -> None:
    np.testing.assert_array_equal(run(lambda a, i: mb.gather(x=a, indices=i, axis=1), X, I)[0], X[:, I])
    within = np.asarray([[2], [1]], np.int32)
    batched = run(lambda a, i: mb.gather(x=a, indices=i, axis=1, batch_dims=1), X, within)[0]
    np.testing.assert_array_equal(batched, np.stack([X[0][[2]], X[1][[1]]]))
    last = run(lambda a, i: mb.gather(x=a, indices=i, axis=-1, batch_dims=1), X, within)[0]
    np.testing.assert_array_equal(last, np.stack([X[0][:, [2]], X[1][:, [1]]]))
    along = np.asarray([[[0, 2, 1, 0]], [[1, 1, 0, 2]]], np.int32)
    expected = torch.gather(t(X), 1, t(along)).numpy()
    np.testing.assert_array_equal(run(lambda a, i: mb.gather_along_axis(x=a, indices=i, axis=1), X, along)[0], expected)
    tuples = np.asarray([[0, 2], [1, 0]], np.int32)
    np.testing.assert_array_equal(run(lambda a, i: mb.gather_nd(x=a, indices=i), X, tuples)[0], X[[0, 1], [2, 0]])


@pytest.mark.parametrize("mode", ["add", "update", "max", "mul"])
def test_scatters(mode: str) -> None:
    updates = Y[:, :2]
    expected = X.astype(np.float64)
    combine = {"add": np.add, "update": lambda a, b: b, "max": np.maximum, "mul": np.multiply}[mode]
    expected[:, I] = combine(expected[:, I], updates)
    result = run(lambda d, i, u: mb.scatter(data=d, indices=i, updates=u, axis=1, mode=mode), X, I, updates)[0]
    np.testing.assert_allclose(result, expected, rtol=TOLERANCE)
    along = np.ascontiguousarray(np.broadcast_to(I[None, :, None], updates.shape))
    result = run(
        lambda d, i, u: mb.scatter_along_axis(data=d, indices=i, updates=u, axis=1, mode=mode), X, along, updates
    )[0]
    np.testing.assert_allclose(result, expected, rtol=TOLERANCE)
    tuples = np.asarray([[0, 2], [0, 0], [1, 2], [1, 0]], np.int32)
    result = run(
        lambda d, i, u: mb.scatter_nd(data=d, indices=i, updates=u, mode=mode), X, tuples, updates.reshape(4, 4)
    )[0]
    np.testing.assert_allclose(result, expected, rtol=TOLERANCE)


def test_one_hot() -> None:
    hot = run(lambda i: mb.one_hot(indices=i, one_hot_vector_size=3, axis=0), I)[0]
    np.testing.assert_array_equal(hot, np.eye(3)[I].T)
