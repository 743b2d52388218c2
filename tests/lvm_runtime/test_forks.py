"""A Predictor and a batcher in a fork of their process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.native.export import export_native
from export.source import Source
from export.verify import make_samples
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.native import NativeBackend
from lvm_runtime.models import load_model
from tests.artifacts import add_onnx, add_torchscript, make_artifact

Get = Callable[[str], Path]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

AFTER_FORK = """
import os, sys, time
import numpy as np
from lvm_runtime import LvmError, Predictor
path, backend, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
predictor = Predictor(path, backend=backend, threads=threads)
values = np.random.default_rng(0).standard_normal((300, 5, 256)).astype(np.float32)
expected = predictor.predict(values)
predictor.predict_sequence(values[0])
batcher = predictor.batcher()
batcher.submit(values[0]).result()
child = os.fork()
if child == 0:
    try:
        for rows in (1, 32, 300):
            found = predictor.predict(values[:rows])
            assert np.abs(found - expected[:rows]).max() < 2e-6
        found = predictor.predict_sequence(values.reshape(-1, 256))[::5]
        assert np.abs(found - expected).max() < 2e-6
        said = "answered"
    except LvmError as error:
        said = f"said {error}"
    try:
        batcher.submit(values[0])
        said = "the batcher in the child took a request"
    except LvmError as error:
        assert "before the process forked" in str(error)
    batcher.close()
    with predictor.batcher() if said == "answered" else open(os.devnull) as fresh:
        if said == "answered":
            assert np.abs(fresh.submit(values[0]).result(20) - expected[0]).max() < 2e-6
    predictor.close()
    print(said, flush=True)
    sys.exit(0)  # as a worker of gunicorn does: what is taken down by then must not wait for threads of the parent
end = time.monotonic() + 200
while os.waitpid(child, os.WNOHANG) == (0, 0):
    if time.monotonic() > end:
        os.kill(child, 9)
        os.waitpid(child, 0)
        print("hung")
        break
    time.sleep(0.02)
assert np.abs(predictor.predict(values) - expected).max() < 2e-6
"""


@needs_fork
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.soak), 2])
@pytest.mark.parametrize(
    "backend",
    ["onnx", "native", "eager", "openvino", pytest.param("torchscript", marks=pytest.mark.soak)],  # it forks like eager
)
def test_a_forked_child_answers_or_says_why_not(tmp_path: Path, backend: str, threads: int) -> None:
    path = make_artifact(tmp_path / "lstm", "lstm", dim=256, hidden_dim=128).path
    artifact = Artifact.load(path)
    if backend == "torchscript":
        add_torchscript(artifact, load_model(artifact))
    if backend == "native":
        if problem := NativeBackend.missing():
            pytest.skip(problem)
        source = Source(artifact, load_model(artifact))
        export_native(source, make_samples(source))
    done = _run(AFTER_FORK, path, backend, str(threads))
    expected = "said this Predictor was made before the process forked" if backend == "openvino" else "answered"
    assert done.stdout.startswith(expected)


def _run(script: str, path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", script, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return done


WHILE_THREADS_RUN = """
import os, signal, sys, threading
import numpy as np
from lvm_runtime import Predictor
from lvm_runtime.backends import lifecycle
predictor = Predictor(sys.argv[1], backend="onnx", threads=1)
values = np.random.default_rng(0).standard_normal((64, 5, 16)).astype(np.float32)
expected, ended = predictor.predict(values), threading.Event()
def ask():
    while not ended.is_set():
        predictor.predict(values)
threads = [threading.Thread(target=ask) for _ in range(2)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        signal.alarm(200)
        assert not any(tasks for tasks in lifecycle._all_tasks()), "forked while a thread ran"
        assert np.abs(predictor.predict(values) - expected).max() < 1e-6
        sys.exit(0)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ended.set()
for thread in threads:
    thread.join()
assert set(statuses) == {0}, statuses
"""


@needs_fork
def test_a_fork_waits_for_what_other_threads_run(small_artifacts: Get) -> None:
    _run(WHILE_THREADS_RUN, small_artifacts("gru"), "5")


@pytest.mark.soak
@needs_fork
def test_many_forks_wait_for_what_other_threads_run(small_artifacts: Get) -> None:
    _run(WHILE_THREADS_RUN, small_artifacts("gru"), "1000")


WHILE_A_FORM_OF_DOCUMENTS_OPENS = """
import os, signal, sys, threading, time
import numpy as np
from lvm_runtime import Artifact, Predictor
predictor, document = Predictor(sys.argv[1], backend="onnx", threads=1), np.ones((12, 16), np.float32)
begun, check = threading.Event(), Artifact.check_file
def slowly(artifact, name):
    begun.set()
    time.sleep(0.2)
    check(artifact, name)
Artifact.check_file = slowly
thread = threading.Thread(target=predictor.predict_sequence, args=[document])
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(predictor.predict_sequence(document).shape != (8, 16))
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_fork
def test_a_fork_waits_for_a_form_of_documents_that_another_thread_opens(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "lstm", "lstm")
    add_onnx(artifact, load_model(artifact), "onnx/sequence-fp32.onnx", kind="sequence")
    _run(WHILE_A_FORM_OF_DOCUMENTS_OPENS, artifact.path)


WHILE_A_THREAD_IMPORTS = """
import os, signal, sys, threading
import numpy as np
from lvm_runtime import LvmError, Predictor
def build():
    return Predictor(sys.argv[1], backend="onnx", threads=2)
def imports():
    import onnxruntime
thread = threading.Thread(target={"ours": build, "another": imports}[sys.argv[2]])
thread.start()
while "onnxruntime" not in sys.modules:
    pass
child = os.fork()
if child == 0:
    signal.alarm(200)
    try:
        print(build().predict(np.ones((5, 16), np.float32)).shape, flush=True)
    except LvmError as error:
        print(error, flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
"""


@needs_fork
@pytest.mark.parametrize(
    ("whose", "said"),
    [("ours", "(16,)"), ("another", "this process was forked while another thread imported onnxruntime")],
)
def test_a_child_does_not_wait_for_an_import_of_its_parent(small_artifacts: Get, whose: str, said: str) -> None:
    done = _run(WHILE_A_THREAD_IMPORTS, small_artifacts("gru"), whose)
    assert done.stdout.startswith(said)
    assert done.stdout.endswith("\n0\n")


WHILE_A_BUILDER_WRITES = """
import os, signal, sys, threading, time
from pathlib import Path
from lvm_runtime.backends import lifecycle
from lvm_runtime.system.atomic import scratch
lifecycle._LONGEST_WAIT = 1e9  # a fork that waits for ever, in place of a minute
begun, folder = threading.Event(), Path(sys.argv[1])
def build():
    with lifecycle.building():
        with scratch(folder):  # which imports filelock, whose handler of forks takes a lock
            begun.set()
            time.sleep(0.2)
        with scratch(folder):  # which takes that lock, while the other thread forks
            pass
thread = threading.Thread(target=build)
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_fork
def test_a_fork_and_a_builder_that_writes_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """As the first measurement of an artifact's forms does, while another thread of the program forks."""
    command = [sys.executable, "-c", WHILE_A_BUILDER_WRITES, str(tmp_path)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


BUILDS_AFTER_FORK = """
import os, signal, sys
import numpy as np
import torch
from lvm_runtime import LvmError, Predictor
torch.set_num_threads(2)
values = np.random.default_rng(0).standard_normal((300, 5, 256)).astype(np.float32)
torch.ones(512, 512) @ torch.ones(512, 512), torch.ones(1_000_000).sum()  # starts the threads of OpenMP
expected = Predictor(sys.argv[1], backend="eager", threads=2).predict(values)
child = os.fork()
if child == 0:
    signal.alarm(60)
    for threads in (None, 1, 2):
        try:
            with Predictor(sys.argv[1], backend="eager", threads=threads) as predictor:
                assert np.abs(predictor.predict(values) - expected).max() < 2e-6
                print(predictor.explain().running.threads)
        except LvmError as error:
            print(error)
    sys.stdout.flush()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_fork
def test_a_torch_backend_can_be_built_in_a_forked_child(tmp_path: Path) -> None:
    """In a worker of a DataLoader, say: OpenMP would wait there for ever for threads that are in the parent."""
    path = make_artifact(tmp_path / "lstm", "lstm", onnx=False, dim=256, hidden_dim=128).path
    first, second, said = _run(BUILDS_AFTER_FORK, path).stdout.splitlines()
    assert (first, second) == ("1", "1")
    assert said.startswith("backend eager has one thread in a process that was forked after torch was imported, and 2")


BUILDS_BESIDE = """
import os, signal, sys, threading
import numpy as np
from lvm_runtime import Predictor
def build():
    with Predictor(sys.argv[1], backend="eager", threads=2) as predictor:
        return predictor.predict(np.ones((300, 5, 256), np.float32))
build()
child = os.fork()
if child == 0:
    signal.alarm(60)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(build()))
    thread.start()
    thread.join()
    os._exit(not ended)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_fork
def test_another_thread_of_a_forked_child_has_its_threads_of_torch(tmp_path: Path) -> None:
    """As that of a worker of the server, which loads the models beside the event loop."""
    _run(BUILDS_BESIDE, make_artifact(tmp_path / "lstm", "lstm", onnx=False, dim=256, hidden_dim=128).path)
