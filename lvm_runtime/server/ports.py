"""The ports of the server: bound before the models are loaded, opened once they are.

A port that is bound and not opened refuses connections. So nobody connects to a server that then ends because of a
model, and a port on which another server listens is an error before the models are loaded.
"""

from __future__ import annotations

import errno
import socket

from lvm_runtime.errors import LvmError

_BACKLOG = 2048


def hold(host: str, port: int, protocol: str, *, shared: bool = False) -> socket.socket:
    """Return a socket that is bound to a port (0: any free one) and takes no connection; LvmError if none can be.

    Other processes can bind a `shared` port as well; it is refused while another server listens on it. `protocol`, HTTP
    or gRPC, is for the message.
    """
    try:
        if shared:  # which would succeed where a stranger listens who shares the port as well
            _bound(host, port).close()
        return _bound(host, port, shared=shared)
    except (OSError, UnicodeError) as error:
        raise unusable(host, port, protocol, error) from error


def open_port(holder: socket.socket, host: str) -> None:
    """Let a socket of `hold` take HTTP connections; LvmError where another process opened the port meanwhile."""
    try:
        holder.listen(_BACKLOG)
    except OSError as error:
        raise unusable(host, holder.getsockname()[1], "HTTP", error) from error


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    holder = socket.socket(_family(host))
    try:
        if holder.family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` is each address, as gRPC has it
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after connections that have just ended
        if shared:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
    except BaseException:
        holder.close()
        raise
    return holder


def unusable(host: str, port: int, protocol: str, error: Exception) -> LvmError:
    """Return the error for an address that cannot be bound, which says whether the host or the port is at fault."""
    code = getattr(error, "errno", None)
    try:
        socket.getaddrinfo(host or None, port, _family(host))
    except (OSError, UnicodeError) as unknown:
        error, code = unknown, errno.EADDRNOTAVAIL
    reason = getattr(error, "strerror", None) or error
    if code in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return LvmError(f"host {host!r} cannot be listened on ({reason}); expected an address of this machine")
    return LvmError(
        f"port {port} of {host} cannot be used for {protocol} ({reason}); choose another: --{protocol.lower()}-port"
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
