"""Every file that holds the same corpus is read alike by prediction, training and the checks of an export.

Two documents of ten vectors give 12 windows of T = 5, and 10 with the vector that follows. Read as one document they
would give 16. The files in `written` are from pandas 3.1, polars 2.1 and DuckDB 2.0, with these same vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.source import Source
from export.verify import make_samples
from lvm_runtime import Predictor
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.bulk.predict import predict_file
from lvm_runtime.commands.main import main
from lvm_runtime.corpus.corpus import Corpus, joined, open_corpus
from lvm_runtime.corpus.formats import CONTEXT_KEYS, TARGET_KEYS
from lvm_runtime.errors import InvalidInput
from lvm_runtime.models import load_model
from train.options import TrainOptions
from train.prepared_data import prepare

WRITTEN = Path(__file__).parent / "written"
VECTORS = (np.arange(320).reshape(20, 16) % 7 - 3).astype(np.float32) / 8  # exact in float16
VECTORS[:, 0] += np.arange(20) / 4
BIG = 2**60 + 1  # as floats, BIG and BIG + 2 are one number
IDS: dict[str, Any] = {
    "int8": np.repeat(np.array([1, 0], np.int8), 10),
    "int64": np.repeat([BIG, BIG + 2], 10),
    "uint64": np.repeat(np.array([2**64 - 1, 2**64 - 3], np.uint64), 10),
    "strings": np.repeat(["b", "a"], 10),
    "bytes": np.repeat(np.array([b"b", b"a"]), 10),
}
FLOATS = (np.float16, np.float32, np.float64)
LISTS: dict[str, Callable[[Any], Any]] = {
    "list": pa.list_,
    "large list": pa.large_list,
    "fixed-size list": lambda kind: pa.list_(kind, 16),
    "tensor": lambda kind: pa.fixed_shape_tensor(kind, [16]),
}


def _column(kind: str, dtype: Any) -> Any:
    rows, arrow = VECTORS.astype(dtype), pa.from_numpy_dtype(dtype)
    if kind == "tensor":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(rows)
    return pa.array(list(rows), LISTS[kind](arrow))


def _variants() -> Iterator[Any]:
    """Yield parameters: a function that writes the corpus into a folder and returns its path."""
    for dtype in FLOATS:
        for spelling in ("", "s"):
            keys = f"vector{spelling}", f"doc_id{spelling}"
            for save in (np.savez, np.savez_compressed):

                def npz(folder: Path, save: Any = save, keys: Any = keys, dtype: Any = dtype) -> Path:
                    save(folder / "c.npz", **dict(zip(keys, (VECTORS.astype(dtype), IDS["int8"]), strict=True)))
                    return folder / "c.npz"

                yield pytest.param(npz, id=f"{save.__name__} {keys[0]} {dtype.__name__}")
        for kind in LISTS:

            def parquet(folder: Path, kind: str = kind, dtype: Any = dtype) -> Path:
                pq.write_table(
                    pa.table({"vectors": _column(kind, dtype), "doc_ids": IDS["int64"]}), folder / "c.parquet"
                )
                return folder / "c.parquet"

            yield pytest.param(parquet, id=f"{kind} of {dtype.__name__}")
    for name, ids in IDS.items():

        def pair(folder: Path, ids: Any = ids) -> Path:
            np.save(folder / "c.npy", VECTORS)
            np.save(folder / "c.ids.npy", ids)
            return folder / "c.npy"

        def columns(folder: Path, ids: Any = ids) -> Path:
            column = pa.array(ids.tolist(), pa.from_numpy_dtype(ids.dtype)) if ids.dtype.kind in "iu" else pa.array(ids)
            table = pa.table({"vector": _column("list", np.float32), "doc_id": column.dictionary_encode()})
            pq.write_table(table, folder / "c.parquet", row_group_size=7)
            return folder / "c.parquet"

        yield pytest.param(pair, id=f"pair with {name}")
        yield pytest.param(columns, id=f"dictionary of {name}")
    for path in sorted(WRITTEN.glob("*.parquet")):
        yield pytest.param(lambda folder, path=path: path, id=path.stem)


@pytest.fixture(scope="module")
def source(small_artifacts: Callable[[str], Path]) -> Source:
    artifact = Artifact.load(small_artifacts("amn"))
    return Source(artifact, load_model(artifact))


@pytest.fixture(scope="module")
def expected(source: Source) -> Any:
    with Predictor(source.artifact.path) as predictor:
        return np.concatenate([predictor.predict_sequence(VECTORS[:10]), predictor.predict_sequence(VECTORS[10:])])


@pytest.mark.parametrize("write", list(_variants()))
def test_three_ways_to_read_agree(write: Callable[[Path], Path], source: Source, expected: Any, tmp_path: Path) -> None:
    path = write(tmp_path)
    assert main(["predict", str(source.artifact.path), str(path), str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as found:
        assert found["rows"].tolist() == [*range(4, 10), *range(14, 20)]
        np.testing.assert_allclose(found["predictions"], expected, rtol=0, atol=2e-6)

    prepared = prepare(TrainOptions(model="amn", data=str(path), dim=16, validation=0.5), "cpu", lambda _: None)
    assert prepared.split.train.starts.tolist() == [0, 1, 2, 3, 4]
    assert prepared.split.validation.starts.tolist() == [10, 11, 12, 13, 14]
    contexts, targets = prepared.split.validation.batch(prepared.split.validation.starts)
    np.testing.assert_array_equal(contexts[:, 0], VECTORS[10:15])
    np.testing.assert_array_equal(targets, VECTORS[15:])

    real = make_samples(source, path)[1].contexts
    np.testing.assert_array_equal(real[:, 0], VECTORS[10:16])  # six windows of the last document


@pytest.mark.parametrize(
    ("suffix", "save"),
    [(".npy", np.save), (".npz", lambda path, array: np.savez(path, vectors=array))],
    ids=["npy", "npz"],
)
def test_vectors_without_ids_are_one_document(
    suffix: str, save: Any, source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"c{suffix}"
    save(path, VECTORS)
    assert main(["predict", str(source.artifact.path), str(path), str(tmp_path / "out.npy")]) == 0
    assert len(np.load(tmp_path / "out.npy")) == 16
    assert "taken as one document" in capsys.readouterr().err
    said: list[str] = []
    split = prepare(TrainOptions(model="amn", data=str(path), dim=16), "cpu", said.append).split
    assert any("taken as one document" in line for line in said)
    assert int(split.train.starts[-1]) + 5 < int(split.validation.starts[0])


def _contexts(folder: Path, kind: str) -> Path:
    """Write 12 contexts with their targets as `kind`; the target is the oldest vector plus 1."""
    contexts = np.stack([VECTORS[i : i + 5] for i in (*range(6), *range(10, 16))])
    targets, path = contexts[:, 0] + 1, folder / f"c.{kind.split()[0]}"
    if kind == "npz":
        np.savez(path, contexts=contexts, targets=targets)
    else:
        rows = contexts.reshape(12, 80).tolist() if kind == "parquet of 80" else contexts.tolist()
        pq.write_table(pa.table({"contexts": rows, "targets": targets.tolist()}), path)
    return path


@pytest.mark.parametrize("kind", ["npz", "parquet of 5 x 16", "parquet of 80"])
def test_ready_cut_contexts_are_the_windows(kind: str, source: Source, expected: Any, tmp_path: Path) -> None:
    path = _contexts(tmp_path, kind)
    with Predictor(source.artifact.path) as predictor:
        predict_file(predictor, path, tmp_path / "out.npy")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=2e-6)
    split = prepare(TrainOptions(model="amn", data=str(path), dim=16), "cpu", lambda _: None).split
    contexts, targets = split.train.batch(split.train.starts)
    np.testing.assert_array_equal(contexts[:, 0], VECTORS[: len(contexts)])
    np.testing.assert_array_equal(targets, contexts[:, 0] + 1)
    np.testing.assert_array_equal(make_samples(source, path)[1].contexts[0], VECTORS[15:20])


@pytest.mark.parametrize("kind", ["npz", "parquet of 5 x 16", "parquet of 80"])
@pytest.mark.parametrize("expected", [1, 4, 5, 80])
def test_contexts_are_no_vectors_whatever_length_was_expected(kind: str, expected: int, tmp_path: Path) -> None:
    assert open_corpus(_contexts(tmp_path, kind), context_length=expected).values.shape == (12, 5, 16)


@pytest.mark.parametrize(("contexts", "targets"), list(zip(CONTEXT_KEYS, TARGET_KEYS, strict=True)))
@pytest.mark.parametrize("metadata", ["strings", "objects", "structured"])
def test_windows_keep_their_article(tmp_path: Path, contexts: str, targets: str, metadata: str) -> None:
    x, y = np.ones((3, 5, 4)), np.zeros((3, 4))
    records: Any = [{"article_index": i} for i in (0, 0, 7)]
    if metadata == "strings":
        records = [json.dumps(record) for record in records]
    elif metadata == "structured":
        records = np.array([(0,), (0,), (7,)], dtype=[("article_index", int)])
    np.savez(tmp_path / "w.npz", **{contexts: x, targets: y, "metadata": np.array(records)})
    if metadata == "objects":
        with pytest.raises(InvalidInput, match=r"metadata is an object array.*--trust-pickle"):
            _read(tmp_path / "w.npz")
    corpus = joined(open_corpus(tmp_path / "w.npz", context_length=5, trust_pickle=metadata == "objects"))
    np.testing.assert_array_equal(corpus.values.reshape(3, 6, 4), np.concatenate([x, y[:, None]], axis=1))
    assert corpus.groups is not None
    assert corpus.groups[::6].tolist() == [0, 0, 7]


@pytest.mark.parametrize("index", [["a", "b", "c"], [0.0, np.nan, 7.0], [[0, 0], [0, 0], [7, 7]]], ids=str)
def test_articles_that_are_no_numbers_are_not_known(tmp_path: Path, index: Any) -> None:
    array = np.array(index)
    records = np.zeros(array.shape, [("article_index", array.dtype)])
    records["article_index"] = array
    np.savez(tmp_path / "w.npz", contexts=np.ones((3, 5, 4)), targets=np.zeros((3, 4)), metadata=records)
    assert _read(tmp_path / "w.npz").groups is None


def _read(path: Path) -> Corpus:
    return open_corpus(path, context_length=5)


def test_ids_stay_exact_and_documents_are_in_any_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", vectors=VECTORS, doc_ids=np.repeat([BIG + 2, BIG], 10))
    assert np.unique(_read(tmp_path / "c.npz").doc_ids).tolist() == [BIG, BIG + 2]
    np.savez(tmp_path / "c.npz", vectors=VECTORS, doc_ids=IDS["uint64"])
    assert np.unique(_read(tmp_path / "c.npz").doc_ids).tolist() == [2**64 - 3, 2**64 - 1]


@pytest.mark.parametrize("cpus", [1, 2, 3, 8])
def test_empty_row_groups_hold_nothing_up(cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers that flush by time leave some. Each CPU reads some groups, and one may get no row."""
    monkeypatch.setattr("lvm_runtime.corpus.parquet.usable_cpus", lambda: cpus)
    table = pa.table({"vectors": list(VECTORS), "doc_ids": IDS["int64"]})
    with pq.ParquetWriter(tmp_path / "c.parquet", table.schema) as writer:
        for begin, end in ((0, 5), (5, 5), (5, 5), (5, 20)):
            writer.write_table(table.slice(begin, end - begin))
    corpus = _read(tmp_path / "c.parquet")
    np.testing.assert_array_equal(corpus.values, VECTORS)
    assert np.unique(corpus.doc_ids).tolist() == [BIG, BIG + 2]


@pytest.mark.parametrize("save", [np.save, lambda path, array: np.savez(path, vectors=array)], ids=["npy", "npz"])
def test_what_lies_plain_in_a_file_is_mapped(save: Any, tmp_path: Path) -> None:
    from lvm_runtime.system.memory_maps import mapping_of

    path = tmp_path / ("c.npy" if save is np.save else "c.npz")
    save(path, VECTORS)
    mapping = mapping_of(_read(path).values)
    assert mapping is not None
    assert len(mapping) <= path.stat().st_size  # the file itself and no copy of it
    np.testing.assert_array_equal(_read(path).values, VECTORS)


def test_unpacking_leaves_nothing_behind(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "c.npz", vectors=VECTORS)
    corpus = open_corpus(tmp_path / "c.npz", context_length=5, scratch=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]
    np.testing.assert_array_equal(corpus.values, VECTORS)
