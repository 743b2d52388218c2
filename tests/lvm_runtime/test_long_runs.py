"""Many threads for a long time: the same bits, the same memory, and no thread or file left behind.

The short versions take seconds; `make soak` runs 64 threads for minutes, and a thousand Predictors.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from lvm_runtime import LvmError, Predictor
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.models import load_model
from lvm_runtime.predictor import MOST_AT_ONCE
from tests.artifacts import add_onnx, make_artifact, some_contexts

SIZES = (1, 1, 1, 2, 5, 8, 31, 64, 65, 200, MOST_AT_ONCE + 1)
MEGABYTE = 1 << 20
SECONDS = float(os.environ.get("LVM_SOAK_SECONDS", 600))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of 3 MB of weights in fp32 and int8, so that large batches are shared between threads."""
    made = make_artifact(tmp_path_factory.mktemp("long") / "lstm", "lstm", dim=128, hidden_dim=256)
    add_onnx(made, load_model(made), "onnx/int8.onnx", precision="int8", drift=5e-4)
    add_onnx(Artifact.load(made.path), load_model(made), "onnx/sequence-fp32.onnx", kind="sequence")
    return made.path


def _run_threads(tasks: list[Callable[[], None]]) -> None:
    """Run each task in a thread of its own, and raise what the first one raised."""
    errors: list[BaseException] = []

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _ask_until(path: Path, precision: str, callers: int, seconds: float) -> tuple[float, float]:
    """Compare answers for so long, and return the memory in MB in the fourth and in the last sixth of that time."""
    contexts = some_contexts(2 * MOST_AT_ONCE + 2, 128)
    with Predictor(path, backend="onnx", precision=precision, threads=2) as predictor:
        expected = {size: predictor.predict(contexts[size : 2 * size]) for size in sorted(set(SIZES))}
        counts, memory = [0] * callers, []
        end = time.monotonic() + seconds
        settled = end - seconds / 2

        def ask(caller: int) -> None:
            generator = random.Random(caller)
            while time.monotonic() < end:
                size = generator.choice(SIZES)
                np.testing.assert_array_equal(predictor.predict(contexts[size : 2 * size]), expected[size])
                counts[caller] += size

        def watch() -> None:
            time.sleep(max(0, settled - time.monotonic()))
            while time.monotonic() < end:
                memory.append(psutil.Process().memory_info().rss)
                time.sleep(0.05)

        _run_threads([watch, *(lambda caller=caller: ask(caller) for caller in range(callers))])
    early, _, late = (float(np.median(part)) / MEGABYTE for part in np.array_split(np.array(memory), 3))
    print(f"{precision}: {callers} threads for {seconds:.0f} s, {sum(counts):,} answers equal to the bit, "
          f"memory {early:.1f} MB and then {late:.1f} MB")  # fmt: skip
    assert min(counts) > 0
    return early, late


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_threads_get_the_same_bits(path: Path, precision: str) -> None:
    _ask_until(path, precision, 16, 1.5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_64_threads_get_the_same_bits_for_minutes(path: Path, precision: str) -> None:
    early, late = _ask_until(path, precision, 64, SECONDS)
    assert abs(late - early) < 5


def _held() -> tuple[int, int]:
    """Return the numbers of threads and of open files, when what was joined and dropped is gone."""
    gc.collect()
    time.sleep(0.2)
    process = psutil.Process()
    return process.num_threads(), process.num_fds()


def _cycle(path: Path, backend: str, cycles: int) -> tuple[float, float]:
    """Build, use and close Predictors, and return the memory in MB after a quarter of them and at the end."""
    contexts, memory, held = some_contexts(MOST_AT_ONCE, 128), [], (0, 0)
    for cycle in range(cycles):
        with Predictor(path, backend=backend, precision="fp32", threads=2) as predictor:
            with predictor.batcher() as batcher:
                batcher.submit(contexts[0])
            predictor.predict(contexts[: SIZES[cycle % len(SIZES)]])
            predictor.predict_sequence(contexts[:8, 0])
        memory.append(psutil.Process().memory_info().rss)
        if cycle == cycles // 4:
            held = _held()
    quarters = [float(np.median(part)) / MEGABYTE for part in np.array_split(np.array(memory), 4)]
    print(f"{backend}: {cycles} Predictors, {_held()} threads and files at the end, {held} after a quarter, "
          f"memory by quarters {', '.join(f'{part:.1f}' for part in quarters)} MB")  # fmt: skip
    assert _held() == held
    return quarters[1], quarters[3]


@pytest.mark.skipif(not hasattr(psutil.Process, "num_fds"), reason="this system does not count open files")
@pytest.mark.parametrize("backend", ["onnx", "eager"])
def test_nothing_is_left_of_a_predictor(path: Path, backend: str) -> None:
    _cycle(path, backend, 20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["onnx", "eager", "openvino"])
def test_nothing_is_left_of_a_thousand_predictors(path: Path, backend: str) -> None:
    early, late = _cycle(path, backend, 1000)
    assert abs(late - early) < 5


class _Mix:
    """Threads that predict with one Predictor while others close it, fork, and batch."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.end = path, time.monotonic() + seconds
        self.contexts = some_contexts(MOST_AT_ONCE + 1, 128)
        self.predictor = self._open()
        self.expected = self.predictor.predict(self.contexts)
        # these two import what is imported late: a fork meanwhile would wait for ever in the child
        self._sequence(random.Random(0))
        self._batch(random.Random(0))
        self.counts: Counter[str] = Counter()

    def run(self, callers: int) -> None:
        tasks = [self._predict, self._sequence, self._batch]
        _run_threads([self._close, self._fork, *(self._repeat(tasks[i % 3], i) for i in range(callers))])
        self.predictor.close()

    def _open(self) -> Predictor:
        return Predictor(self.path, backend="onnx", precision="fp32", threads=2)

    def _repeat(self, task: Callable[[random.Random], None], seed: int) -> Callable[[], None]:
        def run() -> None:
            generator = random.Random(seed)
            while time.monotonic() < self.end:
                try:
                    task(generator)
                    self.counts[task.__name__] += 1
                except LvmError as error:
                    if "closed" not in str(error):
                        raise

        return run

    def _predict(self, generator: random.Random) -> None:
        size = generator.choice(SIZES)
        self._compare(self.predictor.predict(self.contexts[:size]), self.expected[:size])

    def _sequence(self, generator: random.Random) -> None:
        row = generator.randrange(MOST_AT_ONCE)
        self._compare(self.predictor.predict_sequence(self.contexts[row]), self.expected[row : row + 1])

    def _batch(self, generator: random.Random) -> None:
        rows = [generator.randrange(MOST_AT_ONCE) for _ in range(40)]
        with self.predictor.batcher(max_batch=16) as batcher:
            for row, future in [(row, batcher.submit(self.contexts[row])) for row in rows]:
                self._compare(future.result(60), self.expected[row])

    def _compare(self, found: Any, expected: Any) -> None:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)

    def _close(self) -> None:
        while time.monotonic() < self.end:
            time.sleep(0.02)
            old, self.predictor = self.predictor, self._open()
            old.close()
            self.counts["closed"] += 1

    def _fork(self) -> None:
        while time.monotonic() < self.end:
            time.sleep(0.05)
            predictor, child = self.predictor, os.fork()
            if child == 0:
                signal.alarm(60)  # whose default is to end the process
                os._exit(self._answer_in_child(predictor))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status == 0, (
                f"a forked child ended with {status}: 1 for a wrong error, 2 for an answer, -14 for none"
            )
            self.counts["forked"] += 1

    def _answer_in_child(self, predictor: Predictor) -> int:
        try:
            for size in (1, MOST_AT_ONCE + 1):
                self._compare(predictor.predict(self.contexts[:size]), self.expected[:size])
            with predictor.batcher() as batcher:
                self._compare(batcher.submit(self.contexts[0]).result(60), self.expected[0])
        except LvmError as error:
            return 0 if "closed" in str(error) else 1
        except BaseException:
            traceback.print_exc()
            return 2
        return 0


def _mix(path: Path, callers: int, seconds: float) -> None:
    _Mix(path, 0.5).run(callers)  # starts what lives as long as the process
    held, memory = _held(), psutil.Process().memory_info().rss
    mix = _Mix(path, seconds)
    mix.run(callers)
    grown = (psutil.Process().memory_info().rss - memory) / MEGABYTE
    print(f"mixed: {callers} threads for {seconds:.0f} s, {dict(mix.counts)}, memory {grown:+.1f} MB")
    assert set(mix.counts) == {"_predict", "_sequence", "_batch", "closed", "forked"}
    assert _held() == held


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_closing_forking_and_batching_at_once(path: Path) -> None:
    _mix(path, 6, 1.5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_closing_forking_and_batching_for_minutes(path: Path) -> None:
    _mix(path, 24, SECONDS)
