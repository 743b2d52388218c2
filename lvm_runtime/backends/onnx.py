"""onnxruntime: the portable backend; needs numpy and onnxruntime, and never torch.

Each session has a pool of threads of its own, sized to the CPUs that the process may use. A pool shared by all
sessions (`set_global_thread_pool_sizes`) would make every session fail that anybody else in the process creates.
A thread that waits for work spins for a while before it sleeps, because waking it takes longer than a small operation.
By default it spins for a millisecond or more, and keeps a CPU from the session that runs next or at the same moment.

On a CPU a large batch is cut into slices that fit the caches, and each thread takes whole slices through a session of
one thread. Nobody waits for the others after each operation, and those are shared out too that onnxruntime gives to
one thread, most of an int8 form's among them. That session holds the weights once more.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lvm_runtime.backends.base import REDUCED_LARGEST_NORM, Array, LightBackend
from lvm_runtime.backends.helper_threads import HelperThreads
from lvm_runtime.backends.onnx_file import refuse_external_data
from lvm_runtime.errors import ArtifactError, BackendUnavailable, one_line
from lvm_runtime.system.cpus import usable_cpus

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "coreml": "CoreMLExecutionProvider"}
_SPIN_MICROSECONDS = "100"
"""As long as what lies between two shared operations, `predict` and its checks included; after 50 the second thread was
asleep by then, and waking it cost batches of 4 to 32 up to a tenth. Longer spinning costs whoever runs at the same
moment (docs/experiments/2026-11-26-spin-100-microseconds.md)."""
_OPTIONS = {"cuda": {"use_tf32": "0"}, "coreml": {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}}

SLICE = 64
"""Rows that a thread takes at a time, give or take half: what one operation writes is then still in the cache when the
next one reads it. Of 1,024 rows at once int8 forms compute a fifth to a third fewer a second."""
_LEAST_SHARES = {"fp32": (16, 288e6), "int8": (4, 32e6)}
"""From how many rows per thread, and from what product of rows and bytes of weights, a share of its own is worth the
50 to 150 µs that it takes to wake a thread for it. Products in int8 gain little from sharing each of them out."""

_WRONG_ON_AMX = ("1.21.", "1.22.", "1.23.", "1.24.")
"""Versions of onnxruntime whose products of integers may be wrong on a CPU with AMX."""
_TELEMETRY = "ORT_DISABLE_TELEMETRY"


class OnnxBackend(LightBackend):
    """Run an ONNX file on the CPU, CUDA or CoreML provider of onnxruntime.

    A provider that the session does not really use is an error, for a part of the graph too: onnxruntime itself
    would go on on the CPU. The file says what it is: a sequence form takes the vectors `[N, D]` of a document in the
    place of contexts, and predicts after each of its N − T + 1 windows.
    """

    name: ClassVar[str] = "onnx"
    format: ClassVar[str | None] = "onnx"
    exports: ClassVar[Mapping[str, str]] = {"fp32": "", "int8": " --precision int8"}
    framework: ClassVar[str] = "onnxruntime"
    install: ClassVar[str] = "pip install onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnxruntime-gpu")

    def __init__(
        self, source: Path, *, device: str = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        present = self.devices()
        self.device = "cpu" if device == "auto" else device
        if self.device not in present:
            raise BackendUnavailable(
                f"backend onnx cannot run on device {device!r}: this onnxruntime has the devices "
                f"{', '.join(present)}; for cuda: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        if self.device == "coreml":  # which may compute in fp16
            self.largest_norm = REDUCED_LARGEST_NORM
        self.threads = threads or usable_cpus()
        refuse_external_data(source)
        self._single = None  # the session of one thread; equal shares suit equal cores, which Apple's are not
        try:
            self._session = _open_session(source, self.device, self.threads)
            if self.device == "cpu" and (self.threads == 1 or sys.platform != "darwin"):
                self._single = self._session if self.threads == 1 else _open_session(source, "cpu", 1)
        except Exception as error:  # onnxruntime raises its own types, which share no base
            problem = one_line(error)
            if self.device != "cpu":
                raise BackendUnavailable(f"{source} does not run whole on {self.device}: {problem}") from error
            raise ArtifactError(f"{source}: onnxruntime cannot load it: {problem}") from error
        if self._session.get_providers()[0] != PROVIDERS[self.device]:
            raise BackendUnavailable(
                f"backend onnx was asked for {self.device} and the session uses {self._session.get_providers()[0]}"
            )
        self._take(source, self._session.get_modelmeta().custom_metadata_map, precision)
        self._input = self._session.get_inputs()[0].name
        if self.precision == "int8" and self.device == "cpu" and self._input == "context":
            self._refuse_wrong_products()
        self._widths = {output.name: output.shape[1] for output in self._session.get_outputs()}
        self._slots: list[_Slot] = []
        rows, work = _LEAST_SHARES.get(self.precision, _LEAST_SHARES["fp32"])
        self._share_from = self.threads * max(rows, math.ceil(work / source.stat().st_size))
        self._helpers = HelperThreads(self.threads if self._single else 1)

    @classmethod
    def load_framework(cls) -> Any:
        """Import onnxruntime, and let it send nothing: from 1.29 on it reports sessions and models to its maker.

        The thread that does so is also missing in a child process, which waits for it when it ends. Whoever wants it
        sets the variable to 0, or imports onnxruntime first.
        """
        if _TELEMETRY in os.environ or cls.framework in sys.modules:
            return super().load_framework()
        os.environ[_TELEMETRY] = "1"
        try:
            return super().load_framework()
        finally:
            os.environ.pop(_TELEMETRY, None)

    @classmethod
    def devices(cls) -> list[str]:
        """Return the devices that the installed onnxruntime was built for, the CPU first."""
        present = cls.load_framework().get_available_providers()
        return [device for device, provider in PROVIDERS.items() if provider in present]

    def _refuse_wrong_products(self) -> None:
        """Raise BackendUnavailable where this onnxruntime computes many contexts otherwise than one.

        1.21 to 1.24 do on a CPU with AMX, from 32 rows on, if the width of a weight is 17 to 31 more than a multiple
        of 32. The known answers are fewer rows.
        """
        version = self.load_framework().__version__
        if not version.startswith(_WRONG_ON_AMX):
            return
        _, length, dim = self._session.get_inputs()[0].shape
        many = np.random.default_rng(0).normal(size=(40, length, dim)).astype(np.float32)
        alone = [self._session.run(["prediction"], {self._input: many[i : i + 1]})[0] for i in range(len(many))]
        together = self._session.run(["prediction"], {self._input: many})[0]
        if not np.allclose(together, np.concatenate(alone), rtol=0, atol=1e-5):
            raise BackendUnavailable(
                f"onnxruntime {version} multiplies integers wrongly on this CPU (AMX) for a model of these sizes; "
                "upgrade it to 1.25 or later, or use another backend"
            )

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        if len(contexts) == 1 and self.device == "cpu" and self._input == "context":
            return self._run_one(contexts)
        return self._run(contexts, ["prediction"])[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        prediction, attention = self._run(contexts, ["prediction", "attention"])
        return prediction, attention

    def after_fork(self) -> None:
        """Run everything in the session of one thread; the threads of the other one are in the parent."""
        if self._single is None:
            super().after_fork()
        else:
            self._session = self._single
            self._slots = []

    def close(self) -> None:
        """Let the helper threads go, and the sessions with their threads and memory."""
        self._helpers.close()
        self._session = self._single = None
        self._slots.clear()

    def _run(self, inputs: Array, names: list[str]) -> list[Array]:
        rows = len(inputs) - self._overlap
        single = self._single
        slices = max(1, round(rows / SLICE / self.threads)) * self.threads
        if single is None or rows < self._share_from or slices == 1:
            return self._session.run(names, {self._input: inputs})
        results = [np.empty((rows, self._widths[name]), np.float32) for name in names]

        def run_slice(start: int, stop: int) -> None:
            found = single.run(names, {self._input: inputs[start : stop + self._overlap]})
            for result, part in zip(results, found, strict=True):
                result[start:stop] = part

        self._helpers.run(run_slice, pairwise(rows * i // slices for i in range(slices + 1)))
        return results

    def _run_one(self, contexts: Array) -> Array:
        """Return the prediction `[1, D]` for `[1, T, D]`; each call at the same moment has a slot of its own."""
        try:
            slot = self._slots.pop()
        except IndexError:
            slot = _Slot(self._session)
        slot.context[...] = contexts
        self._session.run_with_iobinding(slot.binding)
        prediction = slot.prediction.copy()
        self._slots.append(slot)
        return prediction


class _Slot:
    """Memory for one context and one prediction, bound to a session once.

    Copying 18 KB takes 1 µs; checking names and types, wrapping arrays and allocating the output in each call takes 6.
    """

    __slots__ = ("binding", "context", "prediction")

    def __init__(self, session: Any) -> None:
        self.binding = session.io_binding()
        self.context = np.empty((1, *session.get_inputs()[0].shape[1:]), np.float32)
        self.prediction = np.empty((1, *session.get_outputs()[0].shape[1:]), np.float32)
        for bind, name, array in (
            (self.binding.bind_input, "context", self.context),
            (self.binding.bind_output, "prediction", self.prediction),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def _open_session(source: Path, device: str, threads: int) -> Any:
    """Return an onnxruntime session that runs on `device` as a whole."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # its errors come as exceptions too
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
    if device != "cpu":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        with redirect_stdout(sys.stderr):  # where it says what it did not find
            onnxruntime.preload_dlls()  # CUDA and cuDNN as packages, which no loader looks for
    providers = [(PROVIDERS[device], _OPTIONS.get(device, {}))]
    return onnxruntime.InferenceSession(str(source), settings, providers=providers, enable_fallback=0)
