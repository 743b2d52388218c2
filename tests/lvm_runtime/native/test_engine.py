"""The native engine: right answers, the same bits on every CPU path, and an error for everything malformed.

B batch, T context length, D vector.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from export.forms import build_form, refinements
from export.native.export import write_native
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.drift import max_drift
from tests.lvm_runtime.native.cases import pass_on
from tests.lvm_runtime.native.sample import DRIFT, Case
from tests.memory import in_use

_engine = pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")

WIDER = {"dim": 400, "hidden_dim": 270, "attention_dim": 140}
"""An AMN of which some products are worth sharing out, at one window the largest one among two threads."""


@pytest.mark.parametrize("length", [1, 2, *(pytest.param(t, marks=pytest.mark.soak) for t in (3, 4, 6, 7)), 5, 8, 11])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("precision", DRIFT)
def test_answers_are_the_training_forms(precision: str, architecture: str, length: int, tmp_path: Path) -> None:
    case = Case(architecture, tmp_path, precision=precision, context_length=length)
    predictions = case.run(case.engine())
    answers, attention = case.answers()
    assert max_drift(predictions, answers) <= DRIFT[precision]
    assert np.abs(np.linalg.norm(predictions, axis=1) - 1).max() <= 1e-6
    if attention is not None:
        again, weights = np.empty_like(predictions), np.empty(attention.shape, np.float32)
        case.engine().run(case.contexts, again, weights)
        np.testing.assert_array_equal(again, predictions)
        assert np.abs(weights - attention).max() <= (5e-3 if precision == "int8" else 1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_drift_at_full_width_stays_below_1e_4(architecture: str, tmp_path: Path) -> None:
    full = {"lstm": {"hidden_dim": 512}, "gru": {"hidden_dim": 512, "num_layers": 4}, "amn": {}}
    full["amn"] = {"hidden_dim": 512, "attention_dim": 256, "bottleneck_dim": 256}
    full["transformer"] = {"hidden_dim": 512, "num_heads": 8, "ffn_dim": 2048, "num_layers": 4}
    case = Case(architecture, tmp_path, rows=16, dim=384, **full[architecture])
    assert max_drift(case.run(case.engine()), case.answers()[0]) <= 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trained_weights_give_the_training_forms_answers(architecture: str, tmp_path: Path) -> None:
    case = Case(architecture, tmp_path, dim=64)
    contexts, targets = torch.from_numpy(case.contexts), torch.from_numpy(case.contexts.mean(axis=1))
    optimizer = torch.optim.AdamW(case.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(case.model.train()(contexts), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2  # it has learnt something
    case.model.eval()
    write_native(build_form(case.model), tmp_path / "trained", "context")
    case.content = (tmp_path / "trained").read_bytes()
    assert max_drift(case.run(case.engine()), case.answers()[0]) <= 4e-4


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_million_predictions_in_flat_memory(threads: int, tmp_path: Path) -> None:
    case = Case("amn", tmp_path, rows=250)
    engine = case.engine(threads=threads)
    expected = case.run(engine)

    def resident() -> int:
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024

    before = 0
    for turn in range(4000):
        np.testing.assert_array_equal(case.run(engine), expected)
        before = resident() if turn == 100 else before
    assert resident() - before < 2 << 20


def test_profile_gives_the_same_answers_and_every_step(tmp_path: Path) -> None:
    case = Case("lstm", tmp_path, rows=70)
    predictions = np.empty((70, case.dim), np.float32)
    steps = case.engine().profile(case.contexts, predictions)
    np.testing.assert_array_equal(predictions, case.run(case.engine()))
    assert all(seconds > 0 for _, seconds in steps)
    assert "linear 5 x 128 x 160" in dict(steps)
    assert "normalise" in steps[-1][0]
    with pytest.raises(ValueError, match="float32"):
        case.engine().profile(case.contexts[:9], predictions)


def test_recency_of_the_amn_counts(tmp_path: Path) -> None:
    case = Case("amn", tmp_path, recency=True)
    with_recency = max_drift(case.run(case.engine()), case.answers()[0])
    assert with_recency <= 4e-4
    for path in _engine.paths():
        np.testing.assert_array_equal(case.run(case.engine(path)), case.run(case.engine("plain")))


@pytest.mark.parametrize("precision", DRIFT)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_path_gives_the_same_bits(architecture: str, precision: str, tmp_path: Path) -> None:
    case = Case(architecture, tmp_path, precision=precision)
    assert _engine.paths()[-1] == "plain"
    expected = case.run(case.engine("plain"))
    for path in _engine.paths():
        engine = case.engine(path)
        assert engine.about["path"] == path
        assert ("int8" in engine.about["instructions"]) == (path == "amx" and precision == "int8")
        np.testing.assert_array_equal(case.run(engine), expected, err_msg=path)
        np.testing.assert_array_equal(case.run(engine, 5, 6), expected[5:6], err_msg=path)


@pytest.mark.parametrize("path", _engine.paths())
@pytest.mark.parametrize("precision", DRIFT)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_and_threads_change_no_bit(architecture: str, precision: str, path: str, tmp_path: Path) -> None:
    case = Case(architecture, tmp_path, rows=300 if path != "plain" else 70, precision=precision)
    alone = case.engine(path)
    expected = case.run(alone)
    for threads in (1, 2, 3, 4, 12):  # of 12, windows are shared out among 8 from 32 on, and 10 from 40 on
        engine = case.engine(path, threads)
        for start, stop in (
            (0, 1),
            (7, 9),
            (11, 14),
            (20, 24),
            (30, 43),
            (8, 41),
            (7, 49),
            (3, 64),
            (0, 133),
            (0, 300),
        ):
            np.testing.assert_array_equal(case.run(engine, start, stop), expected[start:stop], f"{threads} {stop}")


@pytest.mark.parametrize("kind", ["context", "sequence"])
@pytest.mark.parametrize("precision", DRIFT)
def test_a_product_beside_the_steps_before_it_changes_no_bit(precision: str, kind: str, tmp_path: Path) -> None:
    """Of two threads, one runs the AMN's product over the mean, the other its query, its keys and its mixture."""
    case = Case("amn", tmp_path, kind, rows=28, precision=precision, **WIDER)
    given = case.contexts if kind == "context" else case.contexts.reshape(-1, case.dim)
    more = case.length - 1 if kind == "sequence" else 0  # vectors than predictions
    expected = np.empty((len(given) - more, case.dim), np.float32)
    case.engine("plain").run(given, expected)
    for path in _engine.paths():
        engine = case.engine(path, 2)
        for size in range(1, 8):
            for start in range(0, 28 - size, size):
                found = np.empty((size, case.dim), np.float32)
                engine.run(given[start : start + size + more], found)
                np.testing.assert_array_equal(found, expected[start : start + size], f"{path} {size}")


@pytest.mark.soak
@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("precision", DRIFT)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_length_gives_the_same_bits(architecture: str, precision: str, length: int, tmp_path: Path) -> None:
    case = Case(architecture, tmp_path, rows=133, precision=precision, context_length=length)
    expected = case.run(case.engine("plain"))
    for path in _engine.paths():
        for threads in (1, 2, 3, 4):
            engine = case.engine(path, threads)
            for start, stop in ((0, 1), (7, 9), (11, 14), (30, 43), (3, 64), (0, 133)):
                found = case.run(engine, start, stop)
                np.testing.assert_array_equal(found, expected[start:stop], f"{path} {threads} {stop}")


@pytest.mark.parametrize("kind", ["context", "sequence"])
def test_weights_cut_into_columns_give_the_same_bits(kind: str, tmp_path: Path) -> None:
    case = Case("lstm", tmp_path)
    write_native(build_form(pass_on(case.model)), tmp_path / "cut", kind)
    case.content = (tmp_path / "cut").read_bytes()
    assert b"input1_weight_80_diagonal" in case.content
    given = case.contexts if kind == "context" else case.contexts.reshape(-1, case.dim)
    expected, found = (np.empty((len(given) - 4 * (kind == "sequence"), case.dim), np.float32) for _ in range(2))
    case.engine("plain").run(given, expected)
    assert max_drift(expected[:: 5 if kind == "sequence" else 1], case.answers()[0]) <= 4e-4
    for path in _engine.paths():
        for threads in (1, 2):
            case.engine(path, threads).run(given, found)
            np.testing.assert_array_equal(found, expected, f"{path} {threads}")


@pytest.mark.parametrize("kind", ["context", "sequence"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_refined_products_give_the_same_bits(
    architecture: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in {"TOLERATED": 0, "AIM": 0, "MOST_MORE": 0.8, "BLOCK": 32, "LEAST_WORTH": -1}.items():
        monkeypatch.setattr(refinements, name, number)
    case = Case(architecture, tmp_path, kind)
    assert b"_left" in case.content
    given = case.contexts if kind == "context" else case.contexts.reshape(-1, case.dim)
    fewer = 4 * (kind == "sequence")  # predictions than vectors
    expected = np.empty((len(given) - fewer, case.dim), np.float32)
    case.engine("plain").run(given, expected)
    assert max_drift(expected[:: 5 if fewer else 1], case.answers()[0]) <= 2e-4
    for path in _engine.paths():
        for threads, start, stop in ((1, 0, None), (2, 0, None), (1, 5, 6 + fewer)):
            part = given[start:stop]
            found = np.empty((len(part) - fewer, case.dim), np.float32)
            case.engine(path, threads).run(part, found)
            np.testing.assert_array_equal(found, expected[start : start + len(found)], f"{path} {threads} {start}")


@pytest.mark.parametrize("path", _engine.paths())
@pytest.mark.parametrize("kind", ["context", "sequence"])
@pytest.mark.parametrize("precision", DRIFT)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_vector_that_is_too_long_or_no_number_is_found(
    architecture: str, precision: str, kind: str, path: str, tmp_path: Path
) -> None:
    """Wherever it is, alone or in any share of a thread; a look changes no bit of what is usable."""
    case = Case(architecture, tmp_path, kind, rows=70, precision=precision)
    more = case.length - 1 if kind == "sequence" else 0
    given = case.contexts if kind == "context" else case.contexts.reshape(-1, case.dim)[: 70 + more]
    given = given / np.linalg.norm(given, axis=-1, keepdims=True) * np.float32(3)
    expected = np.empty((70, case.dim), np.float32)
    assert case.engine("plain").run(given, expected)
    for threads in (1, 2):
        engine = case.engine(path, threads)
        for size in (1, 3, 70):
            found, part = np.empty((size, case.dim), np.float32), given[: size + more].copy()
            assert engine.run(part, found, None, 3.001)
            np.testing.assert_array_equal(found, expected[:size])
            vectors = part.reshape(-1, case.dim)
            for place in sorted({0, len(vectors) // 2, len(vectors) - 1}):
                for bad in (np.nan, np.inf, -np.inf, 1e38, 3.01):
                    kept = vectors[place].copy()
                    vectors[place, -1] = bad
                    assert not engine.run(part, found, None, 3.001), f"{threads} {size} {place} {bad}"
                    vectors[place] = kept
            assert engine.run(part, found, None, 3.001)


@pytest.mark.parametrize("precision", DRIFT)
def test_rows_of_zeros_and_huge_rows_give_finite_answers(precision: str, tmp_path: Path) -> None:
    for architecture in ARCHITECTURES:
        case = Case(architecture, tmp_path, rows=4, precision=precision)
        case.contexts[0] = 0.0
        case.contexts[1, 0] = 0.0
        case.contexts[2] *= 1e-30
        case.contexts[3] *= 1e6
        assert np.isfinite(case.run(case.engine())).all(), architecture


@pytest.mark.parametrize("norm", [1e-3, 1e-6, 1e-11])
@pytest.mark.parametrize("architecture", ["lstm", "gru"])
def test_values_near_zero_keep_their_digits(architecture: str, norm: float, tmp_path: Path) -> None:
    """Of a model without biases nothing else is left of short vectors."""
    case = Case(architecture, tmp_path, precision="fp32", num_layers=1)
    with torch.no_grad():
        for name, parameter in case.model.named_parameters():
            if "bias" in name:
                parameter.zero_()
    write_native(build_form(case.model), tmp_path / "short", "context", precision="fp32")
    case.content = (tmp_path / "short").read_bytes()
    case.contexts *= np.float32(norm)
    assert max_drift(case.run(case.engine()), case.answers()[0]) <= DRIFT["fp32"]


@pytest.mark.skipif(sys.platform != "linux", reason="how long a thread ran is read from /proc")
@pytest.mark.parametrize(("sizes", "batch", "helpers"), [({}, 1, 0), (WIDER, 1, 1), (WIDER, 3, 2), (WIDER, 40, 5)])
def test_no_more_threads_wake_than_there_is_work_for(
    sizes: dict[str, int], batch: int, helpers: int, tmp_path: Path
) -> None:
    """Each takes a CPU from others, for as long as it takes to fall asleep again."""
    case = Case("amn", tmp_path, **sizes)
    others = set(os.listdir("/proc/self/task"))
    engine = case.engine(threads=6)
    threads = set(os.listdir("/proc/self/task")) - others
    assert len(threads) == 5

    def seconds() -> dict[str, int]:
        return {thread: int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) for thread in threads}

    before: dict[str, int] = {}
    while (now := seconds()) != before or not all(now.values()):  # all begin awake, on a busy machine later
        before = now
        time.sleep(0.2)
    for _ in range(20):
        case.run(engine, 0, batch)

    def woken() -> int:
        return sum(ran > before[thread] for thread, ran in seconds().items())

    until = time.monotonic() + 5
    while woken() < helpers and time.monotonic() < until:  # on a busy machine, one that was woken runs later
        time.sleep(0.05)
    time.sleep(0.05)
    assert woken() == helpers


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the stable ABI of Python 3.10 has no buffers")
def test_one_build_serves_every_later_python() -> None:
    assert Path(_engine.__file__).name in ("_engine.abi3.so", "_engine.pyd")


def test_many_threads_share_an_engine(tmp_path: Path) -> None:
    case = Case("amn", tmp_path, rows=64)
    engine = case.engine(threads=2)
    expected = case.run(engine)
    wrong: list[int] = []

    def call(start: int) -> None:
        for size in (1, 2, 5, 30):
            if not np.array_equal(case.run(engine, start, start + size), expected[start : start + size]):
                wrong.append(start)

    callers = [threading.Thread(target=call, args=(i % 32,)) for i in range(64)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(sys.platform != "linux", reason="glibc says what is in use")
def test_many_callers_need_the_memory_of_as_many_cpus(tmp_path: Path) -> None:
    case = Case("lstm", tmp_path, rows=600, dim=384, hidden_dim=256)
    engine = case.engine()

    def call(_: int) -> None:
        for _ in range(3):
            case.run(engine)

    def grown(callers: int) -> float:
        before = in_use()
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(call, range(callers)))
        return in_use() - before

    one, many = grown(1), grown(24)  # calls are longer than a turn on a CPU, so all are inside at once
    assert many <= max(1, (os.cpu_count() or 1) - 1) * one + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_child_of_a_fork_answers(tmp_path: Path) -> None:
    case = Case("lstm", tmp_path, rows=20)
    (tmp_path / "contexts.npy").write_bytes(b"")
    np.save(tmp_path / "contexts.npy", case.contexts)
    script = """
import os, sys, numpy as np
from lvm_runtime.native import _engine
engine = _engine.Engine(open(sys.argv[1], "rb").read(), "", 3)
contexts = np.load(sys.argv[2])
first, second = np.empty((2, len(contexts), contexts.shape[2]), np.float32)
engine.run(contexts, first)
child = os.fork()
engine.run(contexts, second)
if child == 0:
    os._exit(0 if np.array_equal(first, second) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert np.array_equal(first, second)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "lstm.safetensors"), str(tmp_path / "contexts.npy")]
    subprocess.run(command, check=True, timeout=60)


def test_wrong_arrays_are_errors(tmp_path: Path) -> None:
    case = Case("lstm", tmp_path, rows=3)
    engine = case.engine()
    prediction = np.empty((3, case.dim), np.float32)
    for contexts, out in (
        (case.contexts[:2], prediction),
        (case.contexts.astype(np.float64), prediction),
        (case.contexts, prediction[:2]),
        (case.contexts, np.empty((0, case.dim), np.float32)),
    ):
        with pytest.raises(ValueError, match="float32"):
            engine.run(contexts, out)
    with pytest.raises(ValueError, match="float32"):
        engine.run(case.contexts, prediction, np.empty((3, case.length), np.float32))  # the LSTM has no attention
    prediction.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        engine.run(case.contexts, prediction)
    with pytest.raises(ValueError, match="plain"):
        case.engine("no such path")
