"""A real Triton, from nvidia-pytriton in a virtual environment of its own: NumPy 2 and its Python backend do not mix.

`LVM_TRITON` names that environment, whose Python is of the version that runs the tests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tritonclient.http

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Triton:
    """Where it listens."""

    http: str
    grpc: str


@contextlib.contextmanager
def triton(repository: Path) -> Iterator[Triton]:
    """Start Triton on free ports of this machine and yield it once it is ready."""
    site = Path(os.environ["LVM_TRITON"]) / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    server = site / "pytriton/tritonserver"
    ports = _free_ports(3)
    with tempfile.TemporaryDirectory(prefix="triton-") as folder:
        backends = Path(folder) / "backends"
        shutil.copytree(server / "backends", backends)
        stub = f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
        shutil.copy(server / stub, backends / "python")
        command = [str(server / "bin/tritonserver"), f"--model-repository={repository}"]
        command += [f"--backend-directory={backends}", "--allow-gpu-metrics=false"]
        for name, port in zip(("http", "grpc", "metrics"), ports, strict=True):
            command += [f"--{name}-address=127.0.0.1", f"--{name}-port={port}"]
        libraries = f"{sysconfig.get_config_var('LIBDIR')}:{site / 'nvidia_pytriton.libs'}"
        # the backend's Python looks for its packages beside the first python3 in PATH, and in the working folder
        path = f"{os.environ['LVM_TRITON']}/bin:{os.environ['PATH']}"
        settings = {"PATH": path, "LD_LIBRARY_PATH": libraries, "OMP_NUM_THREADS": "1"}
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=os.environ | settings, cwd=ROOT, stdout=output, stderr=output)
        try:
            _wait(process, f"127.0.0.1:{ports[0]}", log)
            yield Triton(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
        finally:
            process.terminate()
            process.wait(60)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    client, end = tritonclient.http.InferenceServerClient(address), time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(ConnectionError, OSError):
            if client.is_server_ready():
                client.close()
                return
        time.sleep(0.1)
    raise AssertionError("\n".join(line for line in log.read_text().splitlines() if line.startswith("E")))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
