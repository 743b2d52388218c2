"""The arena: outputs are checked before anything is timed, and everybody is compared in one race."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import benchmarks.arena
from benchmarks.arena import EFFORTS, Arena, Effort, WrongAnswers, check
from benchmarks.ceilings import Bandwidth, Ceilings, Product
from benchmarks.contenders import ANCHOR, Array, Build, Contender, Runner, all_contenders, available, not_measured
from benchmarks.record import cell_record
from benchmarks.replay import recorded_clock, replay
from benchmarks.workload import TINY, Workload


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return Workload("amn", tmp_path_factory.mktemp("models"), **TINY["amn"])


def answering(offset: float = 0.0) -> Build:
    """Return a builder of a runner that knows the answers, each off by `offset` in its first component."""

    def build(workload: Workload, threads: int | None) -> Runner:
        def run(contexts: Array) -> Array:
            answers = workload.answers(len(contexts)).copy()
            answers[:, 0] += offset
            return answers.astype(np.float32)

        return run

    return build


def refusing(workload: Workload, threads: int | None) -> Runner:
    raise OSError("no such accelerator")


def side(name: str, build: Build, precision: str = "fp32") -> Contender:
    return Contender(name, "test", precision, "cpu", build, lambda: None, ours=name.startswith("lvm"))


@pytest.fixture
def contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [
        side(ANCHOR, answering()),
        side("lvm-right", answering()),
        side("lvm-wrong", answering(0.1)),
        side("peer-coarse-int8", answering(0.05), "int8"),
        side("peer-absent", refusing),
    ]
    monkeypatch.setattr(benchmarks.arena, "contender", {s.name: s for s in sides}.__getitem__)


def test_a_wrong_form_is_not_timed_and_stops_nobody(workload: Workload, contenders: None) -> None:
    cell = Arena(EFFORTS["smoke"]).cell(workload, 8, ["lvm-right", "lvm-wrong", "peer-absent"])
    assert set(cell.measured) == {"lvm-right", ANCHOR}
    assert "WrongAnswers: lvm-wrong on amn at batch 8: drift" in cell.failed["lvm-wrong"]
    assert cell.failed["peer-absent"] == "OSError: no such accelerator"


def test_peers_may_be_coarser_than_we_may(workload: Workload) -> None:
    coarse = answering(0.05)
    found = check(side("peer-x", coarse), workload, coarse(workload, 1), 8)
    assert 1e-4 < found < 0.02
    with pytest.raises(WrongAnswers, match="expected at most 1e-06"):
        check(side("lvm-x", coarse), workload, coarse(workload, 1), 8)


def test_nan_answers_are_wrong(workload: Workload) -> None:
    def run(contexts: Array) -> Array:
        return np.full((len(contexts), 32), np.nan, np.float32)

    with pytest.raises(WrongAnswers, match="drift inf"):
        check(side("peer-x", answering()), workload, run, 4)


def test_a_cell_is_measured_once_and_the_anchor_is_always_in_it(workload: Workload, contenders: None) -> None:
    arena = Arena(EFFORTS["smoke"])
    cell = arena.cell(workload, 8, ["lvm-right"])
    assert arena.cell(workload, 8, ["lvm-right"]) is cell
    assert ANCHOR in cell.measured
    assert cell.speedup("lvm-right", "lvm-right") == 1.0
    assert cell.speedup("lvm-right", ANCHOR) > 0.0


def test_best_peer_is_of_equal_precision_and_never_ours(workload: Workload, contenders: None) -> None:
    cell = Arena(EFFORTS["smoke"]).cell(workload, 8, ["lvm-right", "peer-coarse-int8"])
    best = {precision: cell.best_peer(precision) for precision in ("fp32", "int8", "bf16")}
    assert {p: m and m.contender.name for p, m in best.items()} == {
        "fp32": ANCHOR,
        "int8": "peer-coarse-int8",
        "bf16": None,
    }


def test_slow_cells_take_fewer_rounds() -> None:
    effort = Effort(rounds=9, seconds=0.1)
    assert effort.rounds_for(0.01) == 9
    assert effort.rounds_for(1.0) == 3


def test_record_follows_from_the_cell_and_the_ceilings(workload: Workload, contenders: None) -> None:
    cell = Arena(EFFORTS["smoke"]).cell(workload, 8, ["lvm-right", "peer-coarse-int8"])
    ceilings = Ceilings((Product("cpu", "fp32", 1.0, "numpy", {}),), (Bandwidth(2**20, 10.0, "numpy"),))
    record = cell_record(cell, ceilings, workload, "lvm-right")
    rate = record["predictions_per_second"]
    assert rate == pytest.approx(8 / cell.measured["lvm-right"].timing.median)
    assert record["share_of_product_ceiling"] == pytest.approx(record["macs_rewritten"] * rate / 1e9)
    bound = max(record["macs_rewritten"] * 8 / 1e9, workload.parameters * 4 / 10e9)
    assert record["share_of_roofline"] == pytest.approx(bound * rate / 8)
    assert record["best_peer_at_equal_precision"] == ANCHOR
    assert cell_record(cell, ceilings, workload, "peer-coarse-int8")["share_of_roofline"] is None


def test_workload_repeats_contexts_together_with_their_answers(workload: Workload) -> None:
    np.testing.assert_array_equal(workload.batch(300)[256:], workload.batch(44))
    np.testing.assert_array_equal(workload.answers(300)[256:], workload.answers(44))
    np.testing.assert_allclose(np.linalg.norm(workload.batch(8), axis=2), 1.0, atol=1e-6)
    shared = workload.batch(256).mean(axis=(0, 1))
    assert np.linalg.norm(shared) > 0.3  # independent directions would leave about 0.03


def test_every_contender_is_either_available_or_listed_with_a_reason() -> None:
    names = [c.name for c in all_contenders()]
    assert len(names) == len(set(names))
    assert {c.name for c in available()} | set(not_measured()) == set(names)
    assert not {c.name for c in available()} & set(not_measured())


def test_replay_hands_over_the_recorded_seconds() -> None:
    class Pedantic(SimpleNamespace):
        def pedantic(self, target: Any, rounds: int) -> None:
            self.seen = [-recorded_clock() + recorded_clock() for _ in range(rounds)]

    benchmark = Pedantic()
    replay(benchmark, [0.25, 1.0, 0.125])
    assert benchmark.seen == [0.25, 1.0, 0.125]


def test_files_are_made_once(workload: Workload, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from benchmarks.peers import plain_onnx

    first = plain_onnx(workload)
    stamp = first.stat().st_mtime_ns
    assert plain_onnx(workload) == first
    assert first.stat().st_mtime_ns == stamp
