"""Backends with a thread of their own, MLX and Core AI: at the interpreter's exit, and in a fork of the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.mlx.export import export_mlx
from export.source import Source
from export.verify import make_samples
from lvm_runtime.backends.mlx import MlxBackend
from lvm_runtime.models import save_model
from tests.artifacts import randomised, some_contexts

BACKENDS = ["mlx", "coreai"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return an AMN with a form for the backend of that name."""
    model = randomised("amn")

    def with_form(backend: str) -> Path:
        pytest.importorskip("mlx.core" if backend == "mlx" else "coreai_torch")
        source = Source(save_model(model, tmp_path_factory.mktemp(backend) / "amn"), model)
        if backend == "mlx":
            return export_mlx(source, make_samples(source), "context").path
        from export.coreai.export import export_coreai
        from export.coreai.options import chosen

        (options,) = chosen("dynamic", "fp32")
        return export_coreai(source, make_samples(source), options).path

    return with_form


def _run(script: str, path: Path, backend: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", script, str(path), backend]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


IN_AN_EXIT_HANDLER = """
import atexit, os, sys, threading
import numpy as np
from lvm_runtime import Predictor
def last():
    threading.Timer(20, os._exit, [1]).start()
    print(predictor.predict(np.ones((2, 5, 16), np.float32)).shape, flush=True)
    os._exit(0)
atexit.register(last)
predictor = Predictor(sys.argv[1], backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_are_answered_until_the_exit_closes_the_predictor(path: Callable[[str], Path], backend: str) -> None:
    done = _run(IN_AN_EXIT_HANDLER, path(backend), backend)
    assert (done.returncode, done.stdout) == (0, "(2, 16)\n"), done.stderr


IN_A_FORK = """
import os, signal, sys
import numpy as np
from lvm_runtime import LvmError, Predictor
predictor, values = Predictor(sys.argv[1], backend=sys.argv[2]), np.ones((2, 5, 16), np.float32)
child = os.fork()
if child == 0:
    signal.alarm(20)
    for ask in (lambda: predictor.predict(values), lambda: Predictor(sys.argv[1], backend=sys.argv[2])):
        try:
            ask()
        except LvmError as error:
            print(error, flush=True)
    os._exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.stdout.flush()
os._exit(status != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("backend", BACKENDS)
def test_neither_runs_nor_is_built_in_a_fork_of_a_process_that_had_the_framework(
    path: Callable[[str], Path], backend: str
) -> None:
    done = _run(IN_A_FORK, path(backend), backend)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.startswith(f"backend {backend} cannot run in a process that was forked") for line in lines] == [
        True
    ] * 2


def test_what_mlx_compiled_ends_in_its_thread_where_it_cannot_meet_the_end_of_the_interpreter(
    path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = path("mlx")
    import mlx.core

    ended: list[str] = []

    class Compiled:
        def __init__(self, program: Any) -> None:
            self._program = program

        def __call__(self, inputs: Any) -> Any:
            return self._program(inputs)

        def __del__(self) -> None:
            ended.append(threading.current_thread().name)

    monkeypatch.setattr(mlx.core, "compile", Compiled)
    backend = MlxBackend(folder / "mlx/fp32.safetensors")
    assert np.isfinite(backend.run(some_contexts(2))).all()
    backend.close()
    assert ended == ["lvm-mlx"]
    backend.close()
    with pytest.raises(Exception, match="this backend is closed"):
        backend.run(some_contexts(2))
