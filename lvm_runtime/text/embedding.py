"""Make a corpus of text files. After an interruption the same command goes on, and no text is encoded twice.

A document is encoded in pieces of 256 chunks. The vectors of a piece depend on its texts and on nothing else, so a
corpus is the same to the bit, however often it was interrupted.

n chunks of a piece, D vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lvm_runtime.bulk.destination import Destination
from lvm_runtime.corpus.corpus import Corpus, open_corpus
from lvm_runtime.corpus.documents import run_begins
from lvm_runtime.corpus.write import Part, require_kind, write_corpus
from lvm_runtime.errors import InvalidInput
from lvm_runtime.text.encoder import Encoder
from lvm_runtime.text.reading import read_text
from lvm_runtime.text.store import Store, key_of

PIECE = 256
"""Chunks that are encoded, kept and found again together."""


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """What a run wrote: vectors, those of them that were encoded before, documents, D, and a line per file left out."""

    vectors: int
    known: int
    documents: int
    dim: int
    left_out: list[str] = field(default_factory=list)


def embed(
    files: Sequence[Path],
    out: Path,
    encoder: Encoder,
    *,
    tokens: int | None = None,
    overlap: int = 0,
    restart: bool = False,
    progress: bool = True,
) -> EmbedResult:
    """Write the corpus of `files`, a document each in this order, to `out` (.npz or .parquet).

    Chunks have at most `tokens` of the encoder's tokens; `overlap` of them are those that the chunk before ends with.
    What an interrupted run left in `out`.part and what the corpus at `out` holds is taken over where the texts are the
    same, unless `restart` says no. Raises InvalidInput where no file has text, or where `out` is a file that was not
    made here.
    """
    require_kind(out)
    settings = {"tokens": encoder.checked_tokens(tokens, overlap), "overlap": overlap}
    place = Destination(out)
    place.check(files, overwrite=True)
    with place.locked():
        before = EarlierCorpus(_corpus_at(out), encoder)
        if restart:
            place.discard()
            before.forget()
        with Store(place.part, encoder.dim, encoder.describe(), encoder.agrees) as store:
            work = _Work(encoder, store, before, settings)
            with _bar(files, progress) as bar:
                for file in files:
                    work.take(file, bar.update)
            before.forget()  # Windows replaces no file that is mapped
            if work.documents:
                write_corpus(out, work.parts, encoder.dim, work.names, encoder.describe() | settings)
        place.discard()
    if not work.documents:
        raise InvalidInput(f"no text in {', '.join(map(str, files))}; {'; '.join(work.left_out)}")
    total = sum(work.counts)
    return EmbedResult(total, work.known, len(work.documents), encoder.dim, work.left_out)


class EarlierCorpus:
    """The pieces of the corpus that is to be replaced, found by their texts; none if another encoder made it."""

    def __init__(self, corpus: Corpus | None, encoder: Encoder) -> None:
        self._corpus = corpus
        self._places: dict[bytes, tuple[int, int]] = {}
        if corpus is None or corpus.columns.texts is None or not encoder.agrees(corpus.columns.made):
            return
        borders = [*run_begins(corpus.document_ids).tolist(), len(corpus.values)]
        for begin, end in pairwise(borders):
            for first in range(begin, end, PIECE):
                last = min(first + PIECE, end)
                self._places[key_of(list(map(str, corpus.columns.texts(np.arange(first, last)))))] = first, last

    def forget(self) -> None:
        """Let go of the corpus and its file."""
        self._corpus, self._places = None, {}

    def find(self, key: bytes) -> NDArray[np.float16] | None:
        """Return the vectors `[n, D]` of a piece, None if it is not there."""
        if key not in self._places or self._corpus is None:
            return None
        first, last = self._places[key]
        return np.asarray(self._corpus.values[first:last], np.float16)


class _Work:
    """Documents so far: the keys of their pieces, in order, which are in the store."""

    def __init__(self, encoder: Encoder, store: Store, before: EarlierCorpus, settings: dict[str, int]) -> None:
        self._encoder, self._store, self._before, self._settings = encoder, store, before, settings
        self.documents: list[list[bytes]] = []
        self.names: list[str] = []
        self.counts: list[int] = []
        self.known = 0
        self.left_out: list[str] = []

    def take(self, file: Path, done: Callable[[int], object]) -> None:
        """Read, cut and encode a file; `done` is called with the bytes that each piece stands for."""
        size = _size(file)
        try:
            chunks = self._encoder.cut(read_text(file), self._settings["tokens"], self._settings["overlap"])
        except InvalidInput as error:
            self.left_out.append(f"{error}; left out")
            done(size)
            return
        if not chunks:
            self.left_out.append(f"{file}: no text in it; left out")
            done(size)
            return
        keys = []
        for first in range(0, len(chunks), PIECE):
            texts = chunks[first : first + PIECE]
            keys.append(self._piece(texts))
            done(size * len(texts) // len(chunks))
        self.documents.append(keys)
        self.names.append(str(file))
        self.counts.append(len(chunks))

    def _piece(self, texts: list[str]) -> bytes:
        key = key_of(texts)
        if key in self._store:
            self.known += len(texts)
            return key
        vectors = self._before.find(key)
        if vectors is None:
            vectors = self._encoder.encode(texts).astype(np.float16)
        else:
            self.known += len(texts)
        self._store.add(key, vectors, texts)
        return key

    def parts(self) -> Iterator[Part]:
        """Yield the pieces of all documents in order."""
        for document, keys in enumerate(self.documents):
            for key in keys:
                vectors, texts = self._store.read(key)
                yield Part(document, vectors, texts)


def _corpus_at(out: Path) -> Corpus | None:
    """Return the corpus at `out`, None if nothing is there. InvalidInput for what was not made here."""
    if not out.exists():
        return None
    try:
        corpus = open_corpus(out, context_length=1)
    except InvalidInput as error:
        raise InvalidInput(f"{error}; remove it, or choose another name for the corpus") from error
    if corpus.columns.made is None:
        raise InvalidInput(f"{out}: exists and was not made by embed; remove it, or choose another name for the corpus")
    return corpus


def _size(file: Path) -> int:
    """Return the bytes of a file, 0 for one that went away."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _bar(files: Sequence[Path], wanted: bool) -> Any:
    total = sum(map(_size, files))
    # None lets tqdm decide: a bar on a terminal, silence in a log file
    return tqdm(total=total, unit="B", unit_scale=True, desc="embedding", disable=None if wanted else True)
