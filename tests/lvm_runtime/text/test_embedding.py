"""From text files to a corpus and to the next chunk, with a real encoder from the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvm_runtime.artifact.config import make_config
from lvm_runtime.commands.main import main
from lvm_runtime.corpus.corpus import open_corpus
from lvm_runtime.errors import InvalidInput, LvmError
from lvm_runtime.models import build_model, save_model
from lvm_runtime.text import embedding
from lvm_runtime.text.embedding import EmbedResult
from lvm_runtime.text.encoder import Encoder
from tests.texts import ENCODER, small_encoder
from tests.texts import TEXT as WHOLE

SUBJECTS = ("water", "iron", "lead")
TEXT = WHOLE[: WHOLE.index(" Sentence number 24 ")]
ASKED = TEXT[: TEXT.index(" Sentence number 14 ")].replace("water", "iron")


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of three documents of several pieces each, and one without text."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for subject in SUBJECTS:
        (folder / f"{subject}.txt").write_text(TEXT.replace("water", subject))
    (folder / "empty.md").write_text("<!-- nothing -->")
    monkeypatch.setattr(embedding, "PIECE", 4)
    return folder


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of texts that each call of the encoder gets."""
    calls: list[int] = []
    encode = Encoder.encode

    def counted(self: Encoder, given: Any) -> Any:
        calls.append(len(given))
        return encode(self, given)

    small_encoder()
    monkeypatch.setattr(Encoder, "encode", counted)
    return calls


def run(texts: Path, out: Path, **how: Any) -> EmbedResult:
    """Embed the folder in chunks of 30 tokens."""
    files = sorted(path for path in texts.iterdir())
    return embedding.embed(files, out, small_encoder(), **({"tokens": 30, "progress": False} | how))


def test_files_become_a_corpus_that_keeps_their_text(texts: Path, tmp_path: Path) -> None:
    for name in ("c.npz", "c.parquet"):
        result = run(texts, tmp_path / name)
        assert (result.documents, result.dim, result.known) == (3, 384, 0)
        assert result.left_out == [f"{texts / 'empty.md'}: no text in it; left out"]
        corpus = open_corpus(tmp_path / name, context_length=5)
        chunks = corpus.chunks(np.arange(result.vectors))
        for subject in SUBJECTS:
            mine = [chunk for chunk in chunks if chunk.document == str(texts / f"{subject}.txt")]
            assert " ".join(chunk.text or "" for chunk in mine) == TEXT.replace("water", subject)
            assert [chunk.position for chunk in mine] == list(range(len(mine)))
        again = small_encoder().encode([str(chunks[7].text)])[0]
        assert float(again @ corpus.values[7].astype(np.float32)) > 0.9999
        assert corpus.columns.made is not None
        assert (corpus.columns.made["encoder"], corpus.columns.made["tokens"]) == (ENCODER, 30)


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(
    texts: Path, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(texts, tmp_path / "whole.npz")
    total, out, part = len(encoded), tmp_path / "c.npz", tmp_path / "c.npz.part"
    counted = Encoder.encode

    def killed(self: Encoder, given: Any) -> Any:
        if len(encoded) == total + 4:
            raise KeyboardInterrupt
        return counted(self, given)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", killed)
        with pytest.raises(KeyboardInterrupt):
            run(texts, out)
    part.write_bytes(part.read_bytes()[:-5])  # the fourth piece was being written
    assert not out.exists()
    before = len(encoded)
    assert run(texts, out).known > 0
    assert len(encoded) - before == total - 3
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not part.exists()


def test_damage_in_what_was_left_is_encoded_again(
    texts: Path, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    part, whole = tmp_path / "c.npz.part", tmp_path / "whole.npz"
    run(texts, whole)

    def refused(*_: object) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "write_corpus", refused)
        with pytest.raises(OSError, match="no space"):
            run(texts, tmp_path / "c.npz")
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    part.write_bytes(damaged)
    run(texts, tmp_path / "c.npz")
    assert (tmp_path / "c.npz").read_bytes() == whole.read_bytes()


def test_a_second_run_encodes_what_changed_and_nothing_else(texts: Path, tmp_path: Path, encoded: list[int]) -> None:
    out = tmp_path / "c.npz"
    run(texts, out)
    encoded.clear()
    assert run(texts, out).known == run(texts, out).vectors
    assert encoded == []
    (texts / "iron.txt").write_text(TEXT.replace("water", "iron").replace("boils at 22", "melts at 22"))
    (texts / "lead.txt").rename(texts / "zinc.txt")
    run(texts, out)
    assert encoded == [encoded[0]]  # the last piece of one document
    run(texts, tmp_path / "afresh.npz")
    assert out.read_bytes() == (tmp_path / "afresh.npz").read_bytes()
    encoded.clear()
    assert run(texts, out, restart=True).known == 0
    assert len(encoded) > 1


def test_what_cannot_be_embedded_is_refused(texts: Path, tmp_path: Path) -> None:
    encoder = small_encoder()
    with pytest.raises(InvalidInput, match=r"tokens is 400, expected 1 to 246"):
        run(texts, tmp_path / "c.npz", tokens=400)
    with pytest.raises(InvalidInput, match=r"overlap is 16, expected 0 to 15, half"):
        run(texts, tmp_path / "c.npz", overlap=16)
    with pytest.raises(InvalidInput, match=r"c\.txt: a corpus is written as \.npz or \.parquet"):
        run(texts, tmp_path / "c.txt")
    with pytest.raises(InvalidInput, match=r"no text in .*empty\.md; .*no text in it"):
        embedding.embed([texts / "empty.md"], tmp_path / "c.npz", encoder)
    np.savez(tmp_path / "mine.npz", vectors=np.ones((2, 3)))
    with pytest.raises(InvalidInput, match="was not made by embed"):
        run(texts, tmp_path / "mine.npz")
    assert not list(tmp_path.glob("c.npz*"))  # a part left here would refuse another encoder


def test_a_file_that_goes_away_is_named_and_an_encoder_that_fails_is_one_line(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [texts / "gone.txt", texts / "water.txt"]
    found = embedding.embed(files, tmp_path / "c.npz", small_encoder(), tokens=30, progress=False)
    assert (found.documents, len(found.left_out)) == (1, 1)
    assert "gone.txt: cannot be read" in found.left_out[0]

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("out of\n memory")

    monkeypatch.setattr(small_encoder()._model, "encode", full)
    with pytest.raises(LvmError, match=f"encoder {ENCODER} failed on cpu: out of memory"):
        embedding.embed(files, tmp_path / "d.npz", small_encoder(), tokens=30, progress=False)
    assert not (tmp_path / "d.npz").exists()


def test_a_vector_that_is_not_finite_is_no_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was kept, and taken over by every later run as encoded before."""
    encoder = small_encoder()
    encode = encoder._model.encode

    def overflowing(given: list[str], **how: Any) -> Any:
        found = encode(given, **how)
        found[[text.startswith("Sentence number 7 ") for text in given]] = np.inf
        return found

    monkeypatch.setattr(encoder._model, "encode", overflowing)
    chunk = "Sentence number 7 says nothing."
    with pytest.raises(LvmError, match=rf"not finite on cpu, of the text '{chunk}'; try another device"):
        encoder.encode(["Water.", chunk])


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(InvalidInput, match=r"the text holds '\\udcff' at character 7, which is no character"):
        small_encoder().cut("Water. \udcff", 30)


def test_chunks_fit_into_the_encoder_and_nothing_of_them_is_cut_off() -> None:
    encoder = small_encoder()
    for text in (WHOLE, "antidisestablishmentarianism" * 200, "今天天气很好。" * 300, "x1" * 5000, "🙂é " * 900):
        found = encoder.cut(text, encoder.most_tokens)
        assert "".join("".join(found).split()) == "".join(text.split())
        tokens = encoder._tokenizer(found)["input_ids"]
        assert max(map(len, tokens)) <= encoder._model.max_seq_length


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with an untrained AMN, which predicts the average of its context."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lvm_runtime.commands.embed.Encoder", lambda name, device: small_encoder())
    monkeypatch.setattr("lvm_runtime.commands.next.Encoder", lambda name, device: small_encoder())
    save_model(build_model(make_config("amn", dim=384, attention_dim=8, hidden_dim=12, bottleneck_dim=8)), Path("amn"))
    return tmp_path


def test_from_text_to_the_text_that_comes_next(texts: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "texts", "--out", "c.npz", "--encoder", ENCODER, "--tokens", "30"]) == 0
    assert "vectors of 3 documents, D=384" in capsys.readouterr().out
    assert main(["index", "c.npz"]) == 0
    assert capsys.readouterr().out.endswith("D=384, every vector is compared\n")
    (place / "asked.txt").write_text(ASKED)
    command = ["next", "amn", "--index", "c.npz", "--document", "asked.txt", "-k", "2", "--backend", "eager"]
    assert main([*command, "--compare"]) == 0
    shown = capsys.readouterr().out
    assert "texts/iron.txt #" in shown.partition("found with the last chunk alone")[0]
    assert shown.count("Sentence number") >= 4
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["next"]
    assert [set(hit) for hit in found] == [{"score", "document", "position", "row", "text"}] * 2
    assert found[0]["score"] >= found[1]["score"]
    assert found[0]["text"] not in ASKED  # what was read is left out


def test_what_cannot_be_asked_is_one_line(texts: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(texts, place / "c.npz")
    corpus = open_corpus(place / "c.npz", context_length=5)
    other = corpus.columns.made | {"probe": np.eye(1, 384)[0].tolist()}  # type: ignore[operator]
    vectors = corpus.values.astype(np.float32)
    np.savez(place / "other.npz", vectors=vectors, made=json.dumps(other))
    np.savez(place / "bare.npz", vectors=vectors)
    np.save(place / "short.npy", vectors[:3])
    np.save(place / "good.npy", vectors[:5])
    np.save(place / "nan.npy", np.full((5, 384), np.nan, np.float32))
    (place / "short.txt").write_text("One sentence.")
    (place / "long.txt").write_text(TEXT)
    for name in ("c.npz", "other.npz", "bare.npz"):
        assert main(["index", name]) == 0
    for arguments, message in (
        (["--index", "c.npz", "--document", "short.txt"], "short.txt: 1 chunk of 30 tokens, and the model reads 5"),
        (["--index", "other.npz", "--document", "long.txt"], "gives other vectors than the one that made other.npz"),
        (["--index", "bare.npz", "--document", "long.txt"], "does not say which encoder made it; give --encoder"),
        (["--index", "none.npz", "--document", "long.txt"], "none.npz: no such file"),
        (["--index", "c.npz", "--document", "none.txt"], "none.txt: cannot be read"),
        (["--index", "c.npz", "--vectors", "short.npy"], "short.npy: 3 vectors, expected at least the 5"),
        (["--index", "c.npz", "--vectors", "nan.npy"], "row 0, position 0, component 0 is nan"),
        (["--index", "c.npz", "--vectors", "good.npy", "-k", "0"], "k is 0, expected a whole number of 1 or more"),
    ):
        capsys.readouterr()
        assert main(["next", "amn", "--backend", "eager", *arguments]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
