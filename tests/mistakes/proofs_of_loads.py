"""Proofs of a load that show less than they say."""

from tests.mistakes.mistake import Mistake

_SESSION, _SEQUENCES = "lvm_runtime/selection/session.py", "lvm_runtime/selection/sequences.py"
_ONNX, _OPENVINO = "lvm_runtime/backends/onnx.py", "lvm_runtime/backends/openvino.py"
_OFF = "tests/lvm_runtime/selection/test_session.py::test_a_backend_that_is_off_is_refused"
_DISAGREES = (
    "tests/lvm_runtime/selection/test_sequences.py::test_a_sequence_form_that_disagrees_is_not_used_and_says_so"
)
_LIMIT = "tests/lvm_runtime/test_request.py::test_drift_limit_is_that_of_the_precision_or_less"
_NO_FALLBACK = "tests/lvm_runtime/backends/test_no_fallback.py"
_WHOLE = f"{_NO_FALLBACK}::test_onnxruntime_runs_the_whole_graph_on_the_device[cuda-options0]"
_COMPUTES = f"{_NO_FALLBACK}::test_openvino_that_computes_in_another_precision_is_refused"
_AS_ASKED = f"{_NO_FALLBACK}::test_both_forms_are_built_as_they_were_asked_for"
_SAYS = "tests/lvm_runtime/backends/test_onnx.py::test_a_file_says_its_precision_and_an_old_one_is_what_it_is_listed_as"

MISTAKES = [
    Mistake(
        "of fixed batch sizes those alone are proved that the probes fill",
        _SESSION,
        "        if isinstance(runner, AnyBatch):\n",
        "        if False:\n",
        "tests/lvm_runtime/selection/test_session.py::test_a_fixed_batch_size_gives_the_known_answers_before_it_is_used",
    ),
    Mistake(
        "weights that no reader takes replace those that are there",
        "lvm_runtime/artifact/folder.py",
        "            check_header(folder / WEIGHTS, config)\n",
        "",
        "tests/lvm_runtime/models/test_serialisation.py::"
        "test_a_model_with_weights_under_other_names_leaves_the_artifact_that_is_there",
    ),
    Mistake(
        "answers in int8 may be twice as long as the known ones",
        _SESSION,
        "require(longer, LENGTH_LIMIT",
        "require(0.0, LENGTH_LIMIT",
        f"{_OFF}[twice as long]",
    ),
    Mistake(
        "attention is not compared with the known one",
        _SESSION,
        "require(off, ATTENTION_LIMITS[precision]",
        "require(0.0, ATTENTION_LIMITS[precision]",
        f"{_OFF}[attention]",
    ),
    Mistake(
        "predictions may change when attention is asked for",
        _SESSION,
        'require(change, BATCH_INVARIANCE_LIMIT, f"{name}: change when attention',
        'require(0.0, BATCH_INVARIANCE_LIMIT, f"{name}: change when attention',
        f"{_OFF}[attention asked for]",
    ),
    Mistake(
        "only the first probe is tried alone",
        _SESSION,
        "for i in (0, len(predictions) - 1):",
        "for i in (0,):",
        f"{_OFF}[last place]",
    ),
    Mistake(
        "only the last probe is tried alone",
        _SESSION,
        "for i in (0, len(predictions) - 1):",
        "for i in (len(predictions) - 1,):",
        f"{_OFF}[first place]",
    ),
    Mistake(
        "the largest drift of a load is the mean",
        _SESSION,
        "require(float(drifts.max()), limit, what, _REMEDY)",
        "require(float(drifts.mean()), limit, what, _REMEDY)",
        f"{_OFF}[one probe over the limit]",
    ),
    Mistake(
        "components are compared in no precision",
        _SESSION,
        'if precision == "fp32":',
        'if precision == "fp64":',
        f"{_OFF}[TF32-like]",
    ),
    Mistake(
        "the form of documents need not agree with that of windows",
        _SEQUENCES,
        "            require(change, BATCH_INVARIANCE_LIMIT,",
        "            require(0.0, BATCH_INVARIANCE_LIMIT,",
        f"{_DISAGREES}[much]",
    ),
    Mistake(
        "the form of documents may differ by as much as fp32 may drift",
        _SEQUENCES,
        "require(change, BATCH_INVARIANCE_LIMIT,",
        "require(change, 2e-5,",
        f"{_DISAGREES}[a little]",
    ),
    Mistake(
        "`max_drift` lifts a precision's own limit",
        "lvm_runtime/request.py",
        "return min(limit, self.max_drift)",
        "return self.max_drift",
        _LIMIT,
    ),
    Mistake(
        "without a wish every precision has its own limit",
        "lvm_runtime/request.py",
        'return limit if named else min(limit, DRIFT_LIMITS["fp32"])',
        "return limit",
        _LIMIT,
    ),
    Mistake(
        "what the manifest says of a form's drift is not looked at",
        "lvm_runtime/selection/candidates.py",
        "if form.drift > limit else None",
        "if form.drift > 1 else None",
        "tests/lvm_runtime/selection/test_choice.py::test_what_fits_a_request[default]",
    ),
    Mistake(
        "onnxruntime may run a part of the graph on the CPU",
        _ONNX,
        '    if device != "cpu":\n        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")\n',
        "",
        _WHOLE,
    ),
    Mistake(
        "onnxruntime may fall back to other providers",
        _ONNX,
        ", enable_fallback=0)",
        ")",
        _WHOLE,
    ),
    Mistake(
        "the provider that the session uses is not compared",
        _ONNX,
        "if self._session.get_providers()[0] != PROVIDERS[self.device]:",
        "if not self._session.get_providers():",
        _WHOLE,
    ),
    Mistake(
        "products on CUDA run in TF32",
        _ONNX,
        '"cuda": {"use_tf32": "0"}',
        '"cuda": {}',
        _WHOLE,
    ),
    Mistake(
        "recurrent layers of torch run in TF32",
        "lvm_runtime/backends/devices.py",
        "    if not lowered:\n        return None\n    cudnn",
        "    if lowered:\n        return None\n    cudnn",
        f"{_NO_FALLBACK}::test_torch_on_cuda_computes_no_recurrent_layer_in_tf32[cudnn-allow_tf32-True]",
    ),
    Mistake(
        "a setting for all of torch turns TF32 on again",
        "lvm_runtime/backends/devices.py",
        '"fp32_precision", "ieee") == "tf32":',
        '"fp32_precision", "ieee") == "":',
        f"{_NO_FALLBACK}::test_torch_on_cuda_computes_no_recurrent_layer_in_tf32[everything-fp32_precision-tf32]",
    ),
    Mistake(
        "the gate judges a trained model in TF32",
        "train/evaluation/gate.py",
        "with inference(torch.device(place).type, None):",
        "with torch.no_grad():",
        "tests/train/evaluation/test_gate.py::test_both_devices_are_judged_at_every_batch_size",
    ),
    Mistake(
        "the precision that OpenVINO computes in is not compared",
        _OPENVINO,
        "if computed != hint:",
        "if computed is None:",
        _COMPUTES,
    ),
    Mistake(
        "OpenVINO is asked for bf16 on a CPU that has none",
        _OPENVINO,
        'if self.precision == "bf16" and not has_bf16():',
        "if False:",
        _COMPUTES,
    ),
    Mistake(
        "OpenVINO takes a file of any precision for fp32",
        _OPENVINO,
        '        file_precision(source, said, "fp32")  # bf16 too is arithmetic on full-precision weights\n',
        "",
        _SAYS,
    ),
    Mistake(
        "an ONNX file's own precision is not compared with the manifest's",
        _ONNX,
        "custom_metadata_map, precision)",
        "custom_metadata_map, None)",
        _SAYS,
    ),
    Mistake(
        "a native file's own precision is not compared with the manifest's",
        "lvm_runtime/backends/native.py",
        "self._take(source, about, precision)",
        "self._take(source, about, None)",
        f"{_NO_FALLBACK}::test_native_file_of_another_precision_is_refused",
    ),
    Mistake(
        "a package's own precision is not compared with the manifest's",
        "lvm_runtime/backends/coreml.py",
        "file_precision(source, package.precision, precision)",
        "file_precision(source, package.precision, None)",
        "tests/lvm_runtime/backends/test_coreml.py::test_options_that_cannot_be_honoured_are_refused[precision]",
    ),
    Mistake(
        "MLX computes in fp32, whatever was asked for",
        "lvm_runtime/backends/mlx.py",
        "getattr(mx, _TYPES[self.precision])",
        "mx.float32",
        "tests/lvm_runtime/backends/test_mlx.py::test_narrow_arithmetic_is_narrow_and_of_norm_1[gru-fp16]",
    ),
    Mistake(
        "a form is built for any device",
        _SESSION,
        "candidate.source, device=candidate.device, threads",
        "candidate.source, threads",
        _AS_ASKED,
    ),
    Mistake(
        "a form is built in the backend's own precision",
        _SESSION,
        "threads=request.threads, precision=candidate.precision",
        "threads=request.threads",
        _AS_ASKED,
    ),
    Mistake(
        "the form of documents is built for any device",
        _SEQUENCES,
        "            device=session.backend.device,\n",
        "",
        _AS_ASKED,
    ),
    Mistake(
        "a form for fixed batch sizes is run with others",
        _SESSION,
        "                backend.batch_sizes = candidate.batch_sizes\n",
        "                pass\n",
        "tests/lvm_runtime/selection/test_choice.py::test_a_form_for_batch_1_only_serves_every_batch",
    ),
    Mistake(
        "a Predictor that was pickled takes other weights",
        "lvm_runtime/predictor.py",
        'if self.artifact.manifest.model != state["model"]:',
        'if state["weights"] is None:',
        "tests/lvm_runtime/test_predictor.py::test_a_pickle_of_other_weights_is_refused",
    ),
    Mistake(
        "Core ML may use every unit, whatever device was asked for",
        "lvm_runtime/backends/coreml.py",
        "coremltools.ComputeUnit[UNITS[self.device]]",
        'coremltools.ComputeUnit["ALL"]',
        "tests/lvm_runtime/backends/test_coreml.py::test_core_ml_is_asked_for_the_device[ane-CPU_AND_NE]",
    ),
]
