"""Limits of use that do not hold: queues, outputs, threads, what is closed, and what is kept of a measurement."""

from tests.mistakes.mistake import Mistake

_BATCHER, _PREDICTOR = "lvm_runtime/batcher.py", "lvm_runtime/predictor.py"
_MEASUREMENTS = "lvm_runtime/selection/measurements.py"
_CLOSED = "tests/lvm_runtime/test_closing.py::test_what_is_opened_and_not_kept_is_closed"
_T = "tests/lvm_runtime/test_predictor.py"
_THREADS = "tests/lvm_runtime/backends/test_no_fallback.py::test_threads_that_are_asked_for_are_used"
_KEPT = "tests/lvm_runtime/selection/test_measurements.py"
_ELSE = f"{_KEPT}::test_what_was_measured_on_something_else_does_not_count"
_CHOSEN = f"{_KEPT}::test_forms_are_chosen_by_what_was_measured_with_their_threads"
_HELD_BACK = "tests/lvm_runtime/test_batcher.py::test_coroutines_await_and_are_held_back_without_blocking_the_loop"
_DELAY = "tests/lvm_runtime/test_batcher.py::test_a_lone_request_waits_no_longer_than_the_delay"
_BOUNDED = "tests/lvm_runtime/test_batcher.py::test_back_pressure_is_bounded"

MISTAKES = [
    Mistake(
        "coroutines are not held back by `max_pending`",
        _BATCHER,
        "        while not self._queue.closed and self._queue.rows >= self.max_pending:\n"
        "            await asyncio.sleep(_POLL_SECONDS)\n",
        "",
        _HELD_BACK,
    ),
    Mistake(
        "coroutines that are held back block the loop",
        _BATCHER,
        "            await asyncio.sleep(_POLL_SECONDS)\n",
        "            time.sleep(_POLL_SECONDS)\n",
        _HELD_BACK,
    ),
    Mistake(
        "the delay counts from when the worker looks, so a request waits for it twice",
        _BATCHER,
        "remaining = self.waiting[0].arrived + self.max_delay - time.monotonic()",
        "remaining = self.max_delay",
        _DELAY,
    ),
    Mistake(
        "one request more than `max_pending` may wait",
        _BATCHER,
        "self.closed or self.rows < self.max_pending, timeout",
        "self.closed or self.rows <= self.max_pending, timeout",
        _BOUNDED,
    ),
    Mistake(
        "a batch may have one context more than `max_batch`",
        _BATCHER,
        "while self.waiting and rows + len(self.waiting[0].contexts) <= self.max_batch:",
        "while self.waiting and rows <= self.max_batch:",
        "tests/lvm_runtime/test_batcher.py::test_requests_that_arrive_together_run_together",
    ),
    Mistake(
        "a read-only `out` is not refused",
        _PREDICTOR,
        "        or not out.flags.writeable\n",
        "",
        f"{_T}::test_an_out_that_does_not_fit_is_refused[read-only]",
    ),
    Mistake(
        "an `out` of float64 is not refused",
        _PREDICTOR,
        "        or out.dtype != np.float32\n",
        "",
        f"{_T}::test_an_out_that_does_not_fit_is_refused[dtype]",
    ),
    Mistake(
        "a tensor with `out=` gets a tensor back",
        _PREDICTOR,
        "result = contexts.give_back(predictions) if out is None else out",
        "result = contexts.give_back(predictions)",
        f"{_T}::test_out_is_returned_for_a_tensor_too",
    ),
    Mistake(
        "a document in a tensor with `out=` gets a tensor back",
        _PREDICTOR,
        "if wrap is not None and out is None else predictions",
        "if wrap is not None else predictions",
        f"{_T}::test_out_is_returned_for_a_tensor_too",
    ),
    Mistake(
        "a backend that is refused stays open",
        "lvm_runtime/selection/session.py",
        "            except BaseException:\n                backend.close()\n                raise\n",
        "            except BaseException:\n                raise\n",
        f"{_CLOSED}[refused]",
    ),
    Mistake(
        "a form of documents that is refused stays open",
        "lvm_runtime/selection/sequences.py",
        "        except BaseException:\n            backend.close()\n            raise\n",
        "        except BaseException:\n            raise\n",
        f"{_CLOSED}[refused_for_documents]",
    ),
    Mistake(
        "a form of documents that cannot run stays open",
        "lvm_runtime/selection/sequences.py",
        "        try:\n            answers = backend.run(document)",
        "        answers = backend.run(document)\n        try:\n            pass",
        f"{_CLOSED}[broken_for_documents]",
    ),
    Mistake(
        "what was opened to be timed stays open",
        "lvm_runtime/selection/tuning.py",
        "        for session in sessions.values():\n            session.close()\n",
        "        pass\n",
        f"{_CLOSED}[tuned]",
    ),
    Mistake(
        "a Predictor that was pickled with other weights stays open",
        _PREDICTOR,
        "            self.close()\n            raise ArtifactError(",
        "            raise ArtifactError(",
        f"{_CLOSED}[unpickled]",
    ),
    Mistake(
        "the first of two Predictors of a bulk run stays open",
        "lvm_runtime/bulk/predict.py",
        "    predictor.close()\n    backend, device",
        "    backend, device",
        f"{_CLOSED}[for_bulk]",
    ),
    Mistake(
        "a backend stays open after an export's proof",
        "export/verify.py",
        'with closing(backend_class(format)(path, device="cpu", precision=precision)) as backend:',
        'for backend in [backend_class(format)(path, device="cpu", precision=precision)]:',
        f"{_CLOSED}[exported]",
    ),
    Mistake(
        "a backend of documents stays open after an export's proof",
        "export/verify.py",
        '        """Release the backend."""\n        self._backend.close()\n',
        '        """Release the backend."""\n',
        f"{_CLOSED}[exported_for_documents]",
    ),
    Mistake(
        "onnxruntime chooses its threads itself",
        "lvm_runtime/backends/onnx.py",
        "    settings.intra_op_num_threads = threads\n",
        "",
        _THREADS,
    ),
    Mistake(
        "OpenVINO chooses its threads itself",
        "lvm_runtime/backends/openvino.py",
        '            "INFERENCE_NUM_THREADS": self.threads,\n',
        "",
        _THREADS,
    ),
    Mistake(
        "torch runs with the threads of the process",
        "lvm_runtime/backends/torch_base.py",
        "with inference(self.device, self.threads):",
        "with inference(self.device, None):",
        _THREADS,
    ),
    Mistake(
        "the native engine has a thread for each CPU",
        "lvm_runtime/backends/native.py",
        'os.environ.get(PATH_VARIABLE, ""), self.threads)',
        'os.environ.get(PATH_VARIABLE, ""), usable_cpus())',
        "tests/lvm_runtime/backends/test_no_fallback.py::test_native_engine_has_the_threads_that_are_asked_for",
    ),
    Mistake(
        "a Predictor does not hand its threads on",
        "lvm_runtime/selection/session.py",
        "device=candidate.device, threads=request.threads, precision",
        "device=candidate.device, precision",
        "tests/lvm_runtime/backends/test_no_fallback.py::test_both_forms_are_built_as_they_were_asked_for",
    ),
    Mistake(
        "the form of documents gets no number of threads",
        "lvm_runtime/selection/sequences.py",
        "            threads=session.backend.threads,\n",
        "",
        "tests/lvm_runtime/backends/test_no_fallback.py::test_both_forms_are_built_as_they_were_asked_for",
    ),
    Mistake(
        "a measurement is kept for any number of threads",
        _MEASUREMENTS,
        "json.dumps([_SCHEMA, here(), threads], sort_keys=True)",
        "json.dumps([_SCHEMA, here()], sort_keys=True)",
        f"{_ELSE}[threads]",
    ),
    Mistake(
        "a measurement is kept for any version of a library",
        _MEASUREMENTS,
        "    return machine.identity() | versions | settings\n",
        "    return machine.identity() | settings\n",
        f"{_ELSE}[version]",
    ),
    Mistake(
        "a measurement is kept for any processor",
        _MEASUREMENTS,
        "    return machine.identity() | versions | settings\n",
        "    return versions | settings\n",
        f"{_ELSE}[processor]",
    ),
    Mistake(
        "a measurement is kept whatever GPUs are hidden",
        _MEASUREMENTS,
        "    return machine.identity() | versions | settings\n",
        "    return machine.identity() | versions\n",
        "tests/lvm_runtime/selection/test_measurements.py::test_what_was_measured_on_other_instructions_or_gpus_is_not_used",
    ),
    Mistake(
        "a measurement is kept for any artifact",
        _MEASUREMENTS,
        "hashlib.sha256(artifact.manifest.to_json()).hexdigest()[:24]",
        '"measured"',
        f"{_ELSE}[artifact]",
    ),
    Mistake(
        "a measurement drops those of other forms",
        _MEASUREMENTS,
        "kept = [m for m in load(artifact, threads) if m.identity not in new]",
        "kept: list[Measurement] = []",
        f"{_KEPT}::test_a_measurement_replaces_its_own_form_and_no_other",
    ),
    Mistake(
        "an older measurement of the same form wins",
        _MEASUREMENTS,
        "for m in (*kept, *new.values())]",
        "for m in (*new.values(), *load(artifact, threads))]",
        f"{_KEPT}::test_a_measurement_replaces_its_own_form_and_no_other",
    ),
    Mistake(
        "what was measured with some threads is kept for as many as there are CPUs",
        "lvm_runtime/selection/tuning.py",
        "measurements.save(artifact, request.threads or usable_cpus(), results)",
        "measurements.save(artifact, usable_cpus(), results)",
        _CHOSEN,
    ),
    Mistake(
        "a form is chosen by what was measured with as many threads as there are CPUs",
        "lvm_runtime/selection/choice.py",
        "measurements.load(artifact, request.threads or usable_cpus())",
        "measurements.load(artifact, usable_cpus())",
        _CHOSEN,
    ),
]
