"""What the server is told on its command line, checked before anything is loaded."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from lvm_runtime.arguments import finite_number, whole_number
from lvm_runtime.artifact.folder import resolve
from lvm_runtime.errors import InvalidInput, one_line

_SPEC = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)(?::(?P<version>[0-9]+))?=)?(?P<path>.+)")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where the server listens and what it takes: contexts of a batch, a request and the queue, bytes, seconds.

    A port of 0 is any free one. `drain` is how long a server that was told to stop goes on taking requests while it
    says that it is not ready; `grace` is how long it then waits for those under way.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    workers: int = 1
    max_batch: int = 64
    max_delay_ms: float = 2.0
    max_request: int = 1024
    max_queue: int = 4096
    max_body: int = 16 << 20
    timeout: float = 30.0
    drain: float = 2.0
    grace: float = 30.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = None
    log_requests: bool = False

    def __post_init__(self) -> None:
        for name in ("http_port", "grpc_port"):
            whole_number(getattr(self, name), name, least=0, most=65535)
        if self.http_port == self.grpc_port != 0:  # Linux would say so once the models are loaded
            raise InvalidInput(f"http_port and grpc_port are both {self.http_port}; expected two ports")
        for name in ("workers", "max_batch", "max_request", "max_queue", "max_body"):
            whole_number(getattr(self, name), name)
        for name in ("max_delay_ms", "timeout", "drain", "grace"):
            finite_number(getattr(self, name), name, example="2")
        if not self.timeout:
            raise InvalidInput("timeout is 0, expected a number above 0, such as 30: no request would come in time")
        if self.max_request > self.max_queue:
            raise InvalidInput(f"max_request is {self.max_request}, expected at most max_queue, {self.max_queue}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidInput("TLS needs both a certificate and its key: give --tls-cert and --tls-key")
        if self.tls_cert is not None and self.tls_key is not None:
            _check_pair(self.tls_cert, self.tls_key)
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InvalidInput("the token is empty or holds what a header cannot; expected printable ASCII")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An artifact to serve, and the name and version that clients ask for it by.

    >>> ModelSpec.parse("amn:2=artifacts/amn-tuned").version
    '2'
    """

    name: str
    version: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Return what `[NAME[:VERSION]=]ARTIFACT` says: by default the folder's name, and version 1."""
        found = _SPEC.fullmatch(text)
        path = resolve(text if found is None else found["path"]).absolute()
        name = path.name if found is None or found["name"] is None else found["name"]
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{text!r}: {name!r} is no name for a model; give one: NAME={text}")
        version = (found and found["version"]) or "1"
        if len(version) > 18 or version != str(int(version)):  # 01 and 1 are one number, and Python reads 4,300 digits
            raise InvalidInput(f"{text!r:.99}: version {version!r:.30}, expected at most 18 digits and no leading zero")
        return cls(name, version, path)


def _check_pair(cert: Path, key: Path) -> None:
    """Raise InvalidInput unless TLS can be had with the two files, and OSError for one that cannot be read."""
    import ssl  # takes 20 ms, and few servers have TLS

    for path in (cert, key):
        path.open("rb").close()  # the error of a file that is missing names it, which that of ssl does not
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        raise InvalidInput(
            f"{cert} and {key}: no certificate and its key ({one_line(error)}); expected both in PEM form, and no "
            "passphrase on the key"
        ) from error
