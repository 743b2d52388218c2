"""The Core ML backend: what of it runs anywhere, and on macOS the thing itself."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lvm_runtime.backends.coreml as backend_module
import lvm_runtime.coreml.package as package_module
from export.coreml.export import export_coreml
from export.coreml.options import CoreMLOptions
from export.mil_reference import Evaluator, load_program
from export.source import Source
from export.verify import Sample
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.backends.batch_sizes import any_batch
from lvm_runtime.backends.coreml import CoreMLBackend
from lvm_runtime.commands.main import main
from lvm_runtime.coreml import cache as coreml_cache
from lvm_runtime.coreml.package import compile_package, read_functions, read_package, require_macos
from lvm_runtime.errors import ArtifactError, BackendUnavailable, LvmError, WriteFailed
from lvm_runtime.models import known_answers, save_model
from lvm_runtime.system import atomic
from tests.artifacts import randomised

DIM = 64


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A small AMN with a package of batch sizes 1 and 4."""
    model = randomised("amn", dim=DIM, attention_dim=32, hidden_dim=48, bottleneck_dim=32)
    plain = Source(save_model(model, tmp_path_factory.mktemp("coreml") / "amn"), model)
    samples = (Sample.of("random", model, random_contexts(8, 5, DIM)),)
    return Source(export_coreml(plain, samples, CoreMLOptions(batch_sizes=(1, 4))), model)


def package_of(source: Source) -> Path:
    """Return the path of the source's package."""
    return source.artifact.file(source.artifact.find("coreml")[0])


class EvaluatedModel:
    """Stands in for `CompiledMLModel` where Core ML is missing: the same arguments, the reference evaluator inside."""

    seen: list[Any] = []  # noqa: RUF012
    units: list[str] = []  # noqa: RUF012

    def __init__(self, path: str, *, compute_units: str, function_name: str | None) -> None:
        self.evaluate = Evaluator(load_program(path), mode="fp16", function=function_name)
        self.units.append(compute_units)

    def predict(self, data: dict[str, Any]) -> dict[str, Any]:
        """Answer as Core ML would, and remember which array came."""
        self.seen.append(data["context"])
        return {name: values.astype(np.float16) for name, values in self.evaluate(data).items()}


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> type[EvaluatedModel]:
    """Let the backend believe that it is on macOS 15, with the evaluator in Core ML's place."""
    units = {name: name for name in ("CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY", "ALL")}
    tools = SimpleNamespace(models=SimpleNamespace(CompiledMLModel=EvaluatedModel), ComputeUnit=units)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(backend_module, "import_coremltools", lambda: tools)
    monkeypatch.setattr(backend_module, "compile_package", lambda package: package)
    EvaluatedModel.seen, EvaluatedModel.units = [], []
    return EvaluatedModel


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 11])
def test_any_number_of_rows_is_answered_in_order(source: Source, on_a_mac: type[EvaluatedModel], rows: int) -> None:
    backend = CoreMLBackend(package_of(source))
    contexts = random_contexts(rows, 5, DIM, seed=rows)
    predictions, attention = any_batch(backend).run_with_attention(contexts)
    expected, expected_attention = known_answers(source.model, contexts)
    assert predictions.dtype == np.float32
    assert np.abs(predictions - expected).max() <= 2e-3
    assert expected_attention is not None
    assert np.abs(attention - expected_attention).max() <= 2e-3
    assert (backend.device, backend.precision, backend.batch_sizes) == ("ane", "fp16", (1, 4))
    assert {len(batch) for batch in on_a_mac.seen} <= {1, 4}


def test_inputs_live_as_long_as_the_backend(source: Source, on_a_mac: type[EvaluatedModel]) -> None:
    backend = CoreMLBackend(package_of(source))
    first = backend.run(random_contexts(4, 5, DIM, seed=1))
    backend.run(random_contexts(4, 5, DIM, seed=2))
    assert len({id(array) for array in on_a_mac.seen}) == 1
    assert np.array_equal(first, backend.run(random_contexts(4, 5, DIM, seed=1)))


@pytest.mark.parametrize(
    ("device", "units"), [("ane", "CPU_AND_NE"), ("gpu", "CPU_AND_GPU"), ("cpu", "CPU_ONLY"), ("all", "ALL")]
)
def test_core_ml_is_asked_for_the_device(
    source: Source, on_a_mac: type[EvaluatedModel], device: str, units: str
) -> None:
    CoreMLBackend(package_of(source), device=device).run(random_contexts(1, 5, DIM))
    assert on_a_mac.units == [units]


OPTIONS: dict[str, tuple[dict[str, Any], type[LvmError], str]] = {
    "device": ({"device": "cuda"}, BackendUnavailable, "no device 'cuda'; it has ane, gpu, cpu, all"),
    "threads": ({"threads": 2}, BackendUnavailable, "chooses its threads itself, and 2 were asked for"),
    "precision": (
        {"precision": "int8"},
        ArtifactError,
        "says that it is fp16, and it is listed or was asked for as int8",
    ),
}


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_options_that_cannot_be_honoured_are_refused(
    source: Source, on_a_mac: type[EvaluatedModel], options: dict[str, Any], error: type[LvmError], message: str
) -> None:
    with pytest.raises(error, match=message):
        CoreMLBackend(package_of(source), **options)


def test_an_old_system_is_refused(
    source: Source, on_a_mac: type[EvaluatedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "mac_ver", lambda: ("14.5", ("", "", ""), "arm64"))
    with pytest.raises(BackendUnavailable, match=r"needs macOS 15 or later, and this is 14\.5; .*--shapes enumerated"):
        CoreMLBackend(package_of(source))


@pytest.mark.skipif(platform.system() == "Darwin", reason="says what happens elsewhere")
def test_elsewhere_the_error_names_the_system(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackendUnavailable, match="macOS only, and this is"):
        CoreMLBackend(package_of(source))
    assert main(["placement", str(package_of(source))]) == 1
    assert "runs on macOS only" in capsys.readouterr().err
    with pytest.raises(BackendUnavailable):
        require_macos("this")


@pytest.mark.coreml
@pytest.mark.parametrize("device", ["cpu", "gpu", "ane", "all"])
def test_core_ml_gives_the_known_answers(source: Source, device: str) -> None:
    backend = CoreMLBackend(package_of(source), device=device)
    contexts = random_contexts(6, 5, DIM)
    expected, _ = known_answers(source.model, contexts)
    assert np.abs(any_batch(backend).run(contexts) - expected).max() <= 4e-3
    backend.close()


@pytest.mark.coreml
def test_placement_is_reported_on_a_mac(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["placement", str(package_of(source)), "--device", "cpu"]) == 0
    assert "batch1: " in capsys.readouterr().out


def test_ctrl_c_is_not_lost_while_coremltools_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """coremltools probes for a dozen libraries, each in a `try` that excepts everything."""
    source = "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept:\n    pass\nwhole = True\n"
    (tmp_path / "coremltools.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    del sys.modules["coremltools"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            package_module.import_coremltools()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert package_module.import_coremltools().whole
    finally:
        signal.signal(signal.SIGINT, before)


def test_package_says_its_functions(source: Source, tmp_path: Path) -> None:
    package = read_package(package_of(source))
    assert package.functions == {1: "batch1", 4: "batch4"}
    assert package.multifunction
    assert package.device == "ane"
    with pytest.raises(ArtifactError, match=r"no usable 'lvm.functions' \(found None\)"):
        read_functions({}, tmp_path)
    with pytest.raises(ArtifactError, match="not there"):
        read_package(tmp_path / "none.mlpackage")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], None]:
    """Point the cache at a fresh folder; returns a compiler that copies a file."""
    monkeypatch.setenv("LVM_CACHE", str(tmp_path / "cache"))

    def compile(package: Path, destination: Path) -> None:
        destination.mkdir()
        (destination / "model").write_bytes((package / "model").read_bytes())

    return compile


def test_cache_compiles_once_per_content_and_version(cache: Callable[[Path, Path], None], tmp_path: Path) -> None:
    package = tmp_path / "some.mlpackage"
    package.mkdir()
    (package / "model").write_bytes(b"one")
    first = coreml_cache.compiled_model(package, cache, versions="macOS 15")

    def never(package: Path, destination: Path) -> None:
        raise AssertionError("compiled twice")

    assert coreml_cache.compiled_model(package, never, versions="macOS 15") == first
    assert coreml_cache.compiled_model(package, cache, versions="macOS 16") != first
    (package / "model").write_bytes(b"two")
    changed = coreml_cache.compiled_model(package, cache, versions="macOS 15")
    assert (changed / "model").read_bytes() == b"two"
    assert (first / "model").read_bytes() == b"one"
    assert len(coreml_cache.list_entries()) == 3


@pytest.mark.parametrize("note", [b"", b"[]", b"{}", b"\xff"], ids=["empty", "list", "no source", "no text"])
def test_an_entry_with_a_damaged_note_is_listed_and_cleared(
    cache: Callable[[Path, Path], None], tmp_path: Path, note: bytes
) -> None:
    package = tmp_path / "some.mlpackage"
    package.mkdir()
    (package / "model").write_bytes(b"one")
    entry = coreml_cache.compiled_model(package, cache, versions="").parent
    (entry / "entry.json").write_bytes(note)
    assert [found.source for found in coreml_cache.list_entries()] == ["its note cannot be read"]
    assert [found.path for found in coreml_cache.clear()] == [entry]
    assert not entry.exists()


def test_interrupted_compilation_leaves_no_entry(cache: Callable[[Path, Path], None], tmp_path: Path) -> None:
    package = tmp_path / "some.mlpackage"
    package.mkdir()
    (package / "model").write_bytes(b"one")

    def stopped(package: Path, destination: Path) -> None:
        destination.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coreml_cache.compiled_model(package, stopped, versions="")
    assert coreml_cache.list_entries() == []
    assert (coreml_cache.compiled_model(package, cache, versions="") / "model").read_bytes() == b"one"


@pytest.mark.parametrize("where", ["read-only", "a file", "no home", "full"])
def test_without_a_cache_folder_a_package_is_compiled_for_this_process(
    source: Source, on_a_mac: type[EvaluatedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    full, compiled = OSError(errno.ENOSPC, "No space left on device"), []
    monkeypatch.setenv("LVM_CACHE", "/proc/cannot-write")  # root may write anywhere else
    if where in ("a file", "full"):
        monkeypatch.setenv("LVM_CACHE", str(tmp_path / "cache"))
    if where == "a file":
        (tmp_path / "cache").write_text("not a folder")
    if where == "no home":
        monkeypatch.setattr(coreml_cache, "cache_folder", lambda: None)

    def compile_model(package: str, destination: str) -> None:
        if where == "full" and str(tmp_path) in destination:
            raise full
        shutil.copytree(package, destination)
        compiled.append(Path(destination))

    _compile_with(monkeypatch, compile_model)
    backend = CoreMLBackend(package_of(source))
    assert backend.run(random_contexts(1, 5, DIM)).shape == (1, DIM)
    assert len(compiled) == 1
    assert coreml_cache.list_entries() == []
    assert where != "full" or list((tmp_path / "cache/coreml").iterdir()) == []


ALONE = """
import shutil, sys
from pathlib import Path
from lvm_runtime.coreml.cache import compiled_model
package, = map(Path, sys.argv[1:])
print(compiled_model(package, shutil.copytree, versions=""), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills as on POSIX")
def test_what_a_killed_process_compiled_for_itself_is_removed_by_the_next(tmp_path: Path) -> None:
    package, temporary = tmp_path / "model.mlpackage", tmp_path / "tmp"
    for folder in (package, temporary):
        folder.mkdir()
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    places = {"LVM_CACHE": "/proc/cannot-write", "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-c", ALONE, str(package)], env=os.environ | places, **pipes) as process:
        compiled = Path(process.stdout.readline().decode().strip())
        process.kill()
    assert compiled.is_relative_to(temporary)
    assert compiled.is_dir()
    with atomic.scratch(temporary) as holder:
        assert list(temporary.iterdir()) == [holder]


def _compile_with(monkeypatch: pytest.MonkeyPatch, compile_model: Callable[[str, str], None]) -> None:
    """Let `compile_model` stand in for that of coremltools."""
    tools = SimpleNamespace(utils=package_module.import_coremltools().utils, __version__="9.0")
    tools.models = SimpleNamespace(utils=SimpleNamespace(compile_model=compile_model))
    monkeypatch.setattr(package_module, "import_coremltools", lambda: tools)
    monkeypatch.setattr(backend_module, "compile_package", compile_package)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), WriteFailed, r"neither to the cache .*\(No space left"),
        (RuntimeError("Error compiling\n model"), ArtifactError, "Core ML cannot compile it: Error compiling model"),
    ],
    ids=["full everywhere", "not to be compiled"],
)
def test_a_package_that_cannot_be_compiled_is_one_line(
    source: Source,
    on_a_mac: type[EvaluatedModel],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: type[LvmError],
    message: str,
) -> None:
    def compile_model(package: str, destination: str) -> None:
        raise error

    _compile_with(monkeypatch, compile_model)
    with pytest.raises(expected, match=message) as raised:
        CoreMLBackend(package_of(source))
    assert "\n" not in str(raised.value)


def test_cache_command_lists_and_clears(
    cache: Callable[[Path, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "some.mlpackage"
    package.mkdir()
    (package / "model").write_bytes(b"one")
    compiled = coreml_cache.compiled_model(package, cache, versions="")
    assert main(["cache"]) == 0
    printed = capsys.readouterr().out
    assert str(package) in printed
    assert "1 compiled Core ML model," in printed
    assert main(["cache", "--clear"]) == 0
    assert not compiled.exists()
    assert "0 compiled Core ML models" in capsys.readouterr().out
