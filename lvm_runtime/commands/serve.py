"""`lvm-runtime serve ARTIFACT [ARTIFACT …]`: predictions over HTTP and gRPC."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import tempfile
from importlib import import_module
from pathlib import Path

from lvm_runtime.commands.request_options import add_request_options, request_from
from lvm_runtime.errors import InvalidInput
from lvm_runtime.server.options import ModelSpec, ServerOptions
from lvm_runtime.system.atomic import scratch
from lvm_runtime.system.extras import require

DESCRIPTION = """Serve artifacts over the Open Inference Protocol (KServe v2), REST and gRPC. Requests that arrive
together run together. SIGTERM drains and stops, SIGHUP loads the artifacts again. Logs are JSON lines on stderr."""
_DEFAULTS = ServerOptions()


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "artifacts", metavar="ARTIFACT", nargs="+", help="a folder or architecture's name, or [NAME[:VERSION]=]FOLDER"
    )
    add = parser.add_argument_group("where it listens").add_argument
    add(
        "--host",
        default=_DEFAULTS.host,
        help="address to listen on, 0.0.0.0 or :: for each (default: %(default)s, this machine only)",
    )
    add(
        "--http-port", type=int, default=_DEFAULTS.http_port, metavar="N", help="0: any free one (default: %(default)s)"
    )
    add(
        "--grpc-port", type=int, default=_DEFAULTS.grpc_port, metavar="N", help="0: any free one (default: %(default)s)"
    )
    add("--tls-cert", type=Path, metavar="FILE", help="certificate chain in PEM form")
    add("--tls-key", type=Path, metavar="FILE", help="its key in PEM form")
    add("--token-file", type=Path, metavar="FILE", help="file with the bearer token that requests must carry")
    add = parser.add_argument_group("how requests run").add_argument
    add("--workers", type=int, default=1, metavar="N", help="server processes (default: 1)")
    add(
        "--max-batch",
        type=int,
        default=_DEFAULTS.max_batch,
        metavar="N",
        help="contexts of a batch (default: %(default)s)",
    )
    add(
        "--max-delay-ms",
        type=float,
        default=_DEFAULTS.max_delay_ms,
        metavar="MS",
        help="longest wait for as many callers as came together before; a caller alone does not wait (default: "
        "%(default)g)",
    )
    add = parser.add_argument_group("limits").add_argument
    for name, what in (
        ("max-request", "contexts of one request"),
        ("max-queue", "contexts that wait for one model in one process; more are told to try again later"),
        ("max-body", "bytes of one request"),
    ):
        default = getattr(_DEFAULTS, name.replace("-", "_"))
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    for name, what in (
        ("timeout", "seconds for an HTTP request to come and, without TLS, for its client to take some of the answer"),
        ("drain", "seconds in which a server that was told to stop still takes requests"),
        ("grace", "seconds that it then waits for those under way"),
    ):
        add(
            f"--{name}",
            type=float,
            default=getattr(_DEFAULTS, name),
            metavar="S",
            help=f"{what} (default: %(default)g)",
        )
    parser.add_argument("--log-requests", action="store_true", help="write a line for each request")
    add_request_options(parser)


def run(options: argparse.Namespace) -> None:
    """Serve until told to stop."""
    if not hasattr(signal, "pthread_sigmask"):
        raise InvalidInput("serve needs the signals of Linux or macOS; on Windows run it in WSL or in a container")
    require("serve", "serving", "orjson", "uvicorn", "httptools", "starlette", "grpc", "google.protobuf")
    chosen = {name: getattr(options, name) for name in ServerOptions.__dataclass_fields__ if hasattr(options, name)}
    checked = ServerOptions(**chosen, token=_token(options.token_file))
    specs = [ModelSpec.parse(text) for text in options.artifacts]
    keys = [(spec.name, spec.version) for spec in specs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InvalidInput(f"model {twice[0][0]} version {twice[0][1]} is given twice; name one: NAME:VERSION=FOLDER")
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        os.environ.pop(name, None)  # the folder of another program
    with contextlib.ExitStack() as stack:
        if checked.workers > 1:
            folder = stack.enter_context(scratch(Path(tempfile.gettempdir())))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # is read when prometheus_client is imported, below
        require("serve", "serving", "prometheus_client")
        import_module("lvm_runtime.server.logs").set_up()
        import_module("lvm_runtime.server.workers").serve(specs, request_from(options), checked)


def _token(path: Path | None) -> str | None:
    return None if path is None else path.read_text("utf-8", errors="replace").strip()
