"""What a request can fail of, as HTTP and gRPC say it."""

from __future__ import annotations

import logging
from enum import Enum

from lvm_runtime.errors import InvalidInput, LvmError

GONE = 499  # as proxies count a client that did not wait for its answer
_log = logging.getLogger("lvm_runtime.server")


class Failure(Enum):
    """A kind of failure: its HTTP status and the name of its gRPC status."""

    BAD = (400, "INVALID_ARGUMENT")
    TOKEN = (401, "UNAUTHENTICATED")
    UNKNOWN = (404, "NOT_FOUND")
    LATE = (408, "DEADLINE_EXCEEDED")
    LARGE = (413, "RESOURCE_EXHAUSTED")
    ENCODING = (415, "UNIMPLEMENTED")
    BROKEN = (500, "INTERNAL")
    BUSY = (503, "UNAVAILABLE")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[0]

    @property
    def code(self) -> str:
        """The name of the gRPC status."""
        return self.value[1]


class Refused(LvmError):
    """A request that the server does not answer with a prediction, and why."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


def failure_of(error: Exception) -> tuple[Failure, str]:
    """Return the kind of a failure and what the client is told; what is a fault of the server goes to the log."""
    if isinstance(error, Refused):
        return error.failure, str(error)
    if isinstance(error, InvalidInput):
        return Failure.BAD, str(error)
    _log.error("failed", exc_info=error)
    return Failure.BROKEN, str(error) if isinstance(error, LvmError) else "internal error; the server's log has more"
