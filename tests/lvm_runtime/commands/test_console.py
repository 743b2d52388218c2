"""What the command line makes of errors."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from lvm_runtime.commands.console import run, show
from lvm_runtime.errors import (
    ArtifactError,
    BackendUnavailable,
    InvalidInput,
    LvmError,
    VerificationFailed,
    WriteFailed,
)


def _raise(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("a\n  b"),
        ArtifactError("a b"),
        BackendUnavailable("a b"),
        VerificationFailed("a b"),
        WriteFailed("a b"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_error_of_ours_is_one_line(error: LvmError, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: _raise(error)) == 1
    assert capsys.readouterr() == ("", "error: a b\n")


def test_a_list_in_an_error_has_a_line_for_each_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: _raise(LvmError("a\n b:\n  - c\n  d\n  - e\x1b"))) == 1
    assert capsys.readouterr().err == "error: a b:\n  - c d\n  - e\\x1b\n"


def test_control_characters_from_files_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: _raise(InvalidInput("a\x1b[2Jb\x07 é 中 \u202e"))) == 1
    show("a\x1b[2J\n\tb")
    assert capsys.readouterr() == ("a\\x1b[2J\n\tb\n", "error: a\\x1b[2Jb\\x07 é 中 \\u202e\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "a\x1bb"), "error: a\\x1bb: No such file or directory\n"),
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
        (OSError("odd"), "error: odd\n"),
        (MemoryError("Unable to allocate 3 TiB"), "error: not enough memory (Unable to allocate 3 TiB)\n"),
        (MemoryError(), "error: not enough memory\n"),
    ],
    ids=["file", "disk", "bare", "memory", "bare memory"],
)
def test_an_error_of_the_system_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: _raise(error)) == 1
    assert capsys.readouterr().err == line


def test_ctrl_c_is_a_word_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: _raise(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_work_that_its_reader_cut_short_does_not_count_as_done() -> None:
    """`train | head -1` ends before there is an artifact."""
    script = "from lvm_runtime.commands.console import run, show; raise SystemExit(run(lambda: show('epoch 1')))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(("encoding", "line"), [("ascii", b"\\xe9 \\u2212\n"), ("cp1252", b"\xe9 \\u2212\n")])
def test_what_an_encoding_does_not_have_is_escaped(encoding: str, line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding, newline="\n"))
    assert run(lambda: show("é −")) == 0
    assert printed.getvalue() == line


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


@pytest.mark.parametrize(("value", "status"), [(None, 0), (0, 0), (3, 3)], ids=str)
def test_the_status_is_what_main_returns(value: int | None, status: int) -> None:
    assert run(lambda: value) == status


def test_errors_are_also_what_callers_would_catch() -> None:
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(BackendUnavailable, ImportError)
    assert issubclass(WriteFailed, OSError)
