"""The proof itself: each kind of wrong answer is found, with numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from export.randomise import randomise
from export.source import Source
from export.verify import BATCH_SIZES, Sample, make_samples, verify
from export.windows import read_windows
from lvm_runtime.artifact.config import make_config
from lvm_runtime.backends.base import Array
from lvm_runtime.errors import InvalidInput, VerificationFailed
from lvm_runtime.models import build_model, save_model

DIM = 16


@dataclass
class Faulty:
    """A runner that knows the answers, and does something wrong to them."""

    sample: Sample
    offset: float = 0.0
    mates: float = 0.0
    attention_offset: float = 0.0

    def run(self, contexts: Array) -> Array:
        known = {c.tobytes(): p for c, p in zip(self.sample.contexts, self.sample.predictions, strict=True)}
        one = np.eye(DIM)[0]
        answers = [known.get(c.tobytes(), one) for c in contexts]
        scale = float(np.abs(contexts).max())  # of the whole batch: what per-tensor quantisation looks at
        return (np.array(answers) + one * (self.offset + self.mates * scale)).astype(np.float32)

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        known = {c.tobytes(): a for c, a in zip(self.sample.contexts, self.sample.attention, strict=True)}  # type: ignore[arg-type]
        attention = np.array([known[c.tobytes()] for c in contexts]) + self.attention_offset
        return self.run(contexts), attention.astype(np.float32)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    config = make_config("amn", dim=DIM, attention_dim=8, hidden_dim=8, bottleneck_dim=8)
    model = randomise(build_model(config, seed=0))
    return make_samples(Source(save_model(model, tmp_path_factory.mktemp("a") / "amn"), model))[0]


def test_right_answers_pass(sample: Sample) -> None:
    report = verify(Faulty(sample), [sample], name="right", precision="fp32")
    assert report.worst_drift < 1e-12
    assert report.batch_change == 0.0
    assert report.contexts == max(BATCH_SIZES)


@pytest.mark.parametrize(
    ("fault", "precision", "message"),
    [
        pytest.param({"offset": 0.1}, "fp32", r"largest drift \(1 - cosine\) is .*expected ≤ 1.0e-06", id="drift"),
        pytest.param({"offset": 0.1}, "int8", r"largest drift \(1 - cosine\) is .*expected ≤ 1.0e-03", id="int8 drift"),
        pytest.param({"offset": 1e-4}, "fp32", "largest difference in a component", id="component"),
        pytest.param({"offset": 0.03}, "int8", "median drift", id="median"),
        pytest.param({"mates": 1e-5}, "int8", "change of a row by its batch-mates", id="batch-mates"),
        pytest.param({"attention_offset": 1e-3}, "fp32", "attention weight", id="attention"),
        pytest.param({"offset": float("nan")}, "int8", "largest drift .* is inf", id="nan"),
    ],
)
def test_each_fault_is_found(sample: Sample, fault: dict[str, float], precision: str, message: str) -> None:
    with pytest.raises(VerificationFailed, match=message):
        verify(Faulty(sample, **fault), [sample], name="faulty", precision=precision)


def write_corpus(path: Path, dim: int, lengths: list[int]) -> Path:
    ids = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    vectors = np.repeat(ids[:, None], dim, axis=1) + np.arange(len(ids))[:, None] / 1000
    np.savez(path, vectors=vectors.astype(np.float32), doc_ids=ids)
    return path


def test_real_windows_stay_within_the_last_documents(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "c.npz", 4, [9] * 18 + [3, 8])
    windows = read_windows(path, 4, 5, 100)
    assert windows.shape == (4, 5, 4)  # the eight vectors of document 19; document 18 is too short
    assert (windows.astype(int) == 19).all()


@pytest.mark.parametrize("dim", [3, 5])
def test_corpus_of_another_size_is_refused(tmp_path: Path, dim: int) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        read_windows(write_corpus(tmp_path / "c.npz", 4, [9, 9]), dim, 5, 10)


def test_missing_corpus_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.npz"):
        read_windows(tmp_path / "nowhere.npz", 4, 5, 10)
