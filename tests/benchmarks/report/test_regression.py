"""Comparing a run with a stored one by ratios."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.contender import ANCHOR
from benchmarks.report.regression import changes, missing, regressions
from benchmarks.report.results import Row
from lvm_runtime.errors import InvalidInput


def row(contender: str = "lvm-onnx-int8", *, over_anchor: float = 3.0, **values: Any) -> Row:
    record = {"model": "amn", "batch": 32, "contender": contender, "ours": contender.startswith("lvm"), "noise": 0.02}
    return Row(record | {"speedup": {ANCHOR: over_anchor}, "predictions_per_second": 1.0} | values)


def test_a_slower_machine_is_no_regression() -> None:
    now = [row(predictions_per_second=100.0)]
    stored = [row(predictions_per_second=90_000.0)]
    assert regressions(now, stored, 0.9) == []


def test_a_lower_ratio_is_a_regression_that_says_by_how_much() -> None:
    [found] = regressions([row(over_anchor=2.4)], [row(over_anchor=3.0)], 0.9)
    assert found.ratio == pytest.approx(0.8)
    assert str(found) == ("amn batch 32 lvm-onnx-int8: 0.80 of the stored run (3.00× plain then, 2.40× now; noise 4%)")


def test_a_ratio_at_the_limit_is_none_yet() -> None:
    now, stored = [row(over_anchor=1.5)], [row(over_anchor=3.0)]
    assert regressions(now, stored, 0.5) == []
    assert len(regressions(now, stored, 0.5000001)) == 1


def test_peers_may_change_and_the_worst_comes_first() -> None:
    now = [row(over_anchor=2.9), row("lvm-onnx-fp32", over_anchor=1.0), row("peer-eager-fp32", over_anchor=0.1)]
    stored = [row(), row("lvm-onnx-fp32", over_anchor=1.5), row("peer-eager-fp32", over_anchor=0.9)]
    assert [c.contender for c in changes(now, stored)] == ["lvm-onnx-fp32", "lvm-onnx-int8"]


def test_a_form_that_is_gone_is_named_with_its_batch_sizes() -> None:
    native = [row("lvm-native-int8", batch=batch) for batch in (8, 1)]
    stored = [row(), *native, row("lvm-coreml-fp16", over_anchor=0.0), row("peer-eager-fp32")]
    assert missing([row()], stored) == ["amn lvm-native-int8: in the stored run and not in this one, at batch 1, 8"]
    assert missing([row(), row("lvm-native-int8", batch=1, speedup={}), native[0]], stored) == [
        "amn lvm-native-int8: in the stored run and not in this one, at batch 1"
    ]
    assert missing([*stored, row("lvm-eager-fp32")], stored) == []


def test_vectors_of_two_sizes_are_not_compared() -> None:
    assert changes([row(dim=768)], [row()]), "summaries once did not say it"
    with pytest.raises(InvalidInput, match="vectors of 384 and 768 cannot be compared; give --dim"):
        changes([row(dim=384)], [row()])


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="no form of this project"):
        regressions([row(batch=1)], [row(batch=32)], 0.9)
