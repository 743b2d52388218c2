"""Writers of one artifact take turns, whatever they do and by whichever name they know it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import ArtifactError
from lvm_runtime.models import load_model, save_model
from lvm_runtime.system import atomic
from tests.artifacts import add_onnx, randomised

Get = Callable[[str], Path]


@pytest.fixture
def copy(small_artifacts: Get, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_artifacts("amn"), tmp_path / "amn"))


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    """Another writer."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_a_model_that_is_replaced_while_a_form_is_added_is_whole(
    copy: Path, other: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, running = atomic.move, list[Any]()

    def slow(temporary: Path, path: Path) -> None:
        running.append(other.submit(save_model, randomised("amn", seed=7), copy))
        with pytest.raises(TimeoutError):
            running[0].result(0.5)
        monkeypatch.undo()
        move(temporary, path)

    artifact = Artifact.load(copy)
    monkeypatch.setattr(atomic, "move", slow)
    add_onnx(artifact, load_model(artifact))
    running[0].result(20)
    assert Artifact.load(copy).manifest.compiled == ()


def test_a_form_of_a_model_that_was_replaced_meanwhile_is_told_so(copy: Path) -> None:
    artifact = Artifact.load(copy)

    def add() -> None:
        with artifact.adding("onnx/fp32.onnx") as path:
            path.write_bytes(b"form")
            save_model(randomised("amn", seed=7), copy)  # the folder of what is being added goes with the old model
            artifact.commit(path, "onnx/fp32.onnx", format="onnx", precision="fp32", drift=0.0)

    with pytest.raises(ArtifactError, match="its config or weights changed"):
        add()
    Artifact.load(copy).check()


def test_a_link_to_an_artifact_is_the_artifact(copy: Path, other: ThreadPoolExecutor, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(copy)

    def enter() -> None:
        with atomic.locked(link):
            pass

    with atomic.locked(copy):
        waiting = other.submit(enter)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
    waiting.result(20)
