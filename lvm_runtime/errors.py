"""Errors of this project. Each message says what came, what was expected and what to do."""

from __future__ import annotations


class LvmError(Exception):
    """Base of every error this project raises on purpose; the command line prints it as one line."""


class InvalidInput(LvmError, ValueError):
    """A value from the caller cannot be used: wrong shape, type, range, or a NaN."""


class ArtifactError(LvmError):
    """An artifact on disk is missing, damaged, incomplete or from a newer schema."""


class BackendUnavailable(LvmError, ImportError):
    """A backend or device cannot run here; the message names the pip command or the system it needs."""


class VerificationFailed(LvmError):
    """A model's answers are further from the known answers than its precision allows."""


class WriteFailed(LvmError, OSError):
    """An output cannot be written: a read-only or full disk, a missing permission, a name the system refuses."""
