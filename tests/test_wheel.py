"""The wheel: everything that a checkout can do, under one name in site-packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SOURCES = ("lvm_runtime", "train", "export")


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join(file.parent.relative_to(ROOT).parts) for name in SOURCES for file in (ROOT / name).rglob("__init__.py")
    }
    expected = {name if name.startswith("lvm_runtime") else f"lvm_runtime.{name}" for name in folders}
    assert sorted(setup["packages"]) == sorted(expected)
    assert setup["package-dir"] == {f"lvm_runtime.{name}": name for name in SOURCES[1:]}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the wheel, built without the network, is unpacked like pip does it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(folder / "source")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, *command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the unpacked wheel in front of everything else, away from the checkout."""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_it_holds_every_module_and_nothing_generic(installed: Path) -> None:
    files = {PurePosixPath(file.relative_to(installed).as_posix()) for file in installed.rglob("*") if file.is_file()}
    assert {file.parts[0] for file in files if ".dist-info" not in file.parts[0]} == {"lvm_runtime"}
    for name in SOURCES:
        prefix = PurePosixPath() if name == "lvm_runtime" else PurePosixPath("lvm_runtime")
        modules = {prefix / file.relative_to(ROOT).as_posix() for file in (ROOT / name).rglob("*.py")}
        assert not modules - files
    assert PurePosixPath("lvm_runtime/py.typed") in files
    assert PurePosixPath("lvm_runtime/corpus/docs-minilm-384.npz") in files


def test_it_trains_exports_and_predicts(installed: Path, tmp_path: Path) -> None:
    small = ["--data", "synthetic", "--windows", "300", "--dim", "16", "--epochs", "1", "--set", "hidden_dim=8"]
    for command in (
        ["train", "--model", "amn", "--device", "cpu", *small],
        ["export", "--model", "amn", "--format", "onnx"],
        ["explain", "amn"],
    ):
        done = run(installed, "-m", "lvm_runtime", *command, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "onnx fp32 on cpu" in done.stdout
    script = (
        "import numpy, sys, lvm_runtime, lvm_runtime.train.options, lvm_runtime.export.formats\n"
        "print(lvm_runtime.Predictor('amn').predict(numpy.ones((3, 5, 16))).shape, lvm_runtime.__file__)\n"
        "assert not {'train', 'export', 'torch'} & set(sys.modules)\n"
    )
    done = run(installed, "-c", script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(") ")[0] == "(3, 16"
    assert done.stdout.split(") ")[1].startswith(str(installed))


def test_a_missing_extra_names_the_package(installed: Path, tmp_path: Path) -> None:
    script = "from lvm_runtime.system.extras import *; print(pip_command('torch')); print(build_command())"
    assert run(installed, "-c", script, folder=tmp_path).stdout.splitlines() == [
        "pip install 'lvm_runtime[torch]'",
        "pip install --force-reinstall --no-binary lvm_runtime lvm_runtime",
    ]


def test_a_type_checker_sees_its_types(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(
        "from lvm_runtime import Predictor, InvalidInput\n"
        "reveal_type(Predictor('amn').explain())\n"
        "Predictor('amn', threads='two')\n"
    )
    done = run(installed, "-m", "mypy", "--strict", "--no-incremental", "use.py", folder=tmp_path)
    assert 'Revealed type is "lvm_runtime.selection.explanation.Explanation"' in done.stdout, done.stdout
    assert 'Argument "threads" to "Predictor" has incompatible type "str"' in done.stdout
    assert "Found 1 error" in done.stdout
