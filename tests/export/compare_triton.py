"""The speed of our server beside Triton's, in turns in one run.

`LVM_TRITON=VENV python tests/export/compare_triton.py ARTIFACT BACKEND`. Both run the artifact through BACKEND: each
would choose by its own measurements, and the answers of two backends differ in their last bits.

Each request carries one context. The client is asyncio on plain sockets and grpc.aio, which costs little and both the
same. Prints requests per second and the median and 99th percentile of the latency in ms, each the median of the
rounds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from export.triton.repository import write_repository
from lvm_runtime import Artifact, Predictor
from lvm_runtime.server.messages import message
from tests.export.triton_server import triton
from tests.lvm_runtime.server.serving import serving

ROUNDS = 3
SECONDS = 2.0


async def over_http(address: str, contexts: Any, known: bytes, clients: int) -> list[float]:
    """Ask from so many connections for some seconds, check each answer, and return the latencies."""
    tensor = {"name": "context", "datatype": "FP32", "shape": contexts.shape}
    wanted = {"name": "prediction", "parameters": {"binary_data": True}}
    inputs = [tensor | {"parameters": {"binary_data_size": contexts.nbytes}}]
    head = json.dumps({"inputs": inputs, "outputs": [wanted]}).encode()
    body = head + contexts.tobytes()
    lengths = f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(body)}\r\n\r\n"
    request = f"POST /v2/models/amn/infer HTTP/1.1\r\nHost: {address}\r\n{lengths}".encode() + body

    async def ask(latencies: list[float], end: float) -> None:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        while (began := time.perf_counter()) < end:
            writer.write(request)
            headers = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(headers.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            answer = await reader.readexactly(size)
            latencies.append(time.perf_counter() - began)
            assert answer.endswith(known)
        writer.close()

    return await _gather(ask, clients)


async def over_grpc(address: str, contexts: Any, known: bytes, clients: int) -> list[float]:
    """Do the same over gRPC, with one channel."""
    request = message("ModelInferRequest")(model_name="amn", raw_input_contents=[contexts.tobytes()])
    request.inputs.add(name="context", datatype="FP32", shape=contexts.shape)
    request.outputs.add(name="prediction")
    sent, parse = request.SerializeToString(), message("ModelInferResponse").FromString
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def ask(latencies: list[float], end: float) -> None:
            while (began := time.perf_counter()) < end:
                answer = await call(sent)
                latencies.append(time.perf_counter() - began)
                assert parse(answer).raw_output_contents[0] == known

        return await _gather(ask, clients)


async def _gather(ask: Any, clients: int) -> list[float]:
    latencies: list[float] = []
    await asyncio.gather(*(ask(latencies, time.perf_counter() + SECONDS) for _ in range(clients)))
    return latencies


def main() -> None:
    """Run."""
    artifact, backend = Artifact.load(Path(sys.argv[1])), sys.argv[2]
    config = artifact.config
    contexts = np.random.default_rng(0).standard_normal((1, config.context_length, config.dim)).astype(np.float32)
    with Predictor(artifact.path, backend=backend, threads=1) as predictor:
        known = predictor.predict(contexts).tobytes()
    with tempfile.TemporaryDirectory() as folder:
        options = {"backend": backend}
        (python, *_) = write_repository(artifact, Path(folder) / "all", name="amn", options=options)
        repository = Path(folder) / "python"
        repository.mkdir()
        python.rename(repository / "amn")
        with (
            serving(f"amn={artifact.path}", "--backend", backend, "--threads", "1") as ours,
            triton(repository) as theirs,
        ):
            for side, way in (("http", over_http), ("grpc", over_grpc)):
                for clients in (1, 32):
                    found: dict[str, list[Any]] = {"ours": [], "triton": []}
                    for _ in range(ROUNDS):
                        for name, server in (("ours", ours), ("triton", theirs)):
                            latencies = asyncio.run(way(getattr(server, side), contexts, known, clients))
                            quantiles = np.percentile(latencies, [50, 99]) * 1e3
                            found[name].append([len(latencies) / SECONDS, *quantiles])
                    for name, rounds in found.items():
                        rate, median, slow = np.median(rounds, axis=0)
                        line = f"{side} {clients:2d} {name:6s} {rate:6.0f}/s  p50 {median:6.2f}  p99 {slow:6.2f} ms"
                        print(f"{line}  load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
