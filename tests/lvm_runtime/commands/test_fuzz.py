"""Random command lines: a status and at most one line of error, never a traceback."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.commands.main import COMMANDS, main
from lvm_runtime.commands.train_and_export import TOOLS
from lvm_runtime.corpus import corpus as corpora
from lvm_runtime.retrieval import Index
from tests.artifacts import make_artifact, some_contexts
from tests.train.test_import_checkpoint import checkpoint

FILES = (
    *(
        "a",
        "lstm.run",
        "in.npy",
        "bad.npy",
        "corpus.npz",
        "contexts.npz",
        "best.pt",
        "text.txt",
        "empty",
        "none.npy",
        ".",
    ),
    *(
        "out.npy",
        "out.npz",
        "out.parquet",
        "no/such/out.npz",
        "in.npy/x",
        "a/manifest.json",
        "nul\0.npy",
        "x" * 300,
        "",
    ),
    *(
        "/dev/null",
        "/proc/self/mem",
        "/proc/new/out.npz",
        "bundled",
        "synthetic",
        "ünï\n.npz",
        "\x1b[31m.npy",
        "\udcff.npy",
    ),
)
NUMBERS = ("0", "1", "2", "3", "-1", "0.5", "1e-3", "nan", "inf", "-inf", "1e400", "9" * 20, "x", "", "--", "=")
FLAGS = {"--compare", "--json", "--skip-bad", "--restart", "--overwrite", "--clear", "--normalize", "--resume"}
VALUES: dict[str, tuple[str, ...]] = {
    "--out": FILES,
    "--data": FILES,
    "--index": FILES,
    "--vectors": FILES,
    "--document": FILES,
    "--kind": ("auto", "exact", "ann", "x"),
    "--model": (*ARCHITECTURES, "a", "a", "none"),
    "--backend": ("auto", "onnx", "openvino", "eager", "torchscript", "coreml", "x"),
    "--device": ("auto", "cpu", "cuda", "mps", "ane", "x"),
    "--precision": ("fp32", "int8", "bf16", "fp16", "x"),
    "--set": ("hidden_dim=8", "hidden_dim=-1", "dropout=2", "nosuch=1", "hidden_dim=1e9", "num_layers=0", "=", "x"),
    "--split": ("last", "random", "x"),
    "--recipe": ("reference", "tuned"),
    "--start": ("default", "baseline"),
    "--loss": ("mse", "infonce"),
    "--schedule": ("plateau", "cosine"),
    "--format": ("onnx", "torchscript", "x"),
    "--shapes": ("static", "enumerated", "x"),
}
OPTIONS = {
    "predict": "--skip-bad --restart --overwrite --backend --device --precision --max-drift --threads --typical-batch",
    "tune": "--backend --device --precision --max-drift --threads --typical-batch",
    "explain": "--backend --device --precision --max-drift --threads --typical-batch",
    "info": "",
    "doctor": "",
    "serve": "-h",
    "cache": "--clear",
    "placement": "",
    "train": "--model --out --data --validation --test --split --context-length --normalize --recipe --set --start "
    "--loss --batch-size --learning-rate --grad-clip --schedule --temperature --input-noise --ema --device --precision "
    "--seed --resume --overwrite --checkpoint-every --weight-decay",
    "compare": "--out",
    "diagnose": "--context-length",
    "embed": "--out --tokens --overlap --device --restart",
    "index": "--out --kind",
    "next": "--index --vectors --document -k --compare --json --backend --max-drift",
    "import-checkpoint": "--out --overwrite --data --validation --test --split",
    "export": "--model --data --format",
    "export torchscript": "--model --data",
    "export onnx": "--model --data --precision",
    "export native": "--model --data",
    "export mlx": "--model --data",
    "export triton": "--model --out --name --max-batch --instances",
    "export coreml": "--model --data --precision --shapes --batch-sizes",
    "export coreai": "--model --data --precision --shapes --batch-sizes --compress",
    "export ane-lint": "",
    "export mil-reference": "",
    "export mac-report": "--model",
}


PLACES = {"predict": 3, "tune": 1, "explain": 1, "info": 1, "placement": 1, "compare": 1, "embed": 1}
PLACES |= {"index": 1, "next": 1, "import-checkpoint": 1, "export ane-lint": 1, "export mil-reference": 1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with one of each kind of file; `bundled` means a small corpus there."""
    vectors = np.random.default_rng(0).standard_normal((120, 16)).astype(np.float32)
    np.savez(tmp_path / "corpus.npz", vectors=vectors, doc_ids=np.repeat(np.arange(12), 10))
    np.savez(tmp_path / "contexts.npz", contexts=vectors.reshape(24, 5, 16), targets=vectors[:24])
    np.save(tmp_path / "in.npy", some_contexts(20))
    Index.build(tmp_path / "corpus.npz")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "text.txt").write_text("A text of one line.")
    (tmp_path / "empty").mkdir()
    checkpoint(tmp_path / "best.pt", "lstm")
    make_artifact(tmp_path / "a", "lstm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpora, "BUNDLED", tmp_path / "corpus.npz")
    return tmp_path


def _random_line(generator: random.Random) -> list[str]:
    """Return a command, most of its arguments likely ones; now and then anything at all."""
    if generator.random() < 0.1:
        everything = (
            *COMMANDS,
            *TOOLS,
            *FILES,
            *NUMBERS,
            *FLAGS,
            *VALUES,
            "--help",
            "-h",
            "--version",
            "-",
            "--no-such",
        )
        return generator.choices(everything, k=generator.randrange(5))
    name = generator.choice(list(OPTIONS))
    line = name.split()
    if name == "train":  # what is left open would take minutes
        line += ["--epochs", "1", "--set", "hidden_dim=8", "--data", "corpus.npz"]
    if name.partition(" ")[0] in ("train", "export") and generator.random() < 0.9:
        line += ["--model", generator.choice(VALUES["--model"])]
    if name == "embed":  # without an encoder it would look for one in the network
        line += ["--encoder", "empty"]
    if name == "serve":  # else it would, until somebody stops it
        line.append("--help")
    if name == "next" and generator.random() < 0.9:
        line += ["--index", "corpus.npz", "--vectors", generator.choice(FILES)]
    if name in ("import-checkpoint", "embed", "compare") and generator.random() < 0.9:
        line += ["--out", generator.choice(FILES)]
    line += generator.choices((*FILES, "a", "a", "in.npy", "best.pt"), k=PLACES.get(name, 0))
    for option in generator.choices(OPTIONS[name].split() or ["-h"], k=generator.randrange(4)):
        line.append(option)
        if option not in FLAGS and generator.random() < 0.95:
            line.append(generator.choice(VALUES.get(option, NUMBERS)))
    if generator.random() < 0.1:
        line.append(generator.choice((*FILES, *NUMBERS)))
    return line


def _run(cases: int, seed: int, folder: Path, capfd: pytest.CaptureFixture[str]) -> Counter[int]:
    generator, statuses = random.Random(seed), Counter[int]()
    shutil.copytree(folder, kept := folder.with_name("kept"))
    for case in range(cases):
        line = _random_line(generator)
        try:
            status = main(line)
        except SystemExit as ended:
            status = ended.code
        except BaseException as error:
            raise AssertionError(f"seed {seed}, case {case}: {line} raises {type(error).__name__}: {error}") from error
        said = capfd.readouterr().err
        assert status in {0, 1, 2}, (line, status)
        assert "Traceback" not in said, line
        assert said.count("error: ") <= 1 or status == 0, (line, said)
        statuses[status] += 1
        if case % 50 == 49:
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
    return statuses


def test_the_options_are_those_of_the_commands() -> None:
    assert set(OPTIONS) == set(COMMANDS) | set(TOOLS)


def test_random_command_lines(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert set(_run(40, 1, folder, capfd)) >= {1, 2}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_random_command_lines(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    statuses = _run(2_500, 2, folder, capfd)
    with capfd.disabled():
        print(f"command lines by status: {dict(sorted(statuses.items()))}")
