"""What the command line makes of errors."""

from __future__ import annotations

import pytest

from lvm_runtime.commands.console import run
from lvm_runtime.errors import ArtifactError, BackendUnavailable, InvalidInput, LvmError, VerificationFailed


def _raise(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    "error",
    [InvalidInput("a\n  b"), ArtifactError("a b"), BackendUnavailable("a b"), VerificationFailed("a b")],
    ids=lambda e: type(e).__name__,
)
def test_an_error_of_ours_is_one_line(error: LvmError, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: _raise(error)) == 1
    assert capsys.readouterr() == ("", "error: a b\n")


def test_ctrl_c_is_a_word_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: _raise(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


@pytest.mark.parametrize(("value", "status"), [(None, 0), (0, 0), (3, 3)], ids=str)
def test_the_status_is_what_main_returns(value: int | None, status: int) -> None:
    assert run(lambda: value) == status


def test_errors_are_also_what_callers_would_catch() -> None:
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(BackendUnavailable, ImportError)
