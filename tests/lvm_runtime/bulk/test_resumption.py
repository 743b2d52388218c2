"""What an interrupted bulk run left is taken up by the same run, and by no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lvm_runtime import InvalidInput, Predictor
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.bulk import predict as bulk
from lvm_runtime.bulk.destination import Destination
from lvm_runtime.bulk.output import Output
from lvm_runtime.bulk.parts import plan, write_part
from lvm_runtime.bulk.predict import predict_file
from lvm_runtime.models import save_model
from tests.artifacts import add_onnx, randomised, some_contexts, with_other_heads
from tests.lvm_runtime.bulk.test_bulk import _interrupted, _save

Get = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BLOCK", 32)


def _export_again(path: Path, file: str, **listed: Any) -> None:
    """Make a compiled form once more, of the same weights, with other bytes."""
    artifact = Artifact.load(path)
    with artifact.adding(file) as temporary:
        model = onnx.load(path / file)
        model.doc_string = "made again"
        onnx.save(model, temporary)
        artifact.commit(temporary, file, format="onnx", precision="fp32", drift=1e-12, **listed)


def _train_again(path: Path) -> None:
    model = randomised("amn", seed=1)
    add_onnx(save_model(model, path), model)


OTHERS: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "weights": (_train_again, {}, "weights"),
    "backend": (lambda path: None, {"backend": "openvino"}, "model"),  # which reads the same file
    "precision": (lambda path: None, {"precision": "int8"}, "model"),
    "form": (lambda path: _export_again(path, "onnx/fp32.onnx"), {}, "model"),
    "form of documents": (lambda path: _export_again(path, "onnx/sequence-fp32.onnx", form="sequence"), {}, "sequence"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_another_model_began_is_not_taken_up(
    other: str, int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = _save(tmp_path / "in.npy", contexts=some_contexts(200)), tmp_path / "out.npy"
    usual: dict[str, Any] = {"backend": "onnx", "precision": "fp32", "threads": 1}
    with Predictor(int8, **usual) as predictor:
        _interrupted(predictor, source, out, monkeypatch)
        assert predict_file(predictor, source, tmp_path / "other.npy").resumed == 0
    change, options, name = OTHERS[other]
    change(int8)
    with Predictor(int8, **(usual | options)) as predictor:
        with pytest.raises(InvalidInput, match=rf"belongs to a run with other [a-z, ]*\b{name}\b.*--restart"):
            predict_file(predictor, source, out)
        assert predict_file(predictor, source, out, restart=True).resumed == 0


def test_rows_that_were_set_aside_are_not_taken_for_predictions(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was told to skip bad rows, resumed by one that was not."""
    contexts = some_contexts(200)
    contexts[40, 2, 3] = np.nan
    source, out = _save(tmp_path / "in.npy", contexts=contexts), tmp_path / "out.npy"
    with Predictor(int8, backend="onnx", threads=1) as predictor:
        _interrupted(predictor, source, out, monkeypatch, skip_bad=True)
        for _ in range(2):
            with pytest.raises(InvalidInput, match=r"row 40, position 2.*--skip-bad to go on with that, or --restart"):
                predict_file(predictor, source, out)
        result = predict_file(predictor, source, out, skip_bad=True)
    assert result.resumed > 0
    assert result.bad == 1
    assert np.isnan(np.load(out)).all(axis=1).nonzero()[0].tolist() == [40]


def test_blocks_of_another_size_are_not_taken_up(tmp_path: Path) -> None:
    """Block 1 of 4 rows each is not block 1 of 2 rows each."""
    output = Output(Destination(tmp_path / "out.npy"), 8, 3, 4, {}, np.arange)
    output.write(1, np.ones((4, 3), np.float32), {})
    output.close()
    for rows, dim, block, name in ((8, 3, 2, "block"), (7, 3, 4, "rows"), (8, 2, 4, "dim")):
        with pytest.raises(InvalidInput, match=f"belongs to a run with other {name};"):
            Output(Destination(tmp_path / "out.npy"), rows, dim, block, {}, np.arange)


@pytest.mark.parametrize("other", OTHERS)
def test_parts_of_another_model_are_made_again(other: str, int8: Path, tmp_path: Path) -> None:
    (part,) = plan([_save(tmp_path / "in.npy", contexts=some_contexts(200))])
    usual: dict[str, Any] = {"backend": "onnx", "precision": "fp32", "threads": 1}
    with Predictor(int8, **usual) as predictor:
        assert [write_part(predictor, part, tmp_path, skip_bad=False).resumed for _ in range(2)] == [False, True]
    change, options, _ = OTHERS[other]
    change(int8)
    with Predictor(int8, **(usual | options)) as predictor:
        assert [write_part(predictor, part, tmp_path, skip_bad=False).resumed for _ in range(2)] == [False, True]


def test_parts_of_other_weights_are_made_again(tmp_path: Path) -> None:
    """Without a compiled form the weights alone tell."""
    (part,) = plan([_save(tmp_path / "in.npy", contexts=some_contexts(9))])
    for seed in (0, 1):
        with Predictor(save_model(randomised("amn", seed=seed), tmp_path / "amn").path, backend="eager") as predictor:
            assert [write_part(predictor, part, tmp_path, skip_bad=False).resumed for _ in range(2)] == [False, True]


def test_parts_of_equal_weights_with_other_heads_are_made_again(tmp_path: Path) -> None:
    """As when a checkpoint is imported again because the number of its heads was wrong."""
    (part,) = plan([_save(tmp_path / "in.npy", contexts=some_contexts(9))])
    model = randomised("transformer")
    for each in (model, with_other_heads(model)):
        with Predictor(save_model(each, tmp_path / "t").path, backend="eager") as predictor:
            assert [write_part(predictor, part, tmp_path, skip_bad=False).resumed for _ in range(2)] == [False, True]


def test_a_short_last_block_that_was_done_counts_as_what_it_holds(
    small_artifacts: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(small_artifacts("amn"), threads=1)
    source, out = _save(tmp_path / "in.npy", contexts=some_contexts(40)), tmp_path / "out.npy"
    predict, last_is_done = bulk.predict_part, threading.Event()

    def first_fails(predictor: Predictor, source: Any, start: int, *rest: Any) -> Any:
        if start == 0:
            assert last_is_done.wait(30)
            raise KeyboardInterrupt
        return predict(predictor, source, start, *rest)

    write = Output.write

    def noted(output: Output, number: int, *rest: Any) -> None:
        write(output, number, *rest)
        last_is_done.set()

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "predict_part", first_fails)
        patch.setattr(Output, "write", noted)
        with pytest.raises(KeyboardInterrupt):
            predict_file(predictor, source, out)
    assert predict_file(predictor, source, out).resumed == 8
