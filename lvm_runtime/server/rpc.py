"""The gRPC side of the protocol, on grpc.aio."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from numpy.typing import NDArray

import lvm_runtime
from lvm_runtime.errors import InvalidInput
from lvm_runtime.server.failures import GONE, Failure, Refused, failure_of
from lvm_runtime.server.messages import SERVICE, message
from lvm_runtime.server.protocol import BINARY_DATA, PLATFORM, PREDICTION, check_parameters, contexts_of, tensors_of
from lvm_runtime.server.state import State
from lvm_runtime.server.tensors import Layout, from_numbers

_log = logging.getLogger("lvm_runtime.server")
_CONTENTS = {"FP32": "fp32_contents", "FP64": "fp64_contents"}
_Answer = message("ModelInferResponse")

Method = Callable[[State, Any], Awaitable[Any]]


def build_server(state: State) -> Any:
    """Return a grpc.aio server that has no port yet."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", state.options.max_body),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(state.options.workers > 1)),
        ]
    )
    handlers = {method.name: _handler(state, method) for method in SERVICE.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
    return server


def _handler(state: State, method: Any) -> Any:
    answer = _METHODS[method.name]
    free = method.name in ("ServerLive", "ServerReady")

    async def call(request: Any, context: Any) -> Any:
        began, code = time.perf_counter(), "OK"
        try:
            if not free:
                _require_token(state, context)
            return await answer(state, request)
        except Exception as error:
            failure, text = failure_of(error)
            code = failure.code
            context.set_code(grpc.StatusCode[code])
            context.set_details(text)
            return message(method.output_type.name)()
        finally:
            if state.options.log_requests:
                seconds = round(time.perf_counter() - began, 6)
                _log.info("request", extra={"method": method.name, "status": code, "seconds": seconds})

    return grpc.unary_unary_rpc_method_handler(
        call,
        request_deserializer=message(method.input_type.name).FromString,
        response_serializer=message(method.output_type.name).SerializeToString,
    )


def _require_token(state: State, context: Any) -> None:
    token = state.options.token
    if token is None:
        return
    given = next((value for key, value in context.invocation_metadata() if key == "authorization"), "")
    if not hmac.compare_digest(str(given).encode(), f"Bearer {token}".encode()):
        raise Refused(Failure.TOKEN, "expected the metadata authorization: Bearer TOKEN with this server's token")


async def infer(state: State, request: Any) -> Any:
    """Answer an inference request; what comes back is always raw bytes."""
    model = state.models.get(request.model_name, request.model_version)
    status = GONE
    try:
        for holder in (request, *request.inputs, *request.outputs):
            _check_parameters(holder.parameters)
        names = [output.name for output in request.outputs] or [PREDICTION]
        found = await model.infer(_contexts(request), names, staggered=True)
        answer = _Answer(model_name=model.spec.name, model_version=model.spec.version, id=request.id)
        for name in names:
            answer.outputs.add(name=name, datatype="FP32", shape=found[name].shape)
            answer.raw_output_contents.append(found[name].tobytes())
        status = 200
        return answer
    except Exception as error:
        failure, text = failure_of(error)
        status = failure.status
        raise Refused(failure, text) from error
    finally:
        model.count("grpc", status)


def _check_parameters(parameters: Any) -> None:
    def value(name: str) -> Any:
        found = parameters.get(name)
        kind = found and found.WhichOneof("parameter_choice")
        return kind and getattr(found, kind)

    if parameters:
        check_parameters(value)


def _contexts(request: Any) -> NDArray[Any]:
    contexts_of([tensor.name for tensor in request.inputs])
    tensor = request.inputs[0]
    name, datatype, shape = tensor.name, tensor.datatype, list(tensor.shape)
    if request.raw_input_contents:
        if len(request.raw_input_contents) != 1 or tensor.HasField("contents"):
            raise InvalidInput(f"{name}: expected its numbers once, in raw_input_contents or in contents")
        data = request.raw_input_contents[0]
        return Layout.of(name, datatype, shape, len(data)).read(data)
    if datatype not in _CONTENTS:
        raise InvalidInput(f"{name}: datatype is {datatype!r:.99}, expected FP32 or FP64 (raw bytes: FP16 too)")
    return from_numbers(name, datatype, shape, list(getattr(tensor.contents, _CONTENTS[datatype])))


async def server_live(state: State, request: Any) -> Any:
    """Say that the server answers."""
    return message("ServerLiveResponse")(live=True)


async def server_ready(state: State, request: Any) -> Any:
    """Say whether every model is loaded and the server is not about to stop."""
    return message("ServerReadyResponse")(ready=state.ready)


async def model_ready(state: State, request: Any) -> Any:
    """Say whether a model is loaded."""
    state.models.get(request.name, request.version)
    return message("ModelReadyResponse")(ready=state.ready)


async def server_metadata(state: State, request: Any) -> Any:
    """Say what server this is."""
    extensions = [BINARY_DATA]  # the published definition has no calls for the others
    return message("ServerMetadataResponse")(name=PLATFORM, version=lvm_runtime.__version__, extensions=extensions)


async def model_metadata(state: State, request: Any) -> Any:
    """Say what a model takes and gives."""
    model = state.models.get(request.name, request.version)
    inputs, outputs = tensors_of(model.config)
    return message("ModelMetadataResponse")(
        name=model.spec.name,
        versions=state.models.versions(model.spec.name),
        platform=PLATFORM,
        inputs=inputs,
        outputs=outputs,
    )


_METHODS: dict[str, Method] = {
    "ServerLive": server_live,
    "ServerReady": server_ready,
    "ModelReady": model_ready,
    "ServerMetadata": server_metadata,
    "ModelMetadata": model_metadata,
    "ModelInfer": infer,
}
