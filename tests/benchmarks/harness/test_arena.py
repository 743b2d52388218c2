"""The arena: outputs are checked before anything is timed, and everybody is compared in one race."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import benchmarks.harness.arena
from benchmarks.harness.arena import EFFORTS, Arena, Cell, Effort, Measured, WrongAnswers, check, fastest
from benchmarks.harness.contender import ANCHOR, Array, Build, Contender, Runner
from benchmarks.harness.contenders import CONTENDERS, available, contender, not_measured
from benchmarks.harness.record import cell_record
from benchmarks.harness.replay import recorded_clock, replay
from benchmarks.harness.workload import Workload
from benchmarks.limits.ceilings import Bandwidth, Ceilings, Product
from lvm_runtime.artifact.config import CONFIGS
from lvm_runtime.artifact.drift import max_drift
from lvm_runtime.backends import openvino as openvino_backend
from lvm_runtime.selection.timing import Timing


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return Workload("amn", tmp_path_factory.mktemp("models"), **CONFIGS["amn"].small)


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
    monkeypatch.setattr(benchmarks.harness.arena, "contender", {s.name: s for s in sides}.__getitem__)


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


def test_answers_are_checked_at_the_batch_size_that_is_timed(workload: Workload) -> None:
    def run(contexts: Array) -> Array:
        return answering(0.1 if len(contexts) == 8 else 0.0)(workload, 1)(contexts)

    check(side("lvm-x", run), workload, run, 1)
    with pytest.raises(WrongAnswers, match="at batch 8"):
        check(side("lvm-x", run), workload, run, 8)


def test_who_is_wrong_at_one_batch_size_is_compared_at_the_others(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a peer may be whose scale is that of the whole batch; what cannot be built is not tried again."""
    tried: list[str] = []

    def batch_bound(workload: Workload, threads: int | None) -> Runner:
        return lambda contexts: answering(0.5 if len(contexts) == 8 else 0.0)(workload, threads)(contexts)

    def absent(workload: Workload, threads: int | None) -> Runner:
        tried.append("absent")
        raise OSError  # without a word

    sides = [side(ANCHOR, answering()), side("peer-batch-bound", batch_bound), side("peer-absent", absent)]
    monkeypatch.setattr(benchmarks.harness.arena, "contender", {s.name: s for s in sides}.__getitem__)
    arena = Arena(EFFORTS["smoke"])
    cells = [arena.cell(workload, batch, ["peer-batch-bound", "peer-absent"]) for batch in (8, 9)]
    assert [sorted(cell.failed) for cell in cells] == [["peer-absent", "peer-batch-bound"], ["peer-absent"]]
    assert set(cells[1].measured) == {ANCHOR, "peer-batch-bound"}
    assert cells[1].failed["peer-absent"] == "OSError: OSError"
    assert tried == ["absent"]


def test_nan_answers_are_wrong(workload: Workload) -> None:
    def run(contexts: Array) -> Array:
        return np.full((len(contexts), 16), np.nan, np.float32)

    with pytest.raises(WrongAnswers, match="drift inf"):
        check(side("peer-x", answering()), workload, run, 4)


def test_a_cell_is_measured_once_and_the_anchor_is_always_in_it(workload: Workload, contenders: None) -> None:
    arena = Arena(EFFORTS["smoke"])
    cell = arena.cell(workload, 8, ["lvm-right"])
    assert arena.cell(workload, 8, ["lvm-right"]) is cell
    assert ANCHOR in cell.measured
    assert cell.speedup("lvm-right", "lvm-right") == 1.0
    assert cell.speedup("lvm-right", ANCHOR) > 0.0


def test_quick_sides_are_built_anew_and_slow_ones_once(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock of the arena a build of the slow side takes 3 s. All rounds of all builds are kept."""
    built: list[str] = []
    now = [0.0]

    def building(name: str, seconds: float) -> Build:
        def build(workload: Workload, threads: int | None) -> Runner:
            built.append(name)
            now[0] += seconds
            return answering()(workload, threads)

        return build

    sides = [side(ANCHOR, building("quick", 0.0)), side("peer-slow", building("slow", 3.0))]
    monkeypatch.setattr(benchmarks.harness.arena, "contender", {s.name: s for s in sides}.__getitem__)
    monkeypatch.setattr(benchmarks.harness.arena, "usable_cpus", lambda: 1)
    monkeypatch.setattr(benchmarks.harness.arena, "seconds_elsewhere", lambda: 0.0)
    ticking = SimpleNamespace(perf_counter=lambda: now.__setitem__(0, now[0] + 0.001) or now[0])
    monkeypatch.setattr(benchmarks.harness.arena, "time", ticking)
    cell = Arena(Effort(rounds=2, seconds=0.0, builds=3)).cell(workload, 8, ["peer-slow"])
    assert (built.count("quick"), built.count("slow")) == (3, 1)
    assert [len(measured.timing.rounds) for measured in cell.measured.values()] == [6, 6]


def test_one_thread_and_all_are_tried_for_small_batches_and_all_for_large_ones(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int | None] = []

    def build(workload: Workload, threads: int | None) -> Runner:
        built.append(threads)
        return lambda contexts: time.sleep(0.002 * (threads or 1))

    monkeypatch.setattr(benchmarks.harness.arena, "usable_cpus", lambda: 4)
    found = [Arena(EFFORTS["smoke"])._at_its_best(workload, side("lvm-x", build), workload.batch(b)) for b in (31, 32)]
    assert built == [4, 1, 4]
    assert [threads for _, threads in found] == [1, 4]


def test_what_other_programs_took_is_kept(
    workload: Workload, contenders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of other programs 1,000 s pass while the cell takes less than one."""
    moments = iter([500.0, 1500.0])
    monkeypatch.setattr(benchmarks.harness.arena, "seconds_elsewhere", lambda: next(moments))
    assert Arena(EFFORTS["smoke"]).cell(workload, 8, ["lvm-right"]).elsewhere > 1


def test_best_peer_is_the_fastest_of_equal_precision_and_never_ours() -> None:
    sides = {
        "lvm-fast": ("fp32", (1.0, 1.0, 9.0)),
        "peer-slow": ("fp32", (4.0, 4.0, 4.0)),
        "peer-fast": ("fp32", (3.0, 3.0, 7.0)),  # by its median; its mean is the other's
        "peer-slower": ("fp32", (5.0, 5.0, 5.0)),
        "peer-int8": ("int8", (2.0, 2.0, 2.0)),
        "lvm-bf16": ("bf16", (1.0, 1.0, 1.0)),
        "lvm-int8": ("int8", (1.0, 1.0, 1.0)),
    }
    cell = Cell(
        {n: Measured(side(n, refusing, precision), 8, 1, 0.0, Timing((t,))) for n, (precision, t) in sides.items()}, {}
    )
    assert {name: cell.closest_peer(name) for name in sides} == {
        "lvm-fast": "peer-fast",
        "peer-slow": "peer-fast",
        "peer-fast": "peer-fast",
        "peer-slower": "peer-fast",
        "peer-int8": "peer-int8",
        "lvm-bf16": None,
        "lvm-int8": "peer-int8",
    }
    assert cell.measured["peer-fast"].per_second == 8 / 3.0
    assert cell.speedup("lvm-fast", "peer-slow") == 4.0
    assert cell.interval("lvm-fast", "peer-slow") == (4.0, 4.0)


def test_the_peer_beside_a_ratio_is_the_one_that_ours_is_least_ahead_of(workload: Workload) -> None:
    """The median of all calls makes `peer-quick` the fastest; in two of three rounds another one is."""
    sides = {
        "lvm-x": ((1.0,), (2.0,), (4.0,)),
        "peer-quick": ((2.0,) * 3, (4.0,), (8.0,)),
        ANCHOR: ((3.0,), (3.0,), (6.0,)),
        "peer-slow": ((9.0,), (9.0,), (9.0,)),
    }
    cell = Cell({n: Measured(side(n, refusing), 8, 1, 0.0, Timing(rounds)) for n, rounds in sides.items()}, {})
    assert min(sides, key=lambda n: (n == "lvm-x", cell.measured[n].timing.median)) == "peer-quick"
    record = cell_record(cell, Ceilings((), (Bandwidth(2**20, 10.0, "numpy"),)), workload, "lvm-x")
    assert record["best_peer_at_equal_precision"] == ANCHOR
    assert record["ratio_to_best_peer"] == 1.5
    assert record["speedup_interval"] == {ANCHOR: (1.5, 3.0)}
    assert cell_record(cell, Ceilings((), ()), workload, ANCHOR)["ratio_to_best_peer"] <= 1.0


@pytest.mark.parametrize("name", ["peer-eager-fp32", "peer-torchscript-fp32", "peer-eager-int8"])
def test_peers_on_torch_do_not_pay_for_what_our_backends_do_around_a_call(
    workload: Workload, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = contender(name).build(workload, 1)
    before = torch.get_num_threads()

    def guard(*_: object) -> None:
        raise AssertionError("the guard of our backends")

    monkeypatch.setattr("benchmarks.harness.peers.inference", guard)
    try:
        check(contender(name), workload, runner, 8)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


class Sleeper:
    """A side whose calls take a set time, `jitter` more in every second round of two bursts."""

    def __init__(self, seconds: float, jitter: float = 0.0) -> None:
        self.seconds, self.jitter, self.calls = seconds, jitter, 0

    def __call__(self) -> None:
        self.calls += 1
        time.sleep(self.seconds + self.jitter * (self.calls // 2 % 2))


def test_settled_sides_stop_at_the_first_rounds_and_others_at_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by a quarter of a second whenever the budget is looked at: at 0.25, 0.5 and 0.75 of 0.6."""
    moments = itertools.count(0.0, 0.25)
    monkeypatch.setattr("benchmarks.harness.arena.time", SimpleNamespace(perf_counter=lambda: next(moments)))
    for settled, rounds in ((1e9, 3), (0.0, 5)):
        effort = Effort(rounds=3, seconds=0.0, budget=0.3, settled=settled)
        timings = effort.interleave({"a": Sleeper(0.001), "b": Sleeper(0.001, jitter=0.002)}, anchor="a")
        assert [len(timing.rounds) for timing in timings.values()] == [rounds, rounds]


@pytest.mark.parametrize(("seconds", "calls"), [(0.0, 1), (0.05, 3)])
def test_a_burst_is_as_long_as_the_effort_says(seconds: float, calls: int) -> None:
    timings = Effort(rounds=2, seconds=seconds, max_calls=3).interleave({"a": int, "b": int}, anchor="a")
    assert [[len(burst) for burst in timing.rounds] for timing in timings.values()] == [[calls] * 2] * 2


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
    low, high = record["speedup_interval"][ANCHOR]
    assert low <= record["speedup"][ANCHOR] <= high
    assert cell_record(cell, ceilings, workload, "peer-coarse-int8")["share_of_roofline"] is None


def test_workload_repeats_contexts_together_with_their_answers(workload: Workload) -> None:
    np.testing.assert_array_equal(workload.batch(300)[256:], workload.batch(44))
    np.testing.assert_array_equal(workload.answers(300)[256:], workload.answers(44))
    np.testing.assert_allclose(np.linalg.norm(workload.batch(8), axis=2), 1.0, atol=1e-6)
    shared = workload.batch(256).mean(axis=(0, 1))
    assert np.linalg.norm(shared) > 0.3  # independent directions would leave about 0.03


def test_every_contender_is_either_available_or_listed_with_a_reason() -> None:
    names = [c.name for c in CONTENDERS]
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


def test_bf16_that_is_none_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO takes the hint on any CPU, and where it has no bf16 it computes in fp32 without a word."""
    pytest.importorskip("openvino")
    for capabilities, expected in ((["FP32", "BF16"], None), (["FP32"], "this CPU has no bf16")):
        core = SimpleNamespace(get_property=lambda device, name, found=capabilities: found)
        monkeypatch.setattr(openvino_backend, "openvino_core", lambda core=core: core)
        for name in ("peer-openvino-bf16", "lvm-openvino-bf16"):
            reason = contender(name).missing()
            assert reason is None if expected is None else expected in str(reason)


@pytest.mark.parametrize(
    "name",
    [
        "peer-openvino-fp32",
        "peer-onnxruntime-dynamic-int8",
        pytest.param("peer-compile-fp32", marks=pytest.mark.soak),  # which takes 10 s to compile
    ],
)
def test_peers_answer_at_any_batch_size(workload: Workload, name: str) -> None:
    side = contender(name)
    if problem := side.missing():
        pytest.skip(problem)
    runner = side.build(workload, 1)
    for batch in (1, 5, 1):
        assert max_drift(runner(workload.batch(batch)), workload.answers(batch)) < 1e-3


def test_the_recurrent_weights_of_the_int8_peer_are_int8(tmp_path: Path) -> None:
    """Without its pre-processing onnxruntime's quantiser leaves them as they are, and is no rival."""
    onnx = pytest.importorskip("onnx")
    from benchmarks.harness.peers import quantised_onnx

    graph = onnx.load(quantised_onnx(Workload("lstm", tmp_path, **CONFIGS["lstm"].small))).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("DynamicQuantizeLSTM") == 2
    assert "LSTM" not in kinds


def test_files_are_made_once(workload: Workload, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from benchmarks.harness.peers import plain_onnx

    first = plain_onnx(workload)
    stamp = first.stat().st_mtime_ns
    assert plain_onnx(workload) == first
    assert first.stat().st_mtime_ns == stamp


def test_the_number_of_threads_is_the_fastest_one_in_spite_of_a_busy_moment() -> None:
    calls = {1: 0, 2: 0}

    def running(threads: int, seconds: float, busy: float) -> Runner:
        def run(contexts: Array) -> Array:
            calls[threads] += 1
            time.sleep(busy if calls[threads] <= 4 else seconds)
            return contexts

        return run

    contexts = np.zeros((1, 5, 32), np.float32)
    assert fastest({2: running(2, 0.002, busy=0.03), 1: running(1, 0.008, busy=0.008)}, contexts) == 2
    assert fastest({2: running(2, 0.008, busy=0.008), 1: running(1, 0.002, busy=0.03)}, contexts) == 1
