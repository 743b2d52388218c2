"""What an artifact may hold, who may write to it, and what may run of it."""

from tests.mistakes.mistake import Mistake

_FINGERPRINT, _MANIFEST = "lvm_runtime/artifact/fingerprint.py", "lvm_runtime/artifact/manifest.py"
_FILES, _FOLDER = "lvm_runtime/artifact/files.py", "lvm_runtime/artifact/folder.py"
_T = "tests/lvm_runtime/artifact"
_NO_CODE = "tests/test_no_code_runs.py::test_reading_runs_no_code"
_BROKEN = f"{_T}/test_manifest.py::test_anything_else_is_an_error_that_names_file_and_key"
_REFUSED = f"{_T}/test_fingerprint.py::test_what_would_take_memory_or_run_code_is_refused"

MISTAKES = [
    Mistake(
        "the fingerprint is read with `allow_pickle=True`",
        _FINGERPRINT,
        "            with zipfile.ZipFile(io.BytesIO(data)) as parts:\n"
        '                arrays = {part.filename.removesuffix(".npy"): _read_part(parts, part)'
        " for part in parts.infolist()}\n",
        "            arrays = dict(np.load(io.BytesIO(data), allow_pickle=True))\n",
        f"{_NO_CODE}[fingerprint]",
    ),
    Mistake(
        "the fingerprint's shape is believed before its data is there",
        _FINGERPRINT,
        "if math.prod(shape) * dtype.itemsize != len(data) - header.end():",
        "if not shape:",
        f"{_REFUSED}[a header of 10^9 rows]",
    ),
    Mistake(
        "a fingerprint may be compressed",
        _FINGERPRINT,
        "if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:",
        "if part.file_size < part.compress_size:",
        f"{_REFUSED}[a bomb]",
    ),
    Mistake(
        "a manifest may name an absolute path",
        _MANIFEST,
        'if relative.is_absolute() or ".." in relative.parts:',
        'if ".." in relative.parts:',
        f"{_BROKEN}[path that is absolute]",
    ),
    Mistake(
        "a manifest may name a path above the artifact",
        _MANIFEST,
        'if relative.is_absolute() or ".." in relative.parts:',
        "if relative.is_absolute():",
        f"{_T}/test_folder.py::test_a_path_out_of_the_artifact_is_refused",
    ),
    Mistake(
        "a manifest may name what a writer works on",
        _MANIFEST,
        "hidden = any(part.startswith(TEMPORARY) or is_finders(part) for part in relative.parts)",
        "hidden = False",
        f"{_BROKEN}[path of a writer]",
    ),
    Mistake(
        "the manifest's digest is not compared",
        _MANIFEST,
        "    if hashlib.sha256(data[: found.start()]).hexdigest().encode() != found[1]:",
        "    if not found[1]:",
        f"{_T}/test_manifest.py::test_every_flipped_bit_is_an_error",
    ),
    Mistake(
        "a package's hash is over the contents of its files, without their names",
        _FILES,
        "tree.update(f\"{name}\\0{'' if name.endswith('/') else _sha256(path / name)}\\n\"",
        "tree.update(f\"{'' if name.endswith('/') else _sha256(path / name)}\\n\"",
        f"{_T}/test_files.py::test_the_hash_of_a_package_is_the_one_that_schema_1_wrote",
    ),
    Mistake(
        "a file's size is compared and its hash is not",
        _FILES,
        "    if (found := _digest(path, files)) != expected.sha256:",
        '    if (found := _digest(path, files)) == "":',
        f"{_T}/test_folder.py::test_one_flipped_byte_is_found",
    ),
    Mistake(
        "files that the manifest does not list are let be",
        _FOLDER,
        "        check_strays(self.path, [file.path for file in self.manifest.files], MANIFEST)\n",
        "",
        f"{_T}/test_files.py::test_a_stray_is_named",
    ),
    Mistake(
        "links are followed",
        _FILES,
        "        _require_plain(path, os.lstat(path).st_mode)\n        descriptor = os.open(path, flags)\n",
        '        descriptor = os.open(path, flags & ~getattr(os, "O_NOFOLLOW", 0))\n',
        f"{_T}/test_files.py::test_only_plain_files_are_opened",
    ),
    Mistake(
        "a large file is read before its size is looked at",
        _FILES,
        "        if size > limit:\n",
        "        if size < 0:\n",
        f"{_T}/test_files.py::test_a_manifest_of_100_mb_is_not_read",
    ),
    Mistake(
        "weights are not compared with the config",
        _FOLDER,
        "        check_header(self.path / self.manifest.weights.path, self.config)\n",
        "",
        f"{_T}/test_weights.py::test_a_config_that_was_changed_does_not_fit",
    ),
    Mistake(
        "a form is committed without the artifact's lock",
        _FOLDER,
        "        with atomic.locked(self.path):\n            manifest = _read_manifest(self.path)  # another",
        "        with contextlib.nullcontext():\n            manifest = _read_manifest(self.path)  # another",
        f"{_T}/test_folder.py::test_exporters_at_the_same_time_take_turns[commits]",
    ),
    Mistake(
        "an exporter clears up beside the commit of another",
        _FOLDER,
        "with contextlib.nullcontext() if locked else atomic.locked(self.path):",
        "with contextlib.nullcontext():",
        f"{_T}/test_folder.py::test_exporters_at_the_same_time_take_turns[begins]",
    ),
    Mistake(
        "a form is committed to weights that it was not made of",
        _FOLDER,
        "if manifest.model != self.manifest.model:",
        "if manifest.config != self.manifest.config:",
        f"{_T}/test_folder.py::test_exporting_into_retrained_weights_is_refused",
    ),
    Mistake(
        "weights are loaded with `strict=False`",
        "lvm_runtime/models/serialisation.py",
        "load_state_dict(load_file(file), strict=True)",
        "load_state_dict(load_file(file), strict=False)",
        "tests/lvm_runtime/models/test_serialisation.py::test_weight_that_is_missing_is_an_error",
    ),
    Mistake(
        "a foreign checkpoint may run code",
        "train/foreign_checkpoint.py",
        'map_location="cpu", weights_only=True)',
        'map_location="cpu", weights_only=False)',
        f"{_NO_CODE}[foreign checkpoint]",
    ),
    Mistake(
        "a checkpoint of our own may run code",
        "train/checkpoint.py",
        'map_location="cpu", weights_only=True)',
        'map_location="cpu", weights_only=False)',
        f"{_NO_CODE}[checkpoint]",
    ),
    Mistake(
        "object arrays of a corpus are unpickled unasked",
        "lvm_runtime/corpus/npz.py",
        "        if not trust_pickle:\n",
        "        if trust_pickle is None:\n",
        f"{_NO_CODE}[corpus]",
    ),
    Mistake(
        "an ONNX file may keep its weights elsewhere, in onnxruntime",
        "lvm_runtime/backends/onnx.py",
        "        refuse_external_data(source)\n",
        "",
        "tests/lvm_runtime/backends/test_onnx_file.py::test_weights_in_another_file_are_refused",
    ),
    Mistake(
        "an ONNX file may keep its weights elsewhere, in OpenVINO",
        "lvm_runtime/backends/openvino.py",
        "        refuse_external_data(source)\n",
        "",
        "tests/lvm_runtime/backends/test_onnx_file.py::test_weights_in_another_file_are_refused",
    ),
    Mistake(
        "a TorchScript file is loaded unchecked",
        "lvm_runtime/backends/torchscript.py",
        "jit.load(checked_module(source), map",
        "jit.load(str(source), map",
        "tests/lvm_runtime/backends/test_torchscript_file.py::test_code_that_reaches_out_is_refused_before_it_runs",
    ),
    Mistake(
        "TorchScript is read in the coding that a comment of its own names",
        "lvm_runtime/backends/torchscript_file.py",
        'ast.parse(source.decode("ascii"))',
        "ast.parse(source)",
        "tests/lvm_runtime/backends/test_torchscript_file.py::test_changed_code_is_refused[code in another coding]",
    ),
    Mistake(
        "a file that holds code is used unasked",
        "lvm_runtime/selection/candidates.py",
        "if request.backend != AUTO or not backend_class(form.backend).holds_code:",
        "if not backend_class(form.backend).holds_code or form.drift is not None:",
        "tests/lvm_runtime/selection/test_choice.py::test_auto_never_runs_a_file_that_holds_code",
    ),
]
