"""What clients that people use get from the server is what `predict` gives, to the bit."""

from __future__ import annotations

import itertools
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from tests.artifacts import some_contexts
from tests.lvm_runtime.server.serving import Running

SIDES = ("http", "grpc")


def client(server: Running, side: str) -> tuple[Any, Any]:
    """Return tritonclient's module for a side of the server, and a client."""
    module = import_module(f"tritonclient.{side}")
    return module, module.InferenceServerClient(getattr(server, side))


def infer(
    module: Any,
    client: Any,
    contexts: Any,
    *,
    outputs: Any = ("prediction",),
    sent: dict[str, bool] | None = None,
    got: dict[str, bool] | None = None,
    **options: Any,
) -> Any:
    """Ask for the outputs of contexts; `sent` and `got` say how the tensors travel."""
    names = {"float16": "FP16", "float32": "FP32", "float64": "FP64"}
    tensor = module.InferInput("context", contexts.shape, names[contexts.dtype.name])
    tensor.set_data_from_numpy(contexts, **(sent or {}))
    wanted = [module.InferRequestedOutput(name, **(got or {})) for name in outputs]
    answer = client.infer(options.pop("model", "amn"), [tensor], outputs=wanted, **options)
    return [answer.as_numpy(name) for name in outputs]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("side", SIDES)
def test_the_answer_is_that_of_predict(server: Running, predictor: Any, side: str, dtype: Any) -> None:
    contexts = some_contexts(7).astype(dtype)
    expected = predictor.predict(contexts, return_attention=True)
    ways = itertools.product((True, False), (True, False)) if side == "http" else [(None, None)]
    module, ask = client(server, side)
    for sent, got in ways:
        if sent is False and dtype == np.float16:
            continue  # this client does not write them
        how: Any = {} if sent is None else {"sent": {"binary_data": sent}, "got": {"binary_data": got}}
        found = infer(module, ask, contexts, outputs=("prediction", "attention"), **how)
        for array, known in zip(found, expected, strict=True):
            np.testing.assert_array_equal(array, known)
        (alone,) = infer(module, ask, contexts, **how)
        np.testing.assert_array_equal(alone, predictor.predict(contexts))
    ask.close()


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_bodies_travel_packed(server: Running, predictor: Any, packed: str) -> None:
    module, ask = client(server, "http")
    options = {"request_compression_algorithm": packed, "response_compression_algorithm": packed}
    contexts = some_contexts(20)
    (found,) = infer(module, ask, contexts, **options)
    np.testing.assert_array_equal(found, predictor.predict(contexts))
    ask.close()


@pytest.mark.parametrize("side", SIDES)
def test_what_there_is(server: Running, side: str) -> None:
    _, ask = client(server, side)
    assert ask.is_server_live()
    assert ask.is_server_ready()
    assert ask.is_model_ready("recurrent", "2")
    options: Any = {"as_json": True} if side == "grpc" else {}
    metadata = ask.get_model_metadata("recurrent", **options)
    assert metadata["versions"] == ["1", "2"]
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["prediction"]
    assert list(map(int, metadata["inputs"][0]["shape"])) == [-1, 5, 16]
    told = ask.get_server_metadata(**options)
    assert told["name"] == "lvm_runtime"
    calls = {"statistics": ask.get_inference_statistics, "model_repository": ask.get_model_repository_index}
    for extension in set(told["extensions"]) - {"binary_tensor_data"}:
        calls[extension]()
    ask.close()


def test_statistics_and_metrics_count(server: Running) -> None:
    module, ask = client(server, "http")

    def counts() -> tuple[int, int]:
        (model,) = ask.get_inference_statistics("recurrent", "1")["model_stats"]
        return model["inference_count"], model["inference_stats"]["fail"]["count"]

    contexts, fails = counts()
    infer(module, ask, some_contexts(6), model="recurrent", model_version="1")
    with pytest.raises(Exception, match="expected prediction"):
        infer(module, ask, some_contexts(1), model="recurrent", model_version="1", outputs=["attention"])
    assert counts() == (contexts + 6, fails + 1)
    together = json.loads(curl(server, "/v2/models/stats")[1])["model_stats"]
    assert {model["name"] for model in together} == {"amn", "recurrent"}
    text = curl(server, "/metrics")[1].decode()
    assert 'lvm_contexts_total{model="recurrent",version="1"} 6.0' in text
    assert 'lvm_requests_total{model="recurrent",protocol="http",status="400",version="1"} 1.0' in text
    assert 'lvm_queue_contexts{model="recurrent",version="1"} 0.0' in text
    assert 'lvm_drift{model="amn",version="1"}' in text
    ask.close()


@pytest.mark.parametrize("side", SIDES)
def test_sixty_four_clients_at_once(server: Running, predictor: Any, side: str) -> None:
    contexts = some_contexts(64 * 8).reshape(64, 8, 1, 5, 16)
    module, ask = client(server, side)
    expected = np.stack([[predictor.predict(one)[0] for one in mine] for mine in contexts])
    ask.close()

    def work(mine: Any) -> Any:
        own = module.InferenceServerClient(getattr(server, side))
        try:
            return [infer(module, own, one)[0][0] for one in mine]
        finally:
            own.close()

    with ThreadPoolExecutor(64) as pool:
        np.testing.assert_array_equal(np.stack(list(pool.map(work, contexts))), expected)


def curl(server: Running, path: str, *arguments: str, body: bytes = b"") -> tuple[int, bytes]:
    """Return the status and the body of what curl is answered."""
    done = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code}", *arguments, f"http://{server.http}{path}"],
        input=body,
        capture_output=True,
        check=True,
    )
    answer, _, status = done.stdout.rpartition(b"\n")
    return int(status), answer


def test_curl(server: Running, predictor: Any) -> None:
    contexts = some_contexts(2)
    tensor = {"name": "context", "datatype": "FP32", "shape": [2, 5, 16], "data": contexts.tolist()}
    body = json.dumps({"id": "7", "inputs": [tensor]}).encode()
    status, answer = curl(server, "/v2/models/amn/infer", "--compressed", "--data-binary", "@-", body=body)
    found = json.loads(answer)
    assert (status, found["id"], found["outputs"][0]["shape"]) == (200, "7", [2, 16])
    data = np.array(found["outputs"][0]["data"], np.float32).reshape(2, 16)
    np.testing.assert_array_equal(data, predictor.predict(contexts))


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
def test_a_request_that_offers_another_protocol_keeps_its_body(server: Running, predictor: Any, offer: str) -> None:
    """Java's client offers HTTP/2 in the first request of a connection, and so does `curl --http2`."""
    contexts = some_contexts(1)
    tensor = {"name": "context", "datatype": "FP32", "shape": [1, 5, 16], "data": contexts.tolist()}
    body = json.dumps({"inputs": [tensor], "parameters": {"upgrade": "\n\nupgrade: no header"}}).encode()
    head = ["-H", f"Upgrade: {offer}", "-H", "Connection: Upgrade, HTTP2-Settings", "-H", "HTTP2-Settings: AAMAAABk"]
    status, answer = curl(server, "/v2/models/amn/infer", *head, "--data-binary", "@-", body=body)
    assert status == 200, answer
    data = np.array(json.loads(answer)["outputs"][0]["data"], np.float32).reshape(1, 16)
    np.testing.assert_array_equal(data, predictor.predict(contexts))
