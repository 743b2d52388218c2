"""Nothing that a file holds runs when it is read: each reader of a format that could carry code, with code in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.corpus.corpus import open_corpus
from lvm_runtime.errors import LvmError
from train.checkpoint import Checkpoint
from train.foreign_checkpoint import read_checkpoint
from train.options import TrainOptions


class Code:
    """Makes the folder `trace` when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def write_fingerprint(path: Path, code: Code) -> None:
    np.savez(path, contexts=np.array([code], object), predictions=np.ones((1, 8)))


def write_corpus(path: Path, code: Code) -> None:
    np.savez(path, vectors=np.array([code] * 9, object))


def write_checkpoint(path: Path, code: Code) -> None:
    torch.save({"model_type": "amn", "model_config": {}, "model_state_dict": {"weight": code}, "schema": code}, path)


READERS: dict[str, tuple[Callable[[Path, Code], None], Callable[[Path], object]]] = {
    "fingerprint": (write_fingerprint, lambda path: Fingerprint.from_bytes(path.read_bytes(), "f")),
    "corpus": (write_corpus, lambda path: open_corpus(path, context_length=5, dim=8)),
    "checkpoint": (write_checkpoint, lambda path: Checkpoint.read(path, TrainOptions(model="amn"))),
    "foreign checkpoint": (write_checkpoint, read_checkpoint),
}


@pytest.mark.parametrize("reader", READERS)
def test_reading_runs_no_code(reader: str, tmp_path: Path) -> None:
    write, read = READERS[reader]
    write(tmp_path / "file.npz", Code(tmp_path / "trace"))
    with pytest.raises(LvmError):
        read(tmp_path / "file.npz")
    assert not (tmp_path / "trace").exists()
