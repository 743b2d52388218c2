"""Huge pages: what is allocated inside moves there unchanged, what others hold stays, and models' weights lie there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.native.export import export_native
from export.randomise import randomise
from export.source import Source
from export.verify import make_samples
from lvm_runtime.artifact.config import make_config
from lvm_runtime.models import build_model, save_model
from lvm_runtime.system import pages
from lvm_runtime.system.pages import huge_pages
from tests.artifacts import add_onnx
from tests.memory import MEGABYTE, in_huge_pages

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not pages._allowed(), reason="this system has no huge pages to ask for"
)


def filled(megabytes: int) -> bytearray:
    return bytearray(b"\x07") * (megabytes * MEGABYTE)


@linux
def test_what_is_allocated_inside_moves_and_what_was_there_stays() -> None:
    others = filled(48)
    before = in_huge_pages()
    with huge_pages():
        mine = filled(16)
    assert 12 <= in_huge_pages() - before <= 20
    assert mine == others[: len(mine)]


@linux
def test_an_error_inside_comes_out() -> None:
    with pytest.raises(ZeroDivisionError), huge_pages():
        _ = 1 / 0


@pytest.mark.parametrize("lacking", ["enabled", "maps", "never"])
def test_nothing_is_asked_for_where_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacking: str
) -> None:
    (tmp_path / "maps").touch()
    (tmp_path / "enabled").write_text("always madvise [never]\n" if lacking == "never" else "always [madvise] never\n")
    (tmp_path / lacking).unlink(missing_ok=True)
    monkeypatch.setattr(pages, "_ENABLED", tmp_path / "enabled")
    monkeypatch.setattr(pages, "_MAPS", tmp_path / "maps")
    monkeypatch.setattr(pages, "_madvise", lambda: pytest.fail("asked for huge pages"))
    pages._allowed.cache_clear()
    try:
        with huge_pages():
            assert len(filled(8)) == 8 * MEGABYTE
    finally:
        pages._allowed.cache_clear()


Ranges = st.lists(st.integers(0, 60), unique=True, max_size=12).map(
    lambda ends: list(zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False))
)


@given(Ranges, Ranges)
def test_the_parts_that_are_new_are_those_that_were_not_there(
    now: list[pages.Range], before: list[pages.Range]
) -> None:
    def bytes_of(ranges: list[pages.Range]) -> list[int]:
        return [byte for start, stop in ranges for byte in range(start, stop)]

    known = set(bytes_of(before))
    assert bytes_of(list(pages._without(now, before))) == [byte for byte in bytes_of(now) if byte not in known]


@linux
@pytest.mark.parametrize("backend", ["onnx", "native"])
def test_the_weights_of_a_model_lie_in_huge_pages(tmp_path: Path, backend: str) -> None:
    """In a process that serves: here a library may get memory that another one gave back, in small pages.

    A published AMN has 6 MB of weights in fp32. In int8 it has 1.5, which fill one page.
    """
    if backend == "native":
        pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
    model = randomise(build_model(make_config("amn")), seed=0)
    artifact = save_model(model, tmp_path / "amn")
    if backend == "native":
        source = Source(artifact, model)
        export_native(source, make_samples(source))
    else:
        add_onnx(artifact, model)
    file = artifact.path / "native/int8.safetensors"
    make = {
        "onnx": f"import lvm_runtime; made = lvm_runtime.Predictor({str(artifact.path)!r}, backend='onnx', threads=1)",
        "native": f"import lvm_runtime.native._engine as e; made = e.Engine(open({str(file)!r}, 'rb').read())",
    }
    code = f"""
from tests.memory import in_huge_pages
before = in_huge_pages()
{make[backend]}
print(in_huge_pages() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert float(done.stdout) >= {"onnx": 4, "native": 2}[backend]
