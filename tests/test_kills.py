"""Commands that are killed: what they write is the old one or the new one, and the next run goes on to the right end.

Each run is a real command line. It is killed at a random moment of its life, or a few milliseconds after it changed a
file. One that ends before that has to end as an undisturbed run does.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvm_runtime.artifact.folder import Artifact
from tests.artifacts import make_artifact, some_contexts
from tests.texts import ENCODER, TEXT
from tests.train.test_import_checkpoint import checkpoint

MODEL = ("--model", "lstm", "--device", "cpu", "--set", "hidden_dim=16", "--epochs", "6", "--checkpoint-every", "3")


def _names(folder: Path) -> list[str]:
    """Return the names in a folder, but for an empty one of a run that was killed as it began or ended."""
    return sorted(p.name for p in folder.iterdir() if not (p.name.startswith(".tmp-") and not any(p.iterdir())))


def _same_files(folder: Path) -> Any:
    """Return what the files hold, by name."""
    return {name: (folder / name).read_bytes() if (folder / name).is_file() else "folder" for name in _names(folder)}


def _artifact(folder: Path) -> Any:
    """Return the forms and weights of a whole artifact, and what is beside it."""
    artifact = Artifact.load(folder / "a")
    forms = {c.file.path: c.precision for c in artifact.manifest.compiled}
    for figures in folder.glob("*.run/*.json"):
        json.loads(figures.read_bytes())
    return artifact.manifest.weights.sha256, forms, _names(folder)


def _measurements(folder: Path) -> Any:
    """Return which forms each file of the cache has figures of."""
    files = [json.loads(path.read_bytes()) for path in (folder / "cache/measurements").glob("[!.]*/*.json")]
    return [[(m["file"], len(m["seconds"])) for m in body["measurements"]] for body in files]


def _arrays(folder: Path) -> Any:
    with np.load(folder / "o.npz") as arrays:
        return {name: array.tolist() for name, array in arrays.items()}


@dataclass(frozen=True)
class Job:
    """A command, run in a folder that begins as a copy of one that `make` fills; `see` reads what is in there."""

    command: Callable[[Path], list[str]]
    make: Callable[[Path], object]
    see: Callable[[Path], Any]
    between: Callable[[Any, Any, Any], bool] = lambda seen, old, new: seen in (old, new)
    leaves: tuple[str, ...] = field(default=())


def _train(folder: Path) -> list[str]:
    resume = ["--resume"] if (folder / "a.run/checkpoint.pt").exists() else ["--overwrite"]
    return ["train", *MODEL, "--data", "../corpus.npz", "--out", "a", *resume]


def _whole_artifact(seen: Any, old: Any, new: Any) -> bool:
    """Weights of the old or the new artifact, with none of the other's forms."""
    return seen[0] in (old[0], new[0]) and set(seen[1].items()) <= set((old if seen[0] == old[0] else new)[1].items())


def _some_forms(seen: Any, old: Any, new: Any) -> bool:
    return seen[0] == new[0] and set(seen[1].items()) <= set(new[1].items())


def _bulk(suffix: str) -> Job:
    def whole(seen: Any, old: Any, new: Any) -> bool:
        return seen.get(f"o{suffix}") in (old[f"o{suffix}"], new[f"o{suffix}"])

    return Job(
        lambda _: ["predict", "../art", "../in.npy", f"o{suffix}", "--overwrite", "--backend", "onnx"],
        lambda folder: (folder / f"o{suffix}").write_text("old"),
        _same_files,
        whole,
    )


JOBS = {
    "train": Job(_train, lambda folder: make_artifact(folder / "a", "lstm", onnx=True), _artifact, _whole_artifact),
    "export": Job(
        lambda _: ["export", "--model", "a", "--format", "onnx", "--format", "torchscript"],
        lambda folder: make_artifact(folder / "a", "lstm", onnx=False),
        _artifact,
        _some_forms,
    ),
    "import-checkpoint": Job(
        lambda _: ["import-checkpoint", "../best.pt", "--out", "a", "--overwrite"],
        lambda folder: make_artifact(folder / "a", "lstm"),
        _artifact,
        _whole_artifact,
    ),
    "predict .npy": _bulk(".npy"),
    "predict .npz": _bulk(".npz"),
    "predict .parquet": _bulk(".parquet"),
    "tune": Job(
        lambda _: ["tune", "../art", "--backend", "onnx", "--threads", "1"],
        lambda folder: None,
        _measurements,
    ),
    "embed": Job(
        lambda _: ["embed", "../texts", "--out", "o.npz", "--encoder", ENCODER, "--tokens", "30"],
        lambda folder: np.savez(folder / "o.npz", vectors=np.zeros((1, 2)), made="{}"),
        _arrays,
    ),
}


def _inputs(root: Path) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((600, 16)).astype(np.float32)
    np.savez(root / "corpus.npz", vectors=vectors, doc_ids=np.repeat(np.arange(20), 30))
    np.save(root / "in.npy", some_contexts(60_000))
    make_artifact(root / "art", "gru")
    checkpoint(root / "best.pt", "lstm")
    (root / "texts").mkdir()
    for name in "ab":
        (root / f"texts/{name}.txt").write_text(TEXT.replace("water", name))


class _Attack:
    def __init__(self, job: Job, root: Path, seed: int) -> None:
        self.job, self.root, self.random = job, root, random.Random(seed)
        self.first, self.work = root / "first", root / "work"
        self.first.mkdir()
        job.make(self.first)
        self.old = job.see(self.first)
        self._renew()
        began = time.monotonic()
        self._end(self._start())
        self.seconds = time.monotonic() - began
        self.new = job.see(self.work)
        self._renew()

    def run(self, kills: int) -> Counter[str]:
        """Kill so many runs, see each time what they left, and let the last one end."""
        found: Counter[str] = Counter()
        while found["killed"] < kills:
            process = self._start()
            if self._wait(process):
                process.kill()
                process.communicate()
                found["killed"] += 1
                seen = self.job.see(self.work)
                assert self.job.between(seen, self.old, self.new), seen
                found["old" if seen == self.old else "new" if seen == self.new else "on the way"] += 1
            else:
                self._end(process)
                found["ended"] += 1
                assert self.job.see(self.work) == self.new
                self._renew()
        self._end(self._start())
        assert self.job.see(self.work) == self.new
        return found

    def _wait(self, process: subprocess.Popen[str]) -> bool:
        """Wait for the moment to kill; False if the process has ended before."""
        until = time.monotonic() + self.random.uniform(0.2, 1.2) * self.seconds
        if self.random.random() < 0.5:
            before, deadline = _state(self.work), time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline and _state(self.work) == before:
                time.sleep(0.001)
            until = time.monotonic() + self.random.choice([0, 0.003, 0.02, 0.2]) * self.random.random()
        while process.poll() is None:
            if time.monotonic() >= until:
                return True
            time.sleep(0.001)
        return False

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lvm_runtime", *self.job.command(self.work)]
        own = {"LVM_CACHE": "cache", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.work, env=os.environ | own, **pipes)

    def _end(self, process: subprocess.Popen[str]) -> None:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said

    def _renew(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.first, self.work)


def _state(folder: Path) -> list[tuple[str, int]]:
    """Return names and sizes below a folder, of what is there while it changes."""
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                found.append((name, os.stat(os.path.join(root, name)).st_size))
            except FileNotFoundError:
                found.append((name, -1))
    return found


def test_a_few_killed_predictions(tmp_path: Path) -> None:
    _inputs(tmp_path)
    _Attack(JOBS["predict .npy"], tmp_path, 0).run(3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", JOBS)
def test_many_killed_commands(tmp_path: Path, name: str) -> None:
    _inputs(tmp_path)
    print(f"{name}: {dict(_Attack(JOBS[name], tmp_path, 1).run(30))}")
