"""What is no corpus is one line that says what came and what was expected, whoever reads it."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_runtime.corpus import parquet
from lvm_runtime.corpus.corpus import joined, open_corpus
from lvm_runtime.corpus.formats import count_rows
from lvm_runtime.corpus.parquet import ParquetFile
from lvm_runtime.errors import BackendUnavailable, InvalidInput

VECTORS = np.random.default_rng(0).standard_normal((120, 4)).astype(np.float32)
IDS = np.repeat([0, 1], 60)
ROWS: list[Any] = VECTORS.tolist()
NULL_ROW = [*ROWS[:100], None, *ROWS[101:]]
NULL_NUMBER = [*ROWS[:100], [1.0, None, 1.0, 1.0], *ROWS[101:]]
RAGGED = [*ROWS[:100], [1.0, 2.0], *ROWS[101:]]
OBJECTS = np.empty(120, object)
OBJECTS[:] = ROWS
TENSOR = pa.fixed_shape_tensor(pa.float32(), [4])

NPZ: dict[str, tuple[dict[str, Any], str]] = {
    "keys": ({"data": VECTORS}, "holds data, expected vectors and doc_ids"),
    "control characters": ({"\x1b[31m": VECTORS}, r"holds '\\x1b\[31m', expected"),
    "two spellings": ({"vector": VECTORS, "vectors": VECTORS}, "holds vector, vectors; expected one of them"),
    "rank": ({"vectors": VECTORS[0], "doc_ids": IDS}, r"shape \[4\], expected contexts \[N, 5, D\] or vectors"),
    "ids of another length": ({"vectors": VECTORS, "doc_ids": IDS[:3]}, r"doc_ids have shape \[3\], expected \[120\]"),
    "integers": ({"vectors": VECTORS.astype(int), "doc_ids": IDS}, "dtype int64, expected float16"),
    "long doubles": ({"vectors": VECTORS.astype(np.longdouble)}, "dtype .*, expected float16, float32 or float64"),
    "complex": ({"vectors": VECTORS.astype(complex)}, "dtype complex128, expected float16"),
    "strings": ({"vectors": np.array([["a"]])}, "dtype <U1, expected float16"),
    "objects": ({"vectors": OBJECTS, "doc_ids": IDS}, "vectors is an object array.*--trust-pickle"),
    "Fortran order": ({"vectors": np.asfortranarray(VECTORS)}, "Fortran order, expected C order"),
    "float ids": ({"vectors": VECTORS, "doc_ids": IDS * 1.0}, "doc_ids are float64, expected integers or strings"),
    "ids that are no text": (
        {"vectors": VECTORS, "doc_ids": np.full(120, 2**31 - 1, "u4").view("U1")},
        "what is no text",
    ),
    "object ids": ({"vectors": VECTORS, "doc_ids": IDS.astype(object)}, "doc_ids is an object array"),
    "returning ids": ({"vectors": VECTORS, "doc_ids": np.roll(IDS, 3)}, "document 1 comes back at row 63"),
    "returning ids that are long": (
        {"vectors": VECTORS, "doc_ids": np.array(["a" * 500, "b" * 500])[np.arange(len(VECTORS)) % 2]},
        "document 'a{98} comes back at row 2",
    ),
    "returning strings": (
        {"vectors": VECTORS, "doc_ids": np.roll(np.where(IDS, "b\x07", "a"), 3)},
        r"document 'b\\x07' comes back at row 63",
    ),
    "no targets": ({"contexts": np.ones((2, 5, 4))}, r"contexts \[2, 5, 4\] and no targets; expected targets \[2, 4\]"),
    "other targets": ({"contexts": np.ones((2, 5, 4)), "targets": np.ones((2, 3))}, r"targets \[2, 3\]; expected"),
    "metadata": (
        {"contexts": np.ones((2, 5, 4)), "targets": np.ones((2, 4)), "metadata": np.array(['{"article_index": 1}'])},
        "metadata has 1 entry for 2 contexts",
    ),
}
NULL_OF_A_SIZE = "row 100 is null in column vectors"
if int(pa.__version__.split(".")[0]) < 26:  # whose own reader stops there
    NULL_OF_A_SIZE = "column vectors cannot be read from row 0 on"
PARQUET: dict[str, tuple[dict[str, Any], str]] = {
    "columns": ({"a": ROWS, "b": ROWS}, "columns a, b; expected lists named vectors or contexts"),
    "null row": ({"vectors": pa.array(NULL_ROW, pa.list_(pa.float32(), 4))}, NULL_OF_A_SIZE),
    "null row of a list": ({"vectors": NULL_ROW}, "row 100 is null in column vectors"),
    "null number": ({"vectors": NULL_NUMBER}, "row 100 is null in column vectors"),
    "null in a fixed-size list": ({"vectors": pa.array(NULL_NUMBER, pa.list_(pa.float32(), 4))}, "row 100 is null"),
    "null in a tensor": (
        {"vectors": pa.ExtensionArray.from_storage(TENSOR, pa.array(NULL_NUMBER, TENSOR.storage_type))},
        "row 100 is null",
    ),
    "empty lists": (
        {"vectors": pa.array([[]] * 9, pa.list_(pa.float32()))},
        "row 0 of column vectors is an empty list",
    ),
    "empty lists of lists": ({"contexts": pa.array([[]] * 9, pa.list_(pa.list_(pa.float32())))}, "row 0 .*empty list"),
    "ragged": ({"vectors": RAGGED}, "row 100 of column vectors holds 2 numbers and the rows before it 4"),
    "integers": ({"vectors": pa.array([[1, 2]] * 9)}, "column vectors holds int64, expected lists of float16"),
    "strings": ({"vectors": pa.array([["a"]])}, "column vectors holds string, expected lists of float16"),
    "numbers": ({"vectors": pa.array([1.0])}, "columns vectors; expected lists"),
    "null id": ({"vectors": ROWS, "doc_ids": pa.array([*IDS[:100].tolist(), None, *IDS[101:].tolist()])}, "row 100 is"),
    "float ids": ({"vectors": ROWS, "doc_ids": IDS * 1.0}, "doc_ids holds double, expected integers or strings"),
    "returning ids": ({"vectors": ROWS, "doc_ids": pa.array(["a", "b"] * 60)}, "document 'a' comes back at row 2"),
}


def _refuse(path: Path, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        joined(open_corpus(path, context_length=5))
    assert path.stem in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("arrays", "message"), NPZ.values(), ids=NPZ.keys())
def test_npz(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    _refuse(tmp_path / "bad.npz", message)


@pytest.mark.parametrize(("columns", "message"), PARQUET.values(), ids=PARQUET.keys())
def test_parquet(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "bad.parquet", row_group_size=50)
    _refuse(tmp_path / "bad.parquet", message)


def test_a_column_that_is_shorter_than_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"vectors": ROWS, "doc_ids": IDS}), tmp_path / "bad.parquet")
    opened = ParquetFile.__init__

    def open_longer(self: Any, path: Path, scratch: Path | None = None, rows: range | None = None) -> None:
        opened(self, path, scratch, rows)
        self._span = rows or range(self._rows + 1)  # as a damaged footer says

    monkeypatch.setattr(ParquetFile, "__init__", open_longer)
    _refuse(tmp_path / "bad.parquet", "column vectors holds 120 rows, expected 121")


def test_ragged_rows_in_another_batch(tmp_path: Path) -> None:
    pq.write_table(pa.table({"vectors": [[1.0, 2.0]] * 600 + [[1.0]] * 600}), tmp_path / "bad.parquet")
    _refuse(tmp_path / "bad.parquet", "row 600 of column vectors holds 1 number and the rows before it 2")


def test_the_first_bad_row_is_named_whichever_thread_meets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = [[1.0, 2.0]] * 900
    rows[700], rows[450] = [1.0], None
    pq.write_table(pa.table({"vectors": rows}), tmp_path / "bad.parquet", row_group_size=100)
    monkeypatch.setattr(parquet, "usable_cpus", lambda: 3)  # rows 0, 300 and 600 on
    _refuse(tmp_path / "bad.parquet", "row 450 is null")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("bad.npz", lambda path: None, "no such file"),
        ("bad.npy", lambda path: path.mkdir(), "is a folder, expected a file"),
        ("bad.npz", os.mkfifo, "is a pipe, expected a file"),
        ("bad.parquet", os.mkfifo, "is a pipe, expected a file"),
        ("bad" * 100 + ".npy", lambda path: None, "cannot be read"),
        ("bad\0.npy", lambda path: None, "no name of a file"),
        ("bad", lambda path: path.mkdir(), r"is a folder, expected a file that ends in \.npy"),
        ("bad.csv", lambda path: path.write_text("1"), r"unknown kind of file '\.csv'"),
        ("bad.npy", lambda path: np.save(path, OBJECTS), "dtype object, expected numbers"),
        ("bad.npy", lambda path: np.save(path, np.float32(3)), r"array of shape \[\], expected contexts"),
        ("bad.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x04\x00{1: "), "not a .npy file"),
        ("bad.npy", lambda path: path.write_bytes(_header("(-3, 4)")), r"not a .npy file \(shape \[-3, 4\]\)"),
        ("bad.npy", lambda path: path.write_bytes(_header("(10**9, 4)".replace("10**9", str(10**9)))), "truncated"),
    ],
    ids=[
        "none",
        "folder",
        "pipe",
        "pipe.parquet",
        "long",
        "NUL",
        "folder without suffix",
        "suffix",
        "objects",
        "scalar",
        "header",
        "negative",
        "rows",
    ],
)
def test_what_is_no_file_of_a_corpus(tmp_path: Path, name: str, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / name)
    with pytest.raises(InvalidInput, match=message):
        open_corpus(tmp_path / name, context_length=5)


def test_a_file_that_is_replaced_while_it_is_opened_is_not_mixed_with_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ParquetFile._parts
    for name, value in (("c", 1.0), ("other", 2.0)):
        columns = {"vectors": [[value, value]] * 8, "doc_ids": [int(value)] * 8}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")

    def replaced(file: ParquetFile) -> list[range]:
        (tmp_path / "other.parquet").replace(tmp_path / "c.parquet")
        return parts(file)

    monkeypatch.setattr(ParquetFile, "_parts", replaced)
    with pytest.raises(InvalidInput, match="was changed, or replaced by another file, since it was opened"):
        open_corpus(tmp_path / "c.parquet", context_length=2)


def test_ids_that_would_be_taken_for_addresses(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", VECTORS)
    objects = np.array([2**70 + i for i in IDS.tolist()], object)  # a pickle that is longer than as many addresses
    np.save(tmp_path / "bad.ids.npy", objects, allow_pickle=True)
    _refuse(tmp_path / "bad.npy", "bad.ids.npy: has dtype object, expected numbers or strings")


def _header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("name", ["bad.npy", "bad.npz", "bad compressed.npz", "bad.parquet"])
def test_every_truncation_and_garbage_is_one_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, VECTORS)
    elif path.suffix == ".npz":
        (np.savez_compressed if "compressed" in name else np.savez)(path, vectors=VECTORS)
    else:
        pq.write_table(pa.table({"vectors": ROWS}), path)
    whole = path.read_bytes()
    for size in (0, 5, 30, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        _refuse(path, "bad")
    path.write_bytes(b"not a corpus at all")
    _refuse(path, "bad")


def test_files_that_were_joined_are_refused_and_not_read_in_part(tmp_path: Path) -> None:
    """As `cat a.npy b.npy` joins them, and several `np.save` into one open file; numpy reads one of them."""
    array, archive, table = tmp_path / "a.npy", tmp_path / "a.npz", tmp_path / "a.parquet"
    np.save(array, VECTORS)
    np.savez(archive, vectors=VECTORS)
    array.write_bytes(array.read_bytes() * 2)
    _refuse(array, "4096 bytes, expected 2048; what follows the array would not be read")
    archive.write_bytes(archive.read_bytes() * 2)
    _refuse(archive, "expected one .npz, and not several")
    with zipfile.ZipFile(archive, "w") as parts:
        parts.writestr("vectors.npy", array.read_bytes())
    _refuse(archive, "vectors goes on after its array: 3968 bytes, expected 1920")
    pq.write_table(pa.table({"vectors": ROWS}), table)
    one = table.read_bytes()
    table.write_bytes(one * 2)
    _refuse(table, f"its first {len(one)} bytes belong to another file.*expected one .parquet, and not several")


def test_no_rows_of_joined_files_are_counted(tmp_path: Path) -> None:
    """As the parts of a run on several machines are cut."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"vectors": ROWS}), path)
    assert count_rows(path) == 120
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(InvalidInput, match=r"expected one \.parquet, and not several"):
        count_rows(path)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_flipped_bits_are_found_or_harmless_but_never_another_error(tmp_path: Path, suffix: str) -> None:
    path, rng = tmp_path / f"bad{suffix}", np.random.default_rng(1)
    if suffix == ".npz":
        np.savez_compressed(path, vectors=VECTORS, doc_ids=IDS)
    else:
        pq.write_table(pa.table({"vectors": ROWS, "doc_ids": IDS}), path)
    whole, refused = path.read_bytes(), 0
    for place in rng.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            open_corpus(path, context_length=5)
        except InvalidInput:
            refused += 1
    assert refused > 5


def test_an_encrypted_or_unknown_member_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, vectors=VECTORS)
    data = bytearray(path.read_bytes())
    for flags in (data.index(b"PK\x01\x02") + 8, data.index(b"PK\x03\x04") + 6):
        data[flags] |= 1
    path.write_bytes(data)
    _refuse(path, "vectors cannot be read .*encrypted")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("vectors.npy", b"\x93NUMPY")
    _refuse(path, "not a .npy file")


def test_ids_that_a_link_does_not_lead_to_are_not_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.ones((9, 16), np.float32))
    ids = tmp_path / "c.ids.npy"
    ids.symlink_to("nowhere")
    with pytest.raises(InvalidInput, match=r"^\S+c\.ids\.npy: no such file"):
        open_corpus(tmp_path / "c.npy", context_length=5)
    ids.unlink()
    ids.mkdir()
    with pytest.raises(InvalidInput, match=r"^\S+c\.ids\.npy: is a folder, expected a file"):
        open_corpus(tmp_path / "c.npy", context_length=5)


def test_parquet_without_pyarrow_asks_for_an_extra_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendUnavailable, match=r"Parquet needs pyarrow.*\[parquet\]"):
        open_corpus(tmp_path / "c.parquet", context_length=5, dim=4)
