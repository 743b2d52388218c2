"""The `lvm-runtime` command as a user meets it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lvm_runtime
from lvm_runtime.artifact.config import make_config
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.registry import BACKENDS
from lvm_runtime.commands import console
from lvm_runtime.commands.main import main
from lvm_runtime.models import build_model, save_model
from lvm_runtime.predictor import Predictor
from lvm_runtime.retrieval.index import Index
from tests.artifacts import some_contexts
from tests.train.test_import_checkpoint import checkpoint
from train.all import command as all_models

Get = Callable[[str], Path]
Capture = pytest.CaptureFixture[str]


def test_info_shows_every_file_and_its_drift(small_artifacts: Get, capsys: Capture) -> None:
    assert main(["info", str(small_artifacts("amn"))]) == 0
    shown = capsys.readouterr().out
    for word in ("amn (dim 16, context_length 5", "onnx/fp32.onnx", "1.0e-12", "model.safetensors", "SHA-256"):
        assert word in shown


def test_info_rounds_what_training_recorded_and_leaves_out_what_lies_deep(tmp_path: Path, capsys: Capture) -> None:
    recorded = {"gain": {"value": 0.123456789, "parts": [0.987654321], "by": {"low": 1}, "of": {}}, "epochs": 4}
    model = build_model(make_config("amn", dim=16, attention_dim=8, hidden_dim=8, bottleneck_dim=8))
    save_model(model, tmp_path / "amn", provenance={"data": None, "metrics": recorded, "notes": "{x}"})
    assert main(["info", str(tmp_path / "amn")]) == 0
    shown = capsys.readouterr().out.splitlines()
    begin = shown.index("metrics:")
    assert shown[begin + 1 : begin + 3] == ["  gain {value 0.1235, parts [0.9877], by {…}, of {}}", "  epochs 4"]
    assert {"data: None", "notes: {x}"} <= set(shown)


def test_info_breaks_long_lines_after_commas_and_loses_nothing(tmp_path: Path, capsys: Capture) -> None:
    options = {f"option_{i}": f"the value {i}" for i in range(40)}
    model = build_model(make_config("amn", dim=16, attention_dim=8, hidden_dim=8, bottleneck_dim=8))
    save_model(model, tmp_path / "amn", provenance={"training": {"options": options}})
    assert main(["info", str(tmp_path / "amn")]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= max(100, len(str(tmp_path)) + 120)
    assert all(f"option_{i} the value {i}" in shown for i in range(40))


def test_info_keeps_what_an_artifact_says_of_itself_in_its_own_line(tmp_path: Path, capsys: Capture) -> None:
    model = build_model(make_config("amn", dim=16, attention_dim=8, hidden_dim=8, bottleneck_dim=8))
    false = "x\nevery file was signed"
    save_model(model, tmp_path / "amn", provenance={"notes": false, "data": {"of": false}, false: 1})
    assert main(["info", str(tmp_path / "amn")]) == 0
    assert "every file was signed" not in map(str.strip, capsys.readouterr().out.splitlines())


def test_the_version_is_that_of_the_package(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"lvm_runtime {lvm_runtime.__version__}\n")


def test_doctor_says_of_every_backend_whether_it_works(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is taken away, so that there is one of each kind."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    rows = {words[0]: words[1:] for line in shown.splitlines() if (words := line.split()) and words[0] in BACKENDS}
    assert list(rows) == list(BACKENDS)
    assert rows["onnx"][:3] == ["yes", "onnxruntime", onnxruntime.__version__ + ","]
    assert rows["eager"][:3] == ["yes", "torch", version("torch") + ","]
    assert " ".join(rows["openvino"]).startswith("no it needs openvino; install it with: pip install")
    assert " CPUs; " in shown


def test_tuning_without_a_form_that_serves_is_an_error(small_artifacts: Get, capsys: Capture) -> None:
    assert main(["tune", str(small_artifacts("amn")), "--backend", "onnx", "--max-drift", "1e-30"]) == 1
    captured = capsys.readouterr()
    assert "nothing runs here" in captured.out
    assert "amn: no form of it can serve this request here, for the reasons above" in captured.err


def test_tune_prints_a_table(small_artifacts: Get, capsys: Capture) -> None:
    assert main(["tune", str(small_artifacts("amn")), "--backend", "onnx", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert "onnx fp32 (onnx/fp32.onnx)" in captured.out
    assert captured.out.count("*") == 2  # one form serves; the legend says so
    assert captured.out.startswith("predictions per second; * serves where the drift may be 0.001\n")
    assert "timing" in captured.err


def test_a_document_that_is_too_short_is_told(small_artifacts: Get, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "in.npy", some_contexts(1, length=3)[0])
    assert main(["predict", str(small_artifacts("amn")), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]) == 0
    assert "WARNING: no document has as many vectors as the model reads" in capsys.readouterr().err


def test_predict_writes_the_file(small_artifacts: Get, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "in.npy", some_contexts(10))
    command = ["predict", str(small_artifacts("amn")), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    assert main(command) == 0
    assert "10 predictions" in capsys.readouterr().out
    assert np.load(tmp_path / "out.npy").shape == (10, 16)
    assert main(command) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_one_of_a_kind_is_in_the_singular(small_artifacts: Get, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "in.npy", some_contexts(1))
    assert main(["predict", str(small_artifacts("amn")), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]) == 0
    assert capsys.readouterr().out.endswith(": 1 prediction\n")
    np.save(tmp_path / "one.npy", some_contexts(1)[0, :1])
    assert main(["index", str(tmp_path / "one.npy")]) == 0
    assert ": 1 vector, D=16" in capsys.readouterr().out


def test_an_interrupted_prediction_says_how_to_go_on(
    small_artifacts: Get, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    np.save(tmp_path / "in.npy", some_contexts(10))
    command = ["predict", str(small_artifacts("amn")), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    with monkeypatch.context() as patch:
        patch.setattr("lvm_runtime.bulk.predict.predict_block", interrupted)
        assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(command) == 0


WRONG = {
    "no artifact": (["info", "nowhere"], "nowhere does not exist"),
    "no input": (["predict", "ARTIFACT", "absent.npy", "out.npy"], "absent.npy: no such file"),
    "backend": (["predict", "ARTIFACT", "in.npy", "out.npy", "--backend", "tvm"], "unknown backend 'tvm'"),
    "device": (["explain", "ARTIFACT", "--device", "foo"], "unknown device 'foo'; expected auto or one of cpu, cuda,"),
    "a file for an artifact": (["info", "ARTIFACT/manifest.json"], "expected an artifact folder"),
    "control characters": (["info", "no\x1b[2Jwhere"], "no\\x1b[2Jwhere does not exist"),
    "a folder for an input": (["predict", "ARTIFACT", "ARTIFACT", "out.npy"], "is a folder; give a file, or --ray"),
    "an output below a file": (["predict", "ARTIFACT", "in.npy", "ARTIFACT/manifest.json/out.npy"], "manifest.json"),
    "a name too long": (["predict", "ARTIFACT", "n" * 300, "out.npy"], "n" * 300),
    "no checkpoint": (["import-checkpoint", "absent.pt", "--out", "x"], "absent.pt: no such file"),
    "a comparison below a file": (
        ["compare", "ARTIFACT", "--out", "ARTIFACT/manifest.json/report"],
        "cannot be written",
    ),
    "nothing to embed": (["embed", "absent.txt", "--out", "corpus.npz"], "absent.txt: no such file"),
    "no tokens": (["embed", "absent.txt", "--out", "corpus.npz", "--tokens", "0"], "--tokens is 0"),
    "a corpus below a file": (["embed", __file__, "--out", "ARTIFACT/manifest.json/corpus.npz"], "cannot be written"),
    "an output without a name": (["train", "--model", "amn", "--out", "."], "out is '.'"),
    "threads": (["tune", "ARTIFACT", "--threads", "0"], "--threads is 0"),
    "a batch": (["explain", "ARTIFACT", "--typical-batch", "0"], "--typical-batch is 0"),
    "a letter": (["next", "ARTIFACT", "--index", "i", "-k", "0"], "-k is 0"),
    "a rate": (["train", "--model", "amn", "--learning-rate", "-1"], "--learning-rate is -1.0"),
    "two ports": (["serve", "ARTIFACT", "--grpc-port", "8000"], "--http-port and --grpc-port are both 8000"),
    "no time": (["serve", "ARTIFACT", "--timeout", "0"], "--timeout is 0, expected a number above 0"),
    "a queue": (["serve", "ARTIFACT", "--max-queue", "2"], "--max-request is 1024, expected at most --max-queue, 2"),
    "a form's batch sizes": (
        ["export", "coreml", "--model", "ARTIFACT", "--batch-sizes", "0"],
        "--batch-sizes is (0,), expected",
    ),
    "a model's own option": (
        ["train", "--model", "amn", "--set", "dropot=1"],
        "known keys: attention_dim, bottleneck_dim, context_length, dim",
    ),
}
WITHOUT_EFFECT = {
    "a ray worker's CPUs": (["predict", "ARTIFACT", "in.npy", "out.npy", "--cpus", "2"], "--cpus is for the workers"),
    "its GPUs": (["predict", "ARTIFACT", "in.npy", "out.npy", "--gpus", "0"], "--gpus is for the workers of --ray"),
    "an encoder": (["next", "ARTIFACT", "--index", "i", "--vectors", "v.npy", "--encoder", "e"], "--encoder is for a"),
    "its device": (
        ["next", "ARTIFACT", "--index", "i", "--vectors", "v.npy", "--encoder-device", "cpu"],
        "--encoder-device is for a text",
    ),
    "a corpus's size": (["train", "--model", "amn", "--windows", "300"], "--windows is for --data synthetic"),
    "its dim": (["train", "--model", "amn", "--data", "c.npz", "--dim", "16"], "--dim is for --data synthetic"),
    "a temperature": (["train", "--model", "amn", "--temperature", "0.1"], "--temperature is for --loss ranking"),
    "candidates": (["train", "--model", "amn", "--loss", "infonce", "--candidates", "9"], "--candidates is for --loss"),
    "a checkpoint's documents": (
        ["import-checkpoint", "absent.pt", "--out", "x", "--validation", "0.2"],
        "--validation is for the documents of --data",
    ),
    "a seed": (["import-checkpoint", "absent.pt", "--out", "x", "--data", "c.npz", "--seed", "1"], "--seed is for"),
    "an overlap": (["export", "onnx", "--model", "ARTIFACT", "--min-overlap", "0.5"], "--min-overlap is for a search"),
    "a limit": (["export", "coreml", "--model", "ARTIFACT", "--max-drift", "1e-5"], "--max-drift is for a package"),
    "batch sizes": (
        ["export", "coreai", "--model", "ARTIFACT", "--precision", "fp32", "--batch-sizes", "1,8"],
        "--batch-sizes is for --shapes static",
    ),
    "a baseline's batch sizes": (
        ["export", "coreai", "--model", "ARTIFACT", "--stock", "--batch-sizes", "1,8"],
        "--batch-sizes is for --shapes static",
    ),
    "a baseline's corpus": (
        ["export", "coreai", "--model", "ARTIFACT", "--stock", "--data", "absent.npz"],
        "--data is for our forms",
    ),
    "a package's corpus": (
        ["export", "coreml", "--model", "ARTIFACT", "--stock", "--data", "absent.npz", "--min-overlap", "0.9"],
        "--data is for our forms",
    ),
    "a package's device": (
        ["export", "coreml", "--model", "ARTIFACT", "--stock", "--compute-units", "cpu"],
        "--compute-units is for our form",
    ),
    "its GELU": (["export", "coreml", "--model", "ARTIFACT", "--stock", "--gelu", "erf"], "--gelu is for our form"),
    "an evaluation": (["export", "mil-reference", "p.mlpackage", "--output", "o.npz"], "--output is for what is"),
}


WRONG |= {
    "no such contexts": (
        ["export", "mil-reference", "p.mlpackage", "--input", "absent.npy"],
        "absent.npy: cannot be read (No such file or directory)",
    ),
    "no such run": (
        ["compare", "absent"],
        "absent.run: no figures of a finished run (No such file or directory); train it",
    ),
}


@pytest.mark.parametrize(
    ("command", "message"), [*WRONG.values(), *WITHOUT_EFFECT.values()], ids=[*WRONG, *WITHOUT_EFFECT]
)
def test_a_mistake_is_one_line_and_a_status(
    small_artifacts: Get, capsys: Capture, command: list[str], message: str
) -> None:
    artifact = str(small_artifacts("amn"))
    assert main([word.replace("ARTIFACT", artifact) for word in command]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert message in errors[0]


def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(Predictor, "from_request", refuse)


UNFIT: dict[str, tuple[str, dict[str, np.ndarray], str]] = {
    "none": ("absent.npy", {}, "absent.npy: no such file"),
    "kind": ("in.csv", {}, "unknown kind of file '.csv'"),
    "rank": ("in.npy", {"vectors": np.ones(16)}, r"array of shape [16], expected contexts [N, 5, 16]"),
    "width": ("in.npy", {"vectors": np.ones((70, 17))}, r"array of shape [70, 17], expected contexts [N, 5, 16]"),
    "width in an archive": ("in.npz", {"vectors": np.ones((70, 17))}, r"array of shape [70, 17], expected"),
    "integers in an archive": ("in.npz", {"vectors": np.ones((70, 16), int)}, "vectors has dtype int64, expected"),
    "objects in an archive": ("in.npz", {"vectors": np.array([1, "a"], object)}, "vectors is an object array"),
    "names in an archive": ("in.npz", {"data": np.ones((70, 16))}, "holds data, expected vectors and doc_ids"),
    "width in a table": ("in.parquet", {"vectors": np.ones((70, 17))}, r"array of shape [70, 17], expected"),
    "no rows in a table": ("in.parquet", {"vectors": np.ones((0, 17))}, r"array of shape [0, 17], expected"),
    "names in a table": ("in.parquet", {"data": np.ones(70)}, "columns data; expected lists named vectors"),
}


@pytest.mark.parametrize(("name", "arrays", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_an_input_that_does_not_fit_is_refused_before_the_model_is_loaded(
    small_artifacts: Get,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arrays: dict[str, np.ndarray],
    message: str,
) -> None:
    path = tmp_path / name
    for key, array in arrays.items():
        if path.suffix == ".npy":
            np.save(path, array)
        elif path.suffix == ".npz":
            np.savez_compressed(path, **{key: array})
        else:
            kind = pa.list_(pa.float64(), array.shape[1]) if array.ndim == 2 else pa.float64()
            pq.write_table(pa.table({key: pa.array(array.tolist(), kind)}), path)
    _no_model(monkeypatch)
    assert main(["predict", str(small_artifacts("amn")), str(path), str(tmp_path / "out.npy")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.npy.lock").exists()


def test_an_output_that_is_there_is_refused_before_the_model_is_loaded(
    small_artifacts: Get, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "in.npy", some_contexts(1))
    (tmp_path / "out.npy").write_text("")
    _no_model(monkeypatch)
    assert main(["predict", str(small_artifacts("amn")), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]) == 1
    assert "out.npy exists; choose another name, or give --overwrite" in capsys.readouterr().err


QUESTIONS = {
    "document": (["--document", "absent.txt"], "absent.txt: cannot be read"),
    "vectors": (["--vectors", "absent.npy"], "absent.npy: no such file"),
    "number": (["--vectors", "v.npy", "-k", "0"], "k is 0"),
    "encoder": (["--document", __file__], "does not say which encoder made it"),
}


@pytest.mark.parametrize(("arguments", "message"), QUESTIONS.values(), ids=QUESTIONS.keys())
def test_a_question_that_does_not_fit_is_refused_before_the_model_is_loaded(
    small_artifacts: Get,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    encoder = ["--encoder", "e"] if "absent.txt" in arguments else []
    np.save(tmp_path / "c.npy", some_contexts(3)[:, 0])
    Index.build(tmp_path / "c.npy")
    _no_model(monkeypatch)
    command = ["next", str(small_artifacts("amn")), "--index", str(tmp_path / "c.npy"), *encoder, *arguments]
    assert main(command) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "train with all", "import-checkpoint"])
def test_an_artifact_is_replaced_only_if_that_is_asked_for(
    small_artifacts: Get, tmp_path: Path, capsys: Capture, command: str
) -> None:
    shutil.copytree(small_artifacts("amn"), tmp_path / "amn")
    checkpoint(tmp_path / "best.pt", "lstm")
    small = ["--data", "synthetic", "--windows", "300", "--dim", "16", "--epochs", "1"]
    run = {
        "train": lambda *more: main(["train", "--model", "amn", "--out", str(tmp_path / "amn"), *small, *more]),
        "train with all": lambda *more: console.run(
            lambda: all_models(["--models", "gru", "amn", "--out", str(tmp_path), *small, *more])
        ),
        "import-checkpoint": lambda *more: main(
            ["import-checkpoint", str(tmp_path / "best.pt"), "--out", str(tmp_path / "amn"), *more]
        ),
    }[command]
    before = Artifact.load(tmp_path / "amn").manifest
    assert run() == 1
    captured = capsys.readouterr()
    assert "amn: holds an artifact; choose another --out, or give --overwrite" in captured.err
    assert not captured.out  # before any work
    assert Artifact.load(tmp_path / "amn").manifest == before
    assert run("--overwrite") == 0
    after = Artifact.load(tmp_path / "amn").manifest
    assert after.model != before.model
    assert not after.compiled
    if command == "train":
        assert run() == 1
        assert run("--resume", "--epochs", "2") == 0


@pytest.mark.parametrize("command", ["train", "import-checkpoint"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_artifact_is_never_replaced(tmp_path: Path, capsys: Capture, command: str, kind: str) -> None:
    place = tmp_path / "amn"
    checkpoint(tmp_path / "best.pt", "lstm")
    if kind == "folder":
        place.mkdir()
    (place / "letter" if kind == "folder" else place).write_text("Dear")
    given = ["--model", "amn", "--data", "synthetic"] if command == "train" else [str(tmp_path / "best.pt")]
    assert main([command, *given, "--out", str(place), "--overwrite"]) == 1
    assert "amn: exists and is not an artifact; choose another output folder" in capsys.readouterr().err
    assert place.is_file() or (place / "letter").read_text() == "Dear"


@pytest.mark.parametrize("command", [[], ["frob"], ["info"], ["info", "amn", "--frob"], ["train"]], ids=str)
def test_a_command_line_that_is_not_understood_ends_with_another_status(command: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(command)
    assert exit_.value.code == 2


@pytest.mark.parametrize("command", [[], ["info"], ["tune"], ["predict"], ["doctor"]], ids=str)
def test_help_teaches(command: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    assert exit_.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 4
