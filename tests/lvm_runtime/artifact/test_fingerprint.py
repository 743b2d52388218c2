"""Probes and their file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lvm_runtime.artifact.fingerprint import Fingerprint, probe_contexts
from lvm_runtime.errors import ArtifactError, InvalidInput


@pytest.mark.parametrize("attention", [None, np.full((16, 5), 0.2)], ids=["without attention", "with attention"])
def test_reads_what_it_writes(attention: Any) -> None:
    contexts = probe_contexts(8, 5)
    written = Fingerprint(contexts, np.ones((16, 8)), attention)
    read = Fingerprint.from_bytes(written.to_bytes(), "f")
    np.testing.assert_array_equal(read.contexts, written.contexts)
    np.testing.assert_array_equal(read.predictions, written.predictions)
    assert (read.attention is None) == (attention is None)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x93NUMPY"], ids=["empty", "cut zip", "cut npy"])
def test_what_is_no_fingerprint_is_an_error_that_names_the_file(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"f\.npz: not a fingerprint"):
        Fingerprint.from_bytes(data, "f.npz")


def test_shapes_must_fit() -> None:
    with pytest.raises(InvalidInput, match="do not fit"):
        Fingerprint(np.zeros((2, 5, 8), np.float32), np.zeros((2, 7)))
    with pytest.raises(InvalidInput, match="attention"):
        Fingerprint(np.zeros((2, 5, 8), np.float32), np.zeros((2, 8)), np.zeros((2, 4)))


def test_probes_are_unit_vectors_that_share_a_direction_and_repeat() -> None:
    probes = probe_contexts(64, 5)
    np.testing.assert_allclose(np.linalg.norm(probes, axis=2), 1, atol=1e-6)
    assert np.linalg.norm(probes.reshape(-1, 64).mean(0)) > 0.4
    np.testing.assert_array_equal(probes, probe_contexts(64, 5))


def test_real_contexts_join_spread_over_the_data() -> None:
    real = np.arange(100, dtype=np.float32)[:, None, None] * np.ones((1, 5, 8), np.float32)
    probes = probe_contexts(8, 5, real)
    assert len(probes) == 32
    assert (probes[16, 0, 0], probes[-1, 0, 0]) == (0, 99)
    with pytest.raises(InvalidInput, match="expected"):
        probe_contexts(8, 4, real)
