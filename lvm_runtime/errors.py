"""Errors of this project. Each message says what came, what was expected and what to do."""

from __future__ import annotations

ITEM = "\n  - "
"""What begins an item of a list in a message; everything else of a message is one line."""


class LvmError(Exception):
    """Base of every error this project raises on purpose; the command line prints it without a traceback.

    >>> try:
    ...     Predictor("artifacts/none")
    ... except LvmError as error:
    ...     print(type(error).__name__)
    ArtifactError
    """


class InvalidInput(LvmError, ValueError):
    """A value from the caller cannot be used: wrong shape, type, range, or a NaN.

    >>> Predictor("artifacts/amn").predict(np.full((5, 384), np.nan))
    Traceback (most recent call last):
    lvm_runtime.errors.InvalidInput: ...
    """


class ArtifactError(LvmError):
    """An artifact on disk is missing, damaged, incomplete or from a newer schema.

    >>> Artifact.load("artifacts/none")
    Traceback (most recent call last):
    lvm_runtime.errors.ArtifactError: ...
    """


class BackendUnavailable(LvmError, ImportError):
    """A backend or device cannot run here; the message names the pip command or the system it needs.

    >>> Predictor("artifacts/amn", backend="onnx", device="ane")
    Traceback (most recent call last):
    lvm_runtime.errors.BackendUnavailable: ...
    """


class VerificationFailed(LvmError):
    """A model's answers are further from the known answers than its precision allows.

    Here an artifact holds other answers than its weights give:

    >>> from dataclasses import replace
    >>> amn = Artifact.load("artifacts/amn")
    >>> probes = amn.read_fingerprint()
    >>> weights = (amn.path / "model.safetensors").read_bytes()
    >>> other = replace(probes, predictions=-probes.predictions)
    >>> _ = Artifact.create("artifacts/other", amn.config, weights, other, {})
    >>> Predictor("artifacts/other", backend="eager")
    Traceback (most recent call last):
    lvm_runtime.errors.VerificationFailed: ...
    """


class WriteFailed(LvmError, OSError):
    """An output cannot be written: a read-only or full disk, a missing permission, a name the system refuses.

    >>> WriteFailed.__bases__
    (<class 'lvm_runtime.errors.LvmError'>, <class 'OSError'>)
    """


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return what another library's error says, in one line of `most` characters, or its type if it says nothing.

    >>> one_line(RuntimeError("cannot load\\n  the file")), one_line(KeyError())
    ('cannot load the file', 'KeyError')
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a number with what it counts: `one`, or `many`, which is `one` with an s unless given.

    >>> counted(1, "row"), counted(1200, "row"), counted(0, "row is", "rows are")
    ('1 row', '1,200 rows', '0 rows are')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
