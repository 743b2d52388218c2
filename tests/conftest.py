"""What this machine can run, and what a run has promised to run.

`LVM_PROMISED=coreml,mps` promises backends: their tests then fail where the backend is missing. Without
the promise such tests are skipped, and the summary says so.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_bf16() -> bool:
    from lvm_runtime.backends.openvino import has_bf16

    return has_bf16()


AVAILABLE: dict[str, Callable[[], bool]] = {
    "coreml": lambda: platform.system() == "Darwin",
    "mps": _has_mps,
    "cuda": _has_cuda,
    "bf16": _has_bf16,
}


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a promise that names no known backend."""
    if unknown := sorted(_promised() - set(AVAILABLE)):
        raise pytest.UsageError(f"LVM_PROMISED names {unknown[0]!r}; known: {', '.join(AVAILABLE)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose backend is absent, or fail it if the run promised that backend."""
    for name, available in AVAILABLE.items():
        if item.get_closest_marker(name) and not available():
            if name in _promised():
                pytest.fail(f"this run promised {name}, and it is not available here", pytrace=False)
            pytest.skip(f"{name} is not available here")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is measured in tests out of the user's cache folder."""
    monkeypatch.setenv("LVM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _quick_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a thorough measurement take 0.01 s per form and batch size, not 0.8; nothing depends on its figures."""
    monkeypatch.setattr("lvm_runtime.selection.tuning.THOROUGH", 0.01)


@pytest.fixture(params=["float64", "bfloat16", "meta"])
def change_defaults(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Yield what changes the dtype or the device that is torch's default, until the test ends."""
    import torch

    if request.param == "meta":
        yield partial(torch.set_default_device, "meta")
    else:
        yield partial(torch.set_default_dtype, getattr(torch, request.param))
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.fixture(scope="session")
def small_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from an architecture to a small artifact with ONNX (windows and documents) and
    TorchScript forms; not to be changed.

    Exporting takes seconds, so all workers of a run share the artifacts, and one of them makes each. So do all runs
    that have the same `LVM_SMALL_ARTIFACTS`.
    """
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "small-artifacts"
    root = Path(os.environ.get("LVM_SMALL_ARTIFACTS", root))
    root.mkdir(exist_ok=True)

    def get(architecture: str) -> Path:
        from filelock import FileLock

        from lvm_runtime.models import save_model
        from tests.artifacts import add_onnx, add_torchscript, randomised

        ready, path = root / f"{architecture}.ready", root / architecture
        with FileLock(root / f"{architecture}.lock"):
            if not ready.exists():
                model = randomised(architecture)
                artifact = add_torchscript(add_onnx(save_model(model, path), model), model)
                add_onnx(artifact, model, "onnx/sequence-fp32.onnx", kind="sequence")
                ready.touch()
        return path

    return get


def _promised() -> set[str]:
    return set(filter(None, os.environ.get("LVM_PROMISED", "").split(",")))


@pytest.fixture
def int8(small_artifacts: Callable[[str], Path], tmp_path: Path) -> Path:
    """Return a copy of the small AMN, to be changed at will, with an int8 form beside the fp32 one."""
    from lvm_runtime.artifact.folder import Artifact
    from lvm_runtime.models import load_model
    from tests.artifacts import add_onnx

    path = Path(shutil.copytree(small_artifacts("amn"), tmp_path / "amn"))
    artifact = Artifact.load(path)
    add_onnx(artifact, load_model(artifact), "onnx/int8.onnx", precision="int8", drift=5e-4)
    return path
