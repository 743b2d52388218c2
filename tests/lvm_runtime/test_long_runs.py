"""Many threads for a long time: the same bits, the same memory, and no thread or file left behind.

The short versions take seconds; `make soak` runs 64 threads for minutes, and a thousand Predictors. Where threads come
and go, what the process has in use is compared and not what is resident: glibc keeps what a thread frees for the next
one, 40 to 170 MB after two minutes of 24 threads.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
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

from export.native.export import export_native
from export.native.files import FILES
from export.source import Source
from export.verify import make_samples
from lvm_runtime import LvmError, Predictor
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.native import NativeBackend
from lvm_runtime.models import load_model
from lvm_runtime.predictor import MOST_AT_ONCE
from tests.artifacts import add_onnx, add_torchscript, make_artifact, some_contexts
from tests.memory import MEGABYTE, in_use

SIZES = (1, 1, 1, 2, 5, 8, 31, 64, 65, 200, MOST_AT_ONCE + 1)
SECONDS = float(os.environ.get("LVM_SOAK_SECONDS", 600))


FORMS = ["onnx fp32", "onnx int8", "native fp32", "native int8"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of 3 MB of weights in every form, so that large batches are shared between threads."""
    made = make_artifact(tmp_path_factory.mktemp("long") / "lstm", "lstm", dim=128, hidden_dim=256)
    model = load_model(made)
    made = add_onnx(made, model, "onnx/int8.onnx", precision="int8", drift=5e-4)
    made = add_torchscript(add_onnx(made, model, "onnx/sequence-fp32.onnx", kind="sequence"), model)
    if NativeBackend.missing() is None:
        for kind, precision in FILES:
            source = Source(Artifact.load(made.path), model)
            export_native(source, make_samples(source), kind, precision)
    return made.path


def _open(path: Path, form: str) -> Predictor:
    """Open a form such as "onnx int8" with two threads; PyTorch, whose threads belong to the process, with one."""
    backend, precision = form.split()
    if backend == "native" and (problem := NativeBackend.missing()):
        pytest.skip(problem)
    return Predictor(
        path, backend=backend, precision=precision, threads=1 if backend in ("eager", "torchscript") else 2
    )


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


def _ask_until(path: Path, form: str, callers: int, seconds: float) -> list[float]:
    """Compare answers for so long, and return the MB in use after half of that time and at the end."""
    contexts, memory, resident = some_contexts(2 * MOST_AT_ONCE + 2, 128), [], []
    with _open(path, form) as predictor:
        expected = {size: predictor.predict(contexts[size : 2 * size]) for size in sorted(set(SIZES))}
        counts = [0] * callers

        def ask(caller: int, end: float) -> None:
            generator, first = random.Random(caller + counts[caller]), True
            while first or time.monotonic() < end:
                first, size = False, generator.choice(SIZES)
                np.testing.assert_array_equal(predictor.predict(contexts[size : 2 * size]), expected[size])
                counts[caller] += size

        for _ in range(2):
            end = time.monotonic() + seconds / 2
            _run_threads([lambda caller=caller, end=end: ask(caller, end) for caller in range(callers)])
            memory.append(in_use())
            resident.append(psutil.Process().memory_info().rss / MEGABYTE)
    print(f"{form}: {callers} threads for {seconds:.0f} s, {sum(counts):,} answers equal to the bit, "
          f"memory in use {memory[0]:.1f} MB and then {memory[1]:.1f} MB, "
          f"resident {resident[0]:.1f} and then {resident[1]:.1f} MB")  # fmt: skip
    return memory


def _alone(function: Callable[..., Any], path: Path, *arguments: Any) -> Any:
    """Call a function of this module in a process of its own, whose memory holds nothing of earlier tests."""
    code = (
        "import json, pathlib, sys, tests.lvm_runtime.test_long_runs as here; "
        f"print(json.dumps(here.{function.__name__}(pathlib.Path(sys.argv[1]), *json.loads(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", code, str(path), json.dumps(arguments)]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    print(run.stdout)
    assert run.returncode == 0
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("form", FORMS)
def test_threads_get_the_same_bits(path: Path, form: str) -> None:
    _ask_until(path, form, 16, 0.5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", FORMS)
def test_64_threads_get_the_same_bits_for_minutes(path: Path, form: str) -> None:
    early, late = _alone(_ask_until, path, form, 64, SECONDS)
    assert abs(late - early) < 5


def _held() -> tuple[int, int]:
    """Return the numbers of threads and of open files, when what was joined and dropped is gone."""
    gc.collect()
    time.sleep(0.2)
    process = psutil.Process()
    return process.num_threads(), process.num_fds()


def _cycle(path: Path, form: str, cycles: int) -> tuple[float, float]:
    """Build, use and close Predictors, and return the memory in MB after a quarter of them and at the end."""
    contexts, memory, held = some_contexts(MOST_AT_ONCE, 128), [], (0, 0)
    for cycle in range(cycles):
        with _open(path, form) as predictor:
            with predictor.batcher() as batcher:
                batcher.submit(contexts[0])
            predictor.predict(contexts[: SIZES[cycle % len(SIZES)]])
            predictor.predict_sequence(contexts[:8, 0])
        memory.append(psutil.Process().memory_info().rss)
        if cycle == cycles // 4:
            held = _held()
    quarters = [float(np.median(part)) / MEGABYTE for part in np.array_split(np.array(memory), 4)]
    print(f"{form}: {cycles} Predictors, {_held()} threads and files at the end, {held} after a quarter, "
          f"memory by quarters {', '.join(f'{part:.1f}' for part in quarters)} MB")  # fmt: skip
    assert _held() == held
    return quarters[1], quarters[3]


@pytest.mark.skipif(not hasattr(psutil.Process, "num_fds"), reason="this system does not count open files")
@pytest.mark.parametrize("form", ["onnx fp32", "native int8", "eager fp32"])
def test_nothing_is_left_of_a_predictor(path: Path, form: str) -> None:
    _cycle(path, form, 5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", ["onnx fp32", "native int8", "eager fp32", "torchscript fp32", "openvino fp32"])
def test_nothing_is_left_of_a_thousand_predictors(path: Path, form: str) -> None:
    early, late = _alone(_cycle, path, form, int(os.environ.get("LVM_SOAK_CYCLES", 1000)))
    assert abs(late - early) < 5


KINDS = {"_predict", "_sequence", "_batch", "closed", "forked"}


class _Mix:
    """Threads that predict with one Predictor while others close it, fork, and batch."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.end = path, time.monotonic() + seconds
        self.contexts = some_contexts(MOST_AT_ONCE + 1, 128)
        self.predictor = _open(path, "onnx fp32")
        self.expected = self.predictor.predict(self.contexts)
        self.counts: Counter[str] = Counter()

    def run(self, callers: int) -> None:
        tasks = [self._predict, self._sequence, self._batch]
        _run_threads([self._close, self._fork, *(self._repeat(tasks[i % 3], i) for i in range(callers))])
        self.predictor.close()

    def _goes_on(self) -> bool:
        """Until the time is up and, on a machine that is busy with other work, everything was done once."""
        late = time.monotonic() - self.end
        return late < 0 or (late < 60 and set(self.counts) != KINDS)

    def _repeat(self, task: Callable[[random.Random], None], seed: int) -> Callable[[], None]:
        def run() -> None:
            generator = random.Random(seed)
            while self._goes_on():
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
        while self._goes_on():
            time.sleep(0.02)
            old, self.predictor = self.predictor, _open(self.path, "onnx fp32")
            old.close()
            self.counts["closed"] += 1

    def _fork(self) -> None:
        while self._goes_on():
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
    held, memory = _held(), in_use()
    mix = _Mix(path, seconds)
    mix.run(callers)
    counts = dict(mix.counts)
    del mix
    assert all(now <= before for now, before in zip(_held(), held, strict=True))
    grown = in_use() - memory
    print(f"mixed: {callers} threads for {seconds:.0f} s, {counts}, memory in use {grown:+.1f} MB")
    assert set(counts) == KINDS
    assert abs(grown) < 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_closing_forking_and_batching_at_once(path: Path) -> None:
    _mix(path, 6, 1.5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_closing_forking_and_batching_for_minutes(path: Path) -> None:
    _alone(_mix, path, 24, SECONDS)
