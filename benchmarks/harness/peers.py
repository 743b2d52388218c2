"""The peers, each as its own documentation says to run it fastest: same weights, same contexts, same run.

All of them run the *training form*. The ONNX files come from `torch.onnx.export(dynamo=True)` without any
of this project's rewriting. `quantize_dynamic` gets the pre-processing that its documentation asks for, without which
it leaves the recurrent weights as they are, and a reduced range where full-range products would saturate. OpenVINO in
int8 gets compressed weights and quantises activations in groups, the largest that divide every row. PyTorch in int8 is
`torch.ao`'s dynamic quantisation, and torchao's, compiled, where that is installed.
TorchScript is traced, frozen and passed through `optimize_for_inference`; `torch.compile` may specialise on the
batch size and compiles for the number of threads that it then runs on; OpenVINO is compiled for the very batch
size, which its documentation recommends and which is up to a sixth faster. docs/experiments holds what else was tried.

B batch, T context length, D vector.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness.contender import (
    ANCHOR,
    Array,
    Contender,
    Runner,
    bf16_in_openvino,
    needs,
    onnxruntime_on,
    torch_on,
)
from benchmarks.harness.workload import Workload
from export.onnx.plain import export_plain
from lvm_runtime.backends.devices import inference
from lvm_runtime.backends.openvino import openvino_core
from lvm_runtime.system.machine import products_saturate


def plain_onnx(workload: Workload) -> Path:
    """Export the training form to ONNX as it is, once per workload, and return the file."""
    path = workload.scratch / "plain.onnx"
    if not path.exists():
        export_plain(workload.model, path)
    return path


def quantised_onnx(workload: Workload) -> Path:
    """Pass the plain export through onnxruntime's own `quantize_dynamic` (int8 weights) and return the file."""
    path = workload.scratch / "quantize-dynamic.onnx"
    if not path.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        folded = workload.scratch / "pre-processed.onnx"
        logging.disable(logging.WARNING)  # it tells of every node that it cannot fold
        try:
            # the symbolic shape inference does not get through these graphs, and folding does without
            quant_pre_process(str(plain_onnx(workload)), str(folded), skip_symbolic_shape=True)
            quantize_dynamic(str(folded), str(path), weight_type=QuantType.QInt8, reduce_range=products_saturate())
        finally:
            logging.disable(logging.NOTSET)
    return path


def _onnxruntime(file: Callable[[Workload], Path], provider: str = "CPUExecutionProvider") -> Any:
    def build(workload: Workload, threads: int | None) -> Runner:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        settings = {"use_tf32": "0"} if provider.startswith("CUDA") else {}
        session = onnxruntime.InferenceSession(str(file(workload)), options, providers=[(provider, settings)])
        if session.get_providers()[0] != provider:
            raise RuntimeError(f"asked for {provider}, and the session runs on {session.get_providers()[0]}")
        names = ["prediction"]
        return lambda contexts: session.run(names, {"context": contexts})[0]

    return build


def _compress_weights(model: Any) -> int:
    """Turn the weights of an OpenVINO model's products into int8, one scale per output; return the largest group.

    A group of activations has one scale. It has to divide the rows of every weight, or that product runs in fp32.
    """
    from openvino import opset13 as ops
    from openvino.utils import replace_node

    group = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        settings, weight = node.get_attributes(), node.input_value(1).get_node().data
        if weight.ndim != 2:
            continue
        weight = weight if settings.get("transpose_b") else weight.T  # [out, in]
        scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-30) / 127
        integers = ops.convert(ops.constant(np.rint(weight / scale).astype(np.int8)), "f32")
        compressed = ops.multiply(integers, ops.constant(scale.astype(np.float32)))
        replace_node(node, ops.matmul(node.input_value(0), compressed, settings.get("transpose_a", False), True))
        group = math.gcd(group, weight.shape[1])
    return group


def _openvino(precision: str) -> Any:
    def build(workload: Workload, threads: int | None) -> Runner:
        core = openvino_core()
        file = str(plain_onnx(workload))
        computed = "f32" if precision == "int8" else precision
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": computed, "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads

        @cache
        def request(batch: int) -> Any:
            model, own = core.read_model(file), settings
            if precision == "int8":
                own = settings | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": _compress_weights(model)}
            model.reshape({0: [batch, *list(model.input(0).partial_shape)[1:]]})
            return core.compile_model(model, "CPU", own).create_infer_request()

        def run(contexts: Array) -> Array:
            answers: Array = request(len(contexts)).infer({0: contexts}, share_inputs=True, share_outputs=True)[0]
            return answers

        return run

    return build


def _torch(prepare: Callable[[Workload, str], Any], device: str = "cpu") -> Any:
    """Return a builder of a runner that hands over from and to host memory, which waits for a GPU to finish.

    On a CPU it runs as in a program of its own: the number of threads is set where another one is found, and stays.
    What our backends do around each call, so that torch's settings are put back, is no part of a peer.
    """

    def build(workload: Workload, threads: int | None) -> Runner:
        with inference(device, threads):
            module = prepare(workload, device)

        def run(contexts: Array) -> Array:
            if threads is not None and torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                result: Array = module(torch.from_numpy(contexts).to(device)).cpu().numpy()
                return result

        def run_in_full_precision(contexts: Array) -> Array:
            with inference(device, threads):
                return run(contexts)

        return run_in_full_precision if device == "cuda" else run  # where recurrent layers run in TF32 unless told

    return build


def _eager(workload: Workload, device: str) -> Any:
    return workload.model if device == "cpu" else copy.deepcopy(workload.model).to(device)


def _quantised(workload: Workload, device: str) -> Any:
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends torchao, which does not know nn.LSTM and nn.GRU
        return quantize_dynamic(copy.deepcopy(workload.model), {nn.Linear, nn.LSTM, nn.GRU}, dtype=torch.qint8)


def _torchao(workload: Workload, device: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        module = copy.deepcopy(workload.model)
        quantize_(module, Int8DynamicActivationInt8WeightConfig())
        return _compile(module, workload, device)


def _traced(workload: Workload, device: str) -> Any:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, which people still serve with
        example = torch.from_numpy(workload.batch(4)).to(device)
        traced = torch.jit.freeze(torch.jit.trace(_eager(workload, device), example))
        return torch.jit.optimize_for_inference(traced)


def _compiled(workload: Workload, device: str) -> Any:
    return _compile(_eager(workload, device), workload, device)


def _compile(model: Any, workload: Workload, device: str) -> Any:
    # on a GPU whole graphs are launched at once, one per batch size; on a CPU that mode does nothing
    mode: dict[str, Any] = {"mode": "reduce-overhead", "dynamic": False} if device == "cuda" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler warns of its own deprecated interfaces
        module = torch.compile(model, **mode)
        for batch in (1, 8, 32):  # one size, then the general one: what follows finds its code compiled
            module(torch.from_numpy(workload.batch(batch)).to(device))
    return module


PEERS = (
    Contender(
        ANCHOR, "onnxruntime", "fp32", "cpu", _onnxruntime(plain_onnx), needs("onnxruntime", "onnx", "onnxscript")
    ),
    Contender(
        "peer-onnxruntime-dynamic-int8",
        "onnxruntime",
        "int8",
        "cpu",
        _onnxruntime(quantised_onnx),
        needs("onnxruntime", "onnx", "onnxscript"),
    ),
    Contender("peer-eager-fp32", "eager", "fp32", "cpu", _torch(_eager), needs("torch")),
    Contender("peer-torchscript-fp32", "torchscript", "fp32", "cpu", _torch(_traced), needs("torch")),
    Contender("peer-compile-fp32", "compile", "fp32", "cpu", _torch(_compiled), needs("torch")),
    Contender("peer-openvino-fp32", "openvino", "fp32", "cpu", _openvino("f32"), needs("openvino", "onnx")),
    Contender("peer-openvino-bf16", "openvino", "bf16", "cpu", _openvino("bf16"), bf16_in_openvino),
    Contender("peer-openvino-int8", "openvino", "int8", "cpu", _openvino("int8"), needs("openvino", "onnx")),
    Contender("peer-eager-int8", "eager", "int8", "cpu", _torch(_quantised), needs("torch")),
    Contender("peer-torchao-int8", "compile", "int8", "cpu", _torch(_torchao), needs("torch", "torchao")),
    Contender("peer-eager-fp32-mps", "eager", "fp32", "mps", _torch(_eager, "mps"), torch_on("mps")),
    Contender("peer-eager-fp32-cuda", "eager", "fp32", "cuda", _torch(_eager, "cuda"), torch_on("cuda")),
    Contender("peer-compile-fp32-cuda", "compile", "fp32", "cuda", _torch(_compiled, "cuda"), torch_on("cuda")),
    Contender(
        "peer-onnxruntime-fp32-cuda",
        "onnxruntime",
        "fp32",
        "cuda",
        _onnxruntime(plain_onnx, "CUDAExecutionProvider"),
        onnxruntime_on("CUDAExecutionProvider"),
    ),
)
