"""The proof itself: each kind of wrong answer is found, with numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from export.forms import build_form
from export.onnx.export import write_graph
from export.source import Source, open_source
from export.verify import (
    BATCH_SIZES,
    ROUNDING,
    ROWS_LENGTHENED,
    SAMPLE_SEED,
    DocumentRunner,
    Report,
    Sample,
    make_samples,
    verify,
    verify_file,
    verify_sequence,
)
from lvm_runtime.artifact.config import CONFIGS
from lvm_runtime.artifact.drift import drift
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.backends.base import Array
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.models import known_answers, save_model
from lvm_runtime.selection.sequences import window
from tests.artifacts import randomised

DIM = 16


Fault = Callable[[Array], Any]
"""From contexts `[b, T, D]` to what is added to each answer, one number or `[b]`."""


def nothing(contexts: Array) -> float:
    return 0.0


@dataclass
class Faulty:
    """A runner that knows the answers, and does something wrong to their first component."""

    sample: Sample
    fault: Fault = nothing
    attention_fault: Fault = nothing
    asked: float = 0.0
    """Added to predictions whose attention is asked for."""
    length: float = 1.0

    def run(self, contexts: Array) -> Array:
        known = {c.tobytes(): p for s in self._samples() for c, p in zip(s.contexts, s.predictions, strict=True)}
        answers = np.array([known.get(c.tobytes(), np.eye(DIM)[0]) for c in contexts])
        answers[:, 0] += self.fault(contexts)
        return (answers * self.length).astype(np.float32)

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        known = {c.tobytes(): a for s in self._samples() for c, a in zip(s.contexts, s.attention, strict=True)}  # type: ignore[arg-type]
        attention = np.array([known[c.tobytes()] for c in contexts])
        attention[:, 0] += self.attention_fault(contexts)
        return self.run(contexts) + np.float32(self.asked), attention.astype(np.float32)

    def _samples(self) -> list[Sample]:
        return [self.sample, *self.sample.lengthened]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    sizes = CONFIGS["amn"].small | {"dim": DIM}
    return open_source(str(save_model(randomised("amn", **sizes), tmp_path_factory.mktemp("a") / "amn").path))


@pytest.fixture(scope="module")
def sample(source: Source) -> Sample:
    return replace(make_samples(source)[0], lengthened=())


@pytest.fixture(scope="module")
def lengthened(source: Source) -> Sample:
    """The sample with its contexts in other lengths."""
    return make_samples(source)[0]


def test_right_answers_pass(sample: Sample) -> None:
    report = verify(Faulty(sample), [sample], name="right", precision="fp32")
    assert report.worst_drift < 1e-12
    assert report.batch_change == 0.0
    assert report.contexts == max(BATCH_SIZES)


def test_contexts_joined_to_a_document_run_on_the_cpu_and_give_their_own_windows(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Backend:
        """Answers each window with its first vector, and with the first number of each vector."""

        def __init__(self, path: Path, **options: Any) -> None:
            asked.append((path, options))

        def run(self, document: Array) -> Array:
            return document[:-4]

        def run_with_attention(self, document: Array) -> tuple[Array, Array]:
            return self.run(document), np.lib.stride_tricks.sliding_window_view(document[:, 0], 5)

        def close(self) -> None:
            asked.append("closed")

    monkeypatch.setattr("export.verify.backend_class", {"native": Backend, "onnx": Backend}.__getitem__)
    contexts = sample.contexts[:3]
    for format in ("onnx", "native"):
        with closing(DocumentRunner(Path(format), 5, format=format)) as runner:
            predictions, attention = runner.run_with_attention(np.asfortranarray(contexts))
            np.testing.assert_array_equal(runner.run(contexts), contexts[:, 0])
        np.testing.assert_array_equal(predictions, contexts[:, 0])
        np.testing.assert_array_equal(attention, contexts[:, :, 0])
        assert asked[-2:] == [(Path(format), {"device": "cpu"}), "closed"]


@pytest.mark.parametrize("apart", [1, 5], ids=["right", "wrong"])
def test_windows_that_begin_within_a_context_are_compared_too(
    apart: int, source: Source, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Backend:
        """Answers windows that begin at a multiple of `apart` rightly, and others as the one of these before them."""

        def __init__(self, path: Path, **options: Any) -> None: ...

        def run_with_attention(self, document: Array) -> tuple[Array, Array]:
            windows = window(document, 5)[np.arange(len(document) - 4) // apart * apart]
            predictions, attention = known_answers(source.model, windows)
            assert attention is not None
            return predictions.astype(np.float32), attention.astype(np.float32)

        def run(self, document: Array) -> Array:
            return self.run_with_attention(document)[0]

        def close(self) -> None: ...

    monkeypatch.setattr("export.verify.backend_class", {"onnx": Backend}.__getitem__)
    check = partial(verify_sequence, Path("m.onnx"), source, [sample], format="onnx", precision="fp32")
    if apart == 1:
        assert check().worst_drift < 1e-12
    else:
        with pytest.raises(
            VerificationFailed, match=r"^onnx sequence fp32: largest drift .* of a window of a document"
        ):
            check()


@pytest.mark.parametrize("off", [0.0, 0.1], ids=["right", "wrong"])
def test_a_file_is_opened_as_it_will_be_served_and_closed(
    off: float, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    sizes: set[int] = set()

    class Backend(Faulty):
        precision = "int8"
        largest_norm = 200.0
        batch_sizes = None

        def __init__(self, path: Path, **options: Any) -> None:
            super().__init__(sample, lambda contexts: sizes.add(len(contexts)) or off)
            asked.append((path, options))

        def close(self) -> None:
            asked.append("closed")

    monkeypatch.setattr("export.verify.backend_class", {"onnx": Backend}.__getitem__)
    check = partial(verify_file, Path("m.onnx"), [sample], format="onnx", precision="int8", batch_sizes=(1, 2))
    if off:
        with pytest.raises(VerificationFailed, match=f"^onnx int8: {DRIFT}"):
            check()
    else:
        assert check().worst_drift < 1e-12
    assert asked == [(Path("m.onnx"), {"device": "cpu", "precision": "int8"}), "closed"]
    assert sizes == {1, 2}


def by(offset: float) -> Fault:
    return lambda contexts: offset


def at_batch(size: int) -> Fault:
    """A little, at one batch size only."""
    return lambda contexts: 5e-6 * (len(contexts) == size)


def at_place(place: int, *, least: int = 2, norm: float = 0.0) -> Fault:
    """A little, for one row of a batch of `least` rows or more, with a row whose norm is over `norm` in it."""

    def fault(contexts: Array) -> Any:
        shown = len(contexts) >= least and np.linalg.norm(contexts, axis=2).max() > norm
        return 5e-6 * shown * np.eye(len(contexts))[place % len(contexts)]

    return fault


def for_one(contexts: Array) -> Any:
    """Much, for the one of 128 contexts that holds the largest number."""
    return 0.1 * (np.abs(contexts).max(axis=(1, 2)) == LARGEST)


def scaled_together(contexts: Array) -> float:
    """A rounding error by one scale for the whole batch, which hides while all rows are alike."""
    return 1e-6 * float(np.abs(contexts).max())


LARGEST = np.abs(random_contexts(max(BATCH_SIZES), 5, DIM, seed=SAMPLE_SEED)).max()
ATTENTION = "largest difference in an attention weight"
LENGTH = "largest difference in the length of a prediction is 2.*e-02, expected ≤ 1.0e-02"
MATES = "change of a row by its batch-mates"
DRIFT = r"largest drift \(1 - cosine\) is .*expected ≤ "


@pytest.mark.parametrize(
    ("fault", "precision", "message"),
    [
        pytest.param({"fault": by(0.1)}, "fp32", f"{DRIFT}1.0e-06", id="drift"),
        pytest.param({"fault": by(0.1)}, "int8", f"{DRIFT}1.0e-03", id="int8 drift"),
        pytest.param({"fault": for_one}, "int8", DRIFT, id="one context of 128"),
        pytest.param({"fault": by(1e-4)}, "fp32", "largest difference in a component", id="component"),
        pytest.param({"fault": by(0.03)}, "int8", "median drift", id="median"),
        pytest.param({"fault": by(6e-6)}, "fp32", "median drift .* of random contexts", id="more than rounding"),
        pytest.param({"fault": by(float("nan"))}, "int8", "largest drift .* is inf", id="nan"),
        pytest.param({"fault": scaled_together}, "int8", MATES, id="one scale for a batch"),
        *(pytest.param({"fault": at_batch(n)}, "fp32", MATES, id=f"batch {n}") for n in (1, 3, 32, 128)),
        *(pytest.param({"fault": at_place(n)}, "fp32", MATES, id=f"row {n}") for n in (0, 7)),
        pytest.param({"fault": at_place(0, norm=10)}, "fp32", MATES, id="first among large rows"),
        pytest.param({"fault": at_place(-1, norm=10)}, "fp32", MATES, id="last among large rows"),
        pytest.param({"length": 1.02}, "int8", LENGTH, id="too long"),
        pytest.param({"length": 0.98}, "fp16", LENGTH, id="too short"),
        pytest.param({"attention_fault": by(1e-3)}, "fp32", ATTENTION, id="attention"),
        pytest.param({"attention_fault": by(float("nan"))}, "int8", f"{ATTENTION} is inf", id="nan attention"),
        pytest.param({"attention_fault": for_one}, "int8", ATTENTION, id="attention of one context"),
        pytest.param({"asked": 5e-6}, "fp32", "change by asking attention", id="attention asked for"),
    ],
)
def test_each_fault_is_found(sample: Sample, fault: dict[str, Any], precision: str, message: str) -> None:
    with pytest.raises(
        VerificationFailed, match=f"^faulty: {message}.*; nothing was kept: choose a higher --precision"
    ):
        verify(Faulty(sample, **fault), [sample], name="faulty", precision=precision)


def at_norm(least: float, most: float, *, rows: int = ROWS_LENGTHENED, off: float = 1e-3) -> Fault:
    """Something in the first `rows` where the longest vector's norm is within two bounds."""

    def fault(contexts: Array) -> Any:
        shown = least <= np.linalg.norm(contexts, axis=2).max() <= most
        return np.where(shown & (np.arange(len(contexts)) < rows), off, 0.0)

    return fault


IN_OTHER_LENGTHS = "with contexts {} times as long, the median row's largest difference in {}"


@pytest.mark.parametrize(
    ("fault", "precision", "message"),
    [
        ({"fault": at_norm(29, 31)}, "fp32", IN_OTHER_LENGTHS.format(30, "a component")),
        ({"fault": at_norm(999, 1001)}, "fp32", IN_OTHER_LENGTHS.format(1000, "a component")),
        ({"fault": at_norm(0, 0)}, "fp32", IN_OTHER_LENGTHS.format(0, "a component")),
        ({"attention_fault": at_norm(29, 31)}, "fp32", IN_OTHER_LENGTHS.format(30, "an attention weight")),
        ({"fault": at_norm(0, 0, off=np.nan)}, "fp32", IN_OTHER_LENGTHS.format(0, "a component") + " is inf"),
        (
            {"fault": lambda contexts: 0.0 if contexts.any() else np.nan},
            "int8",
            "contexts of zeros give NaN or infinity",
        ),
    ],
    ids=["30", "1000", "zeros", "attention", "nan for zeros", "nan for zeros in int8"],
)
def test_mistakes_at_other_lengths_are_found(
    lengthened: Sample, fault: dict[str, Any], precision: str, message: str
) -> None:
    with pytest.raises(VerificationFailed, match=f"^faulty: {message}"):
        verify(Faulty(lengthened, **fault), [lengthened], name="faulty", precision=precision)


def test_rounding_may_decide_between_scores_of_long_contexts(lengthened: Sample) -> None:
    form = Faulty(lengthened, at_norm(29, 31, rows=12))
    assert verify(form, [lengthened], name="right", precision="fp32").contexts == max(BATCH_SIZES)


def test_a_form_is_not_compared_beyond_the_norms_that_its_backend_takes(lengthened: Sample) -> None:
    check = partial(verify, samples=[lengthened], name="faulty", precision="fp32")
    check(Faulty(lengthened, at_norm(999, 1001)), largest_norm=200)
    with pytest.raises(VerificationFailed, match=IN_OTHER_LENGTHS.format(30, "a component")):
        check(Faulty(lengthened, at_norm(29, 31)), largest_norm=200)


def test_int8_is_not_compared_beyond_its_norms(lengthened: Sample) -> None:
    verify(Faulty(lengthened, at_norm(29, 31)), [lengthened], name="right", precision="int8")


DEFAULT_RUNS = {1: 8 + 8, 3: 2, 2: 1, 32: 1 + 8, 128: 1}
"""How often each batch size runs for 128 contexts: the answers, and then eight rows alone and among large ones."""


@pytest.mark.parametrize(
    ("sizes", "runs"), [(BATCH_SIZES, DEFAULT_RUNS), ((4,), {4: 32 + 16}), ((64, 128), {64: 1 + 16, 128: 1})], ids=str
)
def test_a_form_runs_at_its_own_sizes(sizes: tuple[int, ...], runs: dict[int, int], sample: Sample) -> None:
    ran: Counter[int] = Counter()

    def count(contexts: Array) -> float:
        ran[len(contexts)] += 1
        return 0.0

    plain = replace(sample, attention=None)
    verify(Faulty(plain, count), [plain], name="right", precision="fp32", batch_sizes=sizes)
    assert ran == runs


def test_a_report_has_what_was_measured(sample: Sample) -> None:
    plain = replace(sample, attention=None)
    report = verify(Faulty(plain, by(2e-6)), [plain, plain], name="off", precision="fp32", batch_sizes=(128,))
    off = drift(Faulty(plain, by(2e-6)).run(plain.contexts), plain.predictions)
    assert (report.worst_drift, report.median_drift) == (off.max(), np.median(off))
    assert report.largest_difference == pytest.approx(2e-6, rel=0.01)
    assert (report.batch_change, report.contexts, report.search) == (0.0, 256, None)
    assert report.details() == {
        "median_drift": report.median_drift,
        "largest_difference": report.largest_difference,
        "batch_change": 0.0,
        "verified_on": 256,
    }
    assert str(Report(1e-7, 2e-8, 3e-6, 4e-7, 256)) == (
        "drift 1.0e-07 at worst, 2.0e-08 at the median of 256 contexts; batch-mates change 4e-07"
    )


def test_the_first_of_a_sample_keep_their_answers(sample: Sample) -> None:
    few, plain = sample.first(3), replace(sample, attention=None).first(3)
    for found in (few, plain):
        np.testing.assert_array_equal(found.contexts, sample.contexts[:3])
        np.testing.assert_array_equal(found.predictions, sample.predictions[:3])
    assert sample.attention is not None
    assert few.attention is not None
    np.testing.assert_array_equal(few.attention, sample.attention[:3])
    assert plain.attention is None


def test_a_form_may_be_rounded_otherwise_than_the_training_form(sample: Sample) -> None:
    """Where fp32 itself moves the answers of a model, no form can be held to less."""
    assert 0 < sample.rounding < 1e-12
    plain = replace(sample, attention=None, rounding=2e-12)
    verify(Faulty(plain, by(6e-6)), [plain], name="right", precision="fp32")
    assert (replace(sample, rounding=1.0).rounding_limit, sample.rounding_limit) == (1e-7, ROUNDING)


def test_a_small_mistake_is_found_in_a_file(tmp_path: Path) -> None:
    """An epsilon that is off: of a prediction's components none is off by a fifth of their limit."""
    sizes: dict[str, Any] = {"dim": 64, "hidden_dim": 64, "num_heads": 4, "ffn_dim": 128}
    model, other = randomised("transformer", **sizes), randomised("transformer", **sizes)
    for module in other.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    samples = [Sample.of("usual", model, random_contexts(128, 5, 64))]
    for name, written in (("right", model), ("off", other)):
        write_graph(build_form(written), tmp_path / f"{name}.onnx", "fp32")
    check = partial(verify_file, samples=samples, format="onnx", precision="fp32")
    assert check(tmp_path / "right.onnx").median_drift < 1e-12
    with pytest.raises(VerificationFailed, match=r"^onnx fp32: median drift \(1 - cosine\) of usual contexts"):
        check(tmp_path / "off.onnx")


def test_every_sample_is_compared(sample: Sample) -> None:
    turned = replace(sample, contexts=sample.contexts[::-1].copy())
    with pytest.raises(VerificationFailed, match=DRIFT):
        verify(Faulty(sample), [sample, turned], name="faulty", precision="int8")
