"""TorchScript files: those of this project load as they are, and those that reach out are refused before they run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export.forms import build_form
from export.torchscript import trace_form
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.backends.torchscript import TorchScriptBackend
from lvm_runtime.backends.torchscript_file import OPERATORS, checked_module
from lvm_runtime.errors import ArtifactError
from tests.artifacts import randomised, some_contexts

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")  # torch deprecates TorchScript


class _Writes(nn.Module):
    def forward(self, context: torch.Tensor) -> torch.Tensor:
        y = torch.from_file("TARGET", True, 8, dtype=torch.float32)
        return context.mean(1) + y.sum()


class _Saves(nn.Module):
    def forward(self, context: torch.Tensor) -> torch.Tensor:
        torch.save(context, "TARGET")
        return context.mean(1)


class _WritesWhenLoaded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> int:
        return 1

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        torch.from_file("TARGET", True, 8, dtype=torch.float32)
        self.training = False

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        return context.mean(1)


class _NeverEnds(nn.Module):
    def forward(self, context: torch.Tensor) -> torch.Tensor:
        while bool(context.sum() > -1e30):
            context = context + 1
        return context.mean(1)


class _Prints(nn.Module):
    def forward(self, context: torch.Tensor) -> torch.Tensor:
        print("hello")
        return context.mean(1)


ATTACKS: dict[str, tuple[type[nn.Module], str]] = {
    "writes a file": (_Writes, "(names|calls) torch.from_file"),
    "saves a tensor": (_Saves, "torch.save|aten.save|has|calls"),
    "runs when it is loaded": (_WritesWhenLoaded, "defines __"),
    "never ends": (_NeverEnds, "has While"),
    "prints": (_Prints, "has Expr"),
}


@pytest.mark.parametrize(("attack", "message"), ATTACKS.values(), ids=ATTACKS.keys())
def test_code_that_reaches_out_is_refused_before_it_runs(
    attack: type[nn.Module], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(attack()).save("attack.pt")
    with pytest.raises(ArtifactError, match=f"attack.pt: not a TorchScript file of this project: .*({message})"):
        TorchScriptBackend(Path("attack.pt"))
    assert not Path("TARGET").exists()


def _rewrite(source: Path, change: Callable[[str, bytes], bytes], target: Path, **extra: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for part in old.infolist():
            new.writestr(part.filename, change(part.filename, old.read(part)), zipfile.ZIP_DEFLATED)
        for name, data in extra.items():
            new.writestr(name, data)
    return target


def _in_code(old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
    return lambda name, data: data.replace(old, new) if name.endswith(".py") else data


def _in_another_coding(name: str, data: bytes) -> bytes:
    """Add a line that is the rest of a comment in this coding, in which a backslash goes on with the next line."""
    head, line, rest = data.rpartition(b"    return ")
    hidden = b'# \\\n    hidden = torch.from_file("TARGET", True, 8, dtype=6)\n'
    return b"# coding: unicode_escape\n" + head + hidden + line + rest if line else data


CODE: dict[str, tuple[Callable[[str, bytes], bytes], str]] = {
    "another operator": (_in_code(b"torch.reshape(", b"torch.bernoulli("), "calls torch.bernoulli"),
    "an operator by another name": (_in_code(b"torch.reshape(", b"ops.aten.reshape("), "calls ops.aten.reshape"),
    "code in another coding": (_in_another_coding, "torch.from_file"),
    "no ASCII": (_in_code(b"torch.reshape", "tor\u00e7h.reshape".encode()), "cannot be parsed .*ascii"),
    "a method of a tensor": (_in_code(b"torch.reshape(context", b"context.record_stream(context"), "calls context.rec"),
    "a class outside": (_in_code(b"torch.reshape", b"__torch__.torch.classes.c.C.forward"), "classes"),
    "nested code": (_in_code(b"[-1, 16]", b"(" * 5000 + b")" * 5000), "cannot be parsed"),
    "a long expression": (_in_code(b"[-1, 16]", b"-" * 200_000 + b"1"), "cannot be parsed"),
    "binary": (_in_code(b"torch.reshape", b"\0"), "cannot be parsed|null"),
    "much code": (_in_code(b"torch.reshape", b" " * (5 << 20)), "more than 4,194,304 bytes"),
}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deployment form of an LSTM, traced."""
    path = tmp_path_factory.mktemp("traced") / "fp32.pt"
    trace_form(build_form(randomised("lstm")), path)
    return path


@pytest.mark.parametrize(("change", "message"), CODE.values(), ids=CODE.keys())
def test_changed_code_is_refused(
    change: Callable[[str, bytes], bytes], message: str, traced: Path, tmp_path: Path
) -> None:
    file = _rewrite(traced, change, tmp_path / "changed.pt")
    with pytest.raises(ArtifactError, match=message):
        TorchScriptBackend(file)


def test_a_pickle_with_other_classes_is_refused(traced: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        return data.replace(b"ctorch._utils", b"cposix\nsystem") if name.endswith("data.pkl") else data

    with pytest.raises(ArtifactError, match=r"data\.pkl names 'posix system"):
        checked_module(_rewrite(traced, change, tmp_path / "changed.pt"))


def test_an_unknown_or_repeated_part_is_refused(traced: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has a part 'fp32/extra'"):
        checked_module(_rewrite(traced, lambda name, data: data, tmp_path / "a.pt", **{"fp32/extra": b""}))
    with pytest.raises(ArtifactError, match=r"has a part 'other/data\.pkl'"):
        checked_module(_rewrite(traced, lambda name, data: data, tmp_path / "b.pt", **{"other/data.pkl": b""}))


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"pickle"], ids=["empty", "cut", "no zip"])
def test_what_is_no_torchscript_file_is_an_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.pt").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"f\.pt: not a TorchScript file"):
        TorchScriptBackend(tmp_path / "f.pt")


@pytest.mark.filterwarnings("ignore")
def test_the_forms_load_as_they_are_and_use_every_operator(tmp_path: Path) -> None:
    used = set()
    contexts = torch.from_numpy(some_contexts(3))
    for architecture in ARCHITECTURES:
        form, training_form = tmp_path / f"{architecture}.pt", tmp_path / f"{architecture}-training.pt"
        trace_form(build_form(randomised(architecture)), form)
        with torch.no_grad():
            torch.jit.save(torch.jit.trace(randomised(architecture), contexts), training_form)
        for file in (form, training_form):
            checked = checked_module(file)
            used |= {name for name in OPERATORS if name.encode() + b"(" in checked.getvalue()}
            there, here = torch.jit.load(str(file))(contexts), torch.jit.load(io.BytesIO(checked.getvalue()))(contexts)
            torch.testing.assert_close(_first(here), _first(there), rtol=0, atol=0)
    assert sorted(OPERATORS - used) == []


def _first(outputs: Any) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs
