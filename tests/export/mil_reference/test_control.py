"""Recurrences, loops, branches and lists of the evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.export.mil_reference.programs import TOLERANCE, Array, X, mb, run, t


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("sequence", [True, False], ids=["all steps", "last step"])
def test_lstm_equals_torch(direction: str, sequence: bool) -> None:
    both, hidden = direction == "bidirectional", 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lstm = torch.nn.LSTM(4, hidden, bidirectional=both).double()
    x = np.random.default_rng(8).standard_normal((5, 2, 4)).astype(np.float32)  # [S, B, I]

    def weights(suffix: str) -> list[Array]:
        names = (f"weight_ih_l0{suffix}", f"weight_hh_l0{suffix}")
        i_h = [getattr(lstm, n).detach().numpy() for n in names]
        bias = (getattr(lstm, f"bias_ih_l0{suffix}") + getattr(lstm, f"bias_hh_l0{suffix}")).detach().numpy()
        order = np.r_[0:3, 3:6, 9:12, 6:9]  # torch's i, f, g, o to Core ML's i, f, o, g
        return [w[order].astype(np.float32) for w in (*i_h, bias)]

    settings = dict(zip(("weight_ih", "weight_hh", "bias"), weights(""), strict=True))
    if both:
        settings |= dict(zip(("weight_ih_back", "weight_hh_back", "bias_back"), weights("_reverse"), strict=True))
    zeros = np.zeros((2, hidden * (2 if both else 1)), np.float32)
    results = run(
        lambda a: mb.lstm(
            x=a, initial_h=zeros, initial_c=zeros, direction=direction, output_sequence=sequence, **settings
        ),
        x,
    )
    given = np.ascontiguousarray(x[::-1]) if direction == "reverse" else x
    states, (h, c) = (value for value in lstm(t(given)))
    expected_h = h.transpose(0, 1).reshape(2, -1).detach().numpy()
    expected_states = states.detach().numpy()
    expected_states = expected_states[::-1] if direction == "reverse" else expected_states
    np.testing.assert_allclose(results[0], expected_states if sequence else expected_h[None], atol=TOLERANCE)
    np.testing.assert_allclose(results[1], expected_h, atol=TOLERANCE)
    np.testing.assert_allclose(results[2], c.transpose(0, 1).reshape(2, -1).detach().numpy(), atol=TOLERANCE)


def test_while_loop_cond_and_lists() -> None:
    def doubled_until(x: Any) -> Any:
        return mb.while_loop(
            _cond=lambda i, a: mb.less(x=i, y=4),
            _body=lambda i, a: (mb.add(x=i, y=1), mb.mul(x=a, y=2.0)),
            loop_vars=(0, x),
        )[1]

    np.testing.assert_array_equal(run(doubled_until, X)[0], 16 * X.astype(np.float64))

    def branch(x: Any, i: Any) -> Any:
        return mb.cond(
            pred=mb.greater(x=mb.squeeze(x=i), y=0),
            _true_fn=lambda: mb.add(x=x, y=1.0),
            _false_fn=lambda: mb.sub(x=x, y=1.0),
        )

    for flag, expected in ((1, X + 1.0), (0, X - 1.0)):
        np.testing.assert_allclose(run(branch, X, np.asarray([flag], np.int32))[0], expected, rtol=TOLERANCE)

    def through_a_list(x: Any) -> Any:
        values = mb.make_list(init_length=3, elem_shape=(3, 4), dtype="fp32")
        values = mb.list_write(
            ls=values, index=1, value=mb.squeeze(x=mb.slice_by_size(x=x, begin=[0, 0, 0], size=[1, 3, 4]))
        )
        values = mb.list_scatter(ls=values, indices=[0, 2], value=x)
        first = mb.list_read(ls=values, index=0)
        length = mb.cast(x=mb.list_length(ls=values), dtype="fp32")
        return mb.list_gather(ls=values, indices=[2, 1]), mb.add(x=first, y=length)

    gathered, first = run(through_a_list, X)
    np.testing.assert_array_equal(gathered, np.stack([X[1], X[0]]))
    np.testing.assert_allclose(first, X[0] + 3.0, rtol=TOLERANCE)
