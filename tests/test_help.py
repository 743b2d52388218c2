"""Every command answers `--help`, and says in one line what is missing, where no extra is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lvm_runtime.commands.main import COMMANDS
from lvm_runtime.commands.train_and_export import TOOLS

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for name in ("train", "export", "lvm_runtime")
    for file in (ROOT / name).rglob("*.py")
    if '__name__ == "__main__"' in file.read_text() and "commands" not in file.relative_to(ROOT).parts
)
HIDE = """
import argparse, runpy, sys
HIDDEN, *LINES = sys.argv[1:]
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN.split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
show = argparse.ArgumentParser.print_help
def checked(self, file=None):
    bare = [a.dest for a in self._actions if not a.help and not isinstance(a, argparse._SubParsersAction)]
    print("without help:", self.prog, *([] if self.description else ["description"]), *bare)
    show(self, file)
argparse.ArgumentParser.print_help = checked
for line in LINES:
    sys.argv = line.split()
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        print(f"{line}: {exit_.code}", file=sys.stderr)
"""
EXTRAS = (
    "torch,onnx,onnxscript,coremltools,pyarrow,matplotlib,safetensors,accelerate,sentence_transformers,openvino,faiss,"
    "docutils,markdown_it,grpc,orjson,uvicorn,mlx,coreai,coreai_torch"
)


def run_hidden(*lines: str) -> subprocess.CompletedProcess[str]:
    """Run command lines, each `MODULE ARGUMENTS`, in a process in which no extra can be imported."""
    return subprocess.run(
        [sys.executable, "-c", HIDE, EXTRAS, *lines],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_help_answers_with_what_was_typed() -> None:
    front = [f"lvm_runtime {name}" for name in (*COMMANDS, *TOOLS)]
    assert {"train", "train.embed", "export", "export.coreml", "lvm_runtime"} <= set(MODULES)
    done = run_hidden(*(f"{line} --help" for line in (*MODULES, *front)))
    for line in (*MODULES, *front):
        assert f"{line} --help: 0" in done.stderr, done.stderr
        assert f"usage: python -m {line} [-h]" in done.stdout
    assert "\nLVM_" not in done.stdout
    assert not re.search(r"\(default [^:\s]", done.stdout), "defaults are said in one way"
    without = re.findall(r"^without help: python -m (.*)$", done.stdout, re.MULTILINE)
    assert without == [*MODULES, *front]  # and nothing after any name: all is explained


def test_every_command_refuses_an_unknown_option_with_its_own_usage() -> None:
    front = [f"lvm_runtime {name}" for name in (*COMMANDS, *TOOLS)]
    done = run_hidden(*(f"{line} --bogus" for line in (*MODULES, *front)))
    for line in (*MODULES, *front):
        assert f"usage: python -m {line} [-h]" in done.stderr
        assert f"python -m {line}: error: unrecognized arguments: --bogus\n{line} --bogus: 2\n" in done.stderr


@pytest.mark.parametrize(
    ("line", "library", "extra"),
    [
        ("train --model amn", "torch", "train"),
        ("lvm_runtime train --model amn", "torch", "train"),
        ("train.all", "torch", "train"),
        ("train.compare amn", "torch", "train"),
        ("train.import_checkpoint a.pt --out b", "torch", "train"),
        ("train.embed README.md --out b.npz --device cpu", "torch", "text"),
        ("lvm_runtime embed README.md --out b.npz", "torch", "text"),
        ("export --model amn", "torch", "export"),
        ("lvm_runtime serve amn", "orjson", "serve"),
        ("export.coreml --model amn", "torch", "export"),
        pytest.param(
            *("export.coreai --model amn", "coreai", "coreai"),
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="coreai-torch needs Python 3.11"),
        ),
        ("export.ane_lint some.mlpackage", "coremltools", "coreml"),
    ],
    ids=lambda value: value.replace(" ", "_"),
)
def test_a_missing_extra_is_one_line_with_the_command(line: str, library: str, extra: str) -> None:
    done = run_hidden(line)
    error, status = done.stderr.splitlines()
    assert status == f"{line}: 1"
    assert error.startswith("error: ")
    assert f"needs {library}; install it with: pip install -e '.[{extra}]' in {ROOT}" in error


def test_no_text_names_a_command_that_is_not_there() -> None:
    """`lvm` is the volume manager's; and a message of the runtime cannot know that it runs in a checkout."""
    for folder, wrong in (
        ("", r"\blvm (info|doctor|tune|predict|explain|cache)\b"),
        ("lvm_runtime", r"python -m \w+\."),
    ):
        for file in (ROOT / folder).glob("[!.]*/**/*.py"):
            assert not re.search(wrong, file.read_text()), file
