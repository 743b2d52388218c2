"""Probes and their file."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest

from lvm_runtime.artifact.fingerprint import Fingerprint, probe_contexts, random_contexts
from lvm_runtime.errors import ArtifactError, InvalidInput


@pytest.mark.parametrize("attention", [None, np.full((16, 5), 0.2)], ids=["without attention", "with attention"])
def test_reads_what_it_writes(attention: Any) -> None:
    contexts = probe_contexts(8, 5)
    written = Fingerprint(contexts, np.ones((16, 8)), attention)
    read = Fingerprint.from_bytes(written.to_bytes(), "f")
    np.testing.assert_array_equal(read.contexts, written.contexts)
    assert read.contexts.flags.writeable
    np.testing.assert_array_equal(read.predictions, written.predictions)
    assert (read.attention is None) == (attention is None)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x93NUMPY"], ids=["empty", "cut zip", "cut npy"])
def test_what_is_no_fingerprint_is_an_error_that_names_the_file(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"f\.npz: not a fingerprint"):
        Fingerprint.from_bytes(data, "f.npz")


def _archive(*, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def _array(shape: str, descr: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


FILE = Fingerprint(np.ones((1, 1, 1), np.float32), np.ones((1, 1))).to_bytes()
BROKEN = {
    "a bomb": (_archive(contexts=bytes(50_000_000), compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "a header of 10^9 rows": (_archive(contexts=_array("(999999999, 5, 8)")), "and 0 bytes"),
    "a shape of 20 digits": (_archive(contexts=_array("(99999999999999999999, 5)")), "does not begin like"),
    "nested parentheses": (_archive(contexts=_array("(" * 3000 + ")" * 3000)), "does not begin like"),
    "objects": (_archive(contexts=_array("(1, 5, 8)", "|O")), "does not begin like"),
    "another type": (_archive(contexts=_array("(1, 1, 1)", "<f8", bytes(8))), "holds <f8"),
    "another part": (_archive(more=_array("(1, 1)", "<f8", bytes(8))), "holds <f8"),
    "many parts": (_archive(**{str(i): b"" for i in range(1000)}), "it has 1000 parts"),
    "a comment": (FILE + b"!", "does not end like"),
    "a second directory": (FILE[:-22] + b"PK\x06\x07" + bytes(16) + FILE[-22:], "does not end like"),
    "a long list of three parts": (
        _archive(**{name + "x" * 400: b"" for name in ("a", "b", "c")}),
        "it has 3 parts",
    ),
    "more bytes than its shape": (_archive(contexts=_array("(1, 1, 1)", data=bytes(8))), r"\(1, 1, 1\), and 8 bytes"),
    "no contexts": (_archive(predictions=_array("(1, 1)", "<f8", bytes(8))), "it has predictions"),
    "no predictions": (_archive(contexts=_array("(1, 1, 1)", data=bytes(4))), "it has contexts"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_what_would_take_memory_or_run_code_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=f"f: not a fingerprint .*{message}"):
        Fingerprint.from_bytes(data, "f")


def test_probes_are_some_and_finite() -> None:
    for count in (0, 257):
        with pytest.raises(InvalidInput, match=f"{count} probes, expected 1 to 256"):
            Fingerprint(np.zeros((count, 5, 8), np.float32), np.zeros((count, 8)))
    for count in (1, 256):
        Fingerprint(np.zeros((count, 5, 8), np.float32), np.zeros((count, 8)), np.zeros((count, 5)))
    for name in ("contexts", "predictions", "attention"):
        arrays = {"contexts": np.zeros((2, 5, 8), np.float32), "predictions": np.zeros((2, 8))}
        arrays["attention"] = np.zeros((2, 5))
        arrays[name].flat[3] = np.nan if name == "predictions" else np.inf
        with pytest.raises(InvalidInput, match=f"{name} hold a NaN or an infinity"):
            Fingerprint(**arrays)


def test_shapes_must_fit() -> None:
    with pytest.raises(InvalidInput, match="do not fit"):
        Fingerprint(np.zeros((2, 5, 8), np.float32), np.zeros((2, 7)))
    with pytest.raises(InvalidInput, match="do not fit"):
        Fingerprint(np.zeros((2, 5, 8, 1), np.float32), np.zeros((2, 8)))
    with pytest.raises(InvalidInput, match="attention"):
        Fingerprint(np.zeros((2, 5, 8), np.float32), np.zeros((2, 8)), np.zeros((2, 4)))


def test_probes_are_unit_vectors_that_share_a_direction_and_repeat() -> None:
    probes = probe_contexts(64, 5)
    np.testing.assert_allclose(np.linalg.norm(probes, axis=2), 1, atol=1e-6)
    assert np.linalg.norm(probes.reshape(-1, 64).mean(0)) > 0.4
    np.testing.assert_array_equal(probes, probe_contexts(64, 5))


def test_another_seed_is_another_draw() -> None:
    first = random_contexts(16, 5, 8)
    np.testing.assert_array_equal(first, random_contexts(16, 5, 8, seed=0))
    np.testing.assert_array_equal(first, probe_contexts(8, 5))
    assert np.abs(first - random_contexts(16, 5, 8, seed=7)).max() > 0.1


def test_contexts_of_a_probe_share_a_topic_that_others_do_not() -> None:
    """Of variances 1, 1 and 1 of direction, topic and noise: cosines of 2/3 within a context, and 1/3 elsewhere."""
    probes = random_contexts(16, 5, 768)
    assert np.einsum("nd,nd->n", probes[:, 0], probes[:, 4]) == pytest.approx(2 / 3, abs=0.15)
    assert np.einsum("nd,nd->n", probes[1:, 0], probes[:-1, 0]) == pytest.approx(1 / 3, abs=0.15)


def test_real_contexts_join_spread_over_the_data() -> None:
    real = np.arange(100, dtype=np.float32)[:, None, None] * np.ones((1, 5, 8), np.float32)
    probes = probe_contexts(8, 5, real)
    assert len(probes) == 32
    assert probes.dtype == np.float32
    assert (probes[16, 0, 0], probes[17, 0, 0], probes[-1, 0, 0]) == (0, 6, 99)
    np.testing.assert_array_equal(Fingerprint(probes, np.ones((32, 8))).real, probes[16:])
    np.testing.assert_array_equal(probe_contexts(8, 5, real[:3])[16:], real[:3])
    assert len(probe_contexts(8, 5, real[:0])) == 16
    with pytest.raises(InvalidInput, match="expected"):
        probe_contexts(8, 4, real)
