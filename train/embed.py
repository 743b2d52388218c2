"""`lvm-runtime embed FILES… --out corpus.npz`: from text files to a corpus of vectors.

Each file (.txt, .md, .html) is a document. It is cut at paragraph and sentence borders into chunks of about
`--words` words, and each chunk is embedded and divided by its length. Order within a document is kept:
that is what a latent vector model learns from.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.commands import console
from lvm_runtime.errors import InvalidInput
from lvm_runtime.system import atomic, extras

from .progress import progress_bar

DEFAULT_ENCODER = "sentence-transformers/gtr-t5-base"
SUFFIXES = (".txt", ".md", ".html")
WORDS = 90
LONGEST = 40
"""Characters of a token that count as one word; what is longer, a URL say, counts as several and may be cut."""

_EAST, _SOUTHEAST = (
    r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff",
)
_WORD = re.compile(
    rf"(\s*)([{_EAST}]{{1,2}}|[{_SOUTHEAST}]{{1,4}}|[^\s{_EAST}{_SOUTHEAST}]{{1,{LONGEST}}})"
)  # scripts without spaces: a word has some two characters in Chinese and Japanese, four in Thai, Lao, Burmese, Khmer
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)|(?<=[。！？])")
_BLOCKS = "p div br li tr h1 h2 h3 h4 h5 h6 pre section article table ul ol dt dd blockquote".replace(" ", ",")
_SILENT = "script,style,template,head"


def text_of_html(html: str) -> str:
    """Return the visible text of a page as browsers parse it; block elements become paragraph borders.

    A `nav` is left out unless it holds most of the text: then it is one that was never closed.
    """
    tree = extras.require("text", "reading HTML", "selectolax.lexbor").LexborHTMLParser(html)
    for node in tree.css(_SILENT):
        node.decompose()
    for node in tree.css(_BLOCKS):
        node.insert_before("\n\n")
        node.insert_after("\n\n")
    whole = len(tree.text())
    for node in tree.css("nav"):
        if 2 * len(node.text()) < whole:
            node.decompose()
    return str(tree.text())


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that `paths` mean: themselves, and in place of a folder every text file below it, by name.

    Raises InvalidInput for a path that is not there and for a folder without a text file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not found:
                raise InvalidInput(f"{path}: no file below it ends in {', '.join(SUFFIXES)}")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise InvalidInput(f"{path}: no such file; expected a file that ends in {', '.join(SUFFIXES)}, or a folder")
    return files


def read_text(path: Path) -> str:
    """Return the text of a .txt, .md or .html file. Raises InvalidInput for another suffix or no UTF-8."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{path}: suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read as UTF-8 text ({error})") from error
    return text_of_html(text) if path.suffix.lower() == ".html" else text


def chunks(text: str, words: int = WORDS) -> list[str]:
    """Cut `text` into chunks of about `words` words, at sentence borders where there are some.

    A sentence longer than two chunks is cut by words; a tail shorter than a third of a chunk joins the last one. In
    scripts without spaces two or four characters count as a word, and a token of over 40 characters as several.
    """
    result: list[list[str]] = []
    current: list[str] = []
    for piece in _pieces(text, words):
        if current and len(current) + len(piece) > words * 1.2:
            result.append(current)
            current = []
        current = current + piece
    if current:
        if result and len(current) < words / 3:
            result[-1] = result[-1] + current
        else:
            result.append(current)
    return ["".join(chunk).strip() for chunk in result]


def _pieces(text: str, words: int) -> Iterator[list[str]]:
    """Yield sentences, or parts of long ones, as lists of words, each with a space in front where it had one."""
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in _SENTENCE_END.split(f" {paragraph}"):
            found = [" " * bool(gap) + word for gap, word in _WORD.findall(sentence)]
            limit = len(found) if len(found) <= 2 * words else words
            for begin in range(0, len(found), max(limit, 1)):
                yield found[begin : begin + limit]


def embed(
    files: list[Path], encoder: str = DEFAULT_ENCODER, *, words: int = WORDS, batch_size: int = 32, device: str = "cpu"
) -> tuple[NDArray[np.float16], NDArray[np.int32], list[Path]]:
    """Return unit vectors `[N, D]`, document ids `[N]` and the files that gave at least one chunk.

    `encoder` is a sentence-transformers name or a local folder. Raises BackendUnavailable where the library is
    missing and InvalidInput where a file or the encoder cannot be read.
    """
    if words < 1:
        raise InvalidInput(f"words is {words}, expected at least 1")
    documents = [(path, chunks(read_text(path), words)) for path in files]
    documents = [(path, found) for path, found in documents if found]
    if not documents:
        raise InvalidInput(f"no text in {', '.join(map(str, files))}; expected .txt, .md or .html files with some")
    model = _load_encoder(encoder, device)
    texts = [chunk for _, found in documents for chunk in found]
    parts = []
    with progress_bar(len(texts), "embedding", "chunk") as bar:
        for begin in range(0, len(texts), batch_size):
            batch = texts[begin : begin + batch_size]
            parts.append(model.encode(batch, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False))
            bar.update(len(batch))
    ids = np.repeat(np.arange(len(documents), dtype=np.int32), [len(found) for _, found in documents])
    return np.concatenate(parts).astype(np.float16), ids, [path for path, _ in documents]


def _load_encoder(encoder: str, device: str) -> Any:
    SentenceTransformer = extras.require("text", "embedding text", "sentence_transformers").SentenceTransformer
    try:
        return SentenceTransformer(encoder, device=device)
    except Exception as error:  # the library raises whatever its downloader and parsers raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInput(
            f"encoder {encoder!r} cannot be loaded ({reason}); expected a sentence-transformers name or its folder"
        ) from error


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and write a corpus."""
    parser = argparse.ArgumentParser(
        prog=prog or console.program(),
        description="Make a corpus from text: each file is a document, each chunk of it a vector.",
        epilog="Then: lvm-runtime train --model amn --data corpus.npz",
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a .txt, .md or .html file, or a folder of them"
    )
    parser.add_argument("--out", type=Path, required=True, help="the corpus to write, such as corpus.npz")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help=f"name or folder (default {DEFAULT_ENCODER})")
    parser.add_argument("--words", type=int, default=WORDS, help=f"words per chunk (default {WORDS})")
    parser.add_argument("--device", default="auto", choices=("auto", "mps", "cuda", "cpu"))
    options = parser.parse_args(argv)
    if options.out.suffix != ".npz":
        raise InvalidInput(f"--out {options.out}: expected a name that ends in .npz")
    extras.require("text", "embedding text", "torch", "sentence_transformers")
    from lvm_runtime.backends.devices import torch_device

    device = torch_device(options.device)
    given = find_files(options.files)
    atomic.require_writable(options.out)
    vectors, ids, files = embed(given, options.encoder, words=options.words, device=device)
    for path in given:
        if path not in files:
            print(console.printable(f"{path}: no text in it; left out"), file=sys.stderr)
    buffer = io.BytesIO()
    np.savez(buffer, vectors=vectors, doc_ids=ids, files=np.array([str(f) for f in files]))
    atomic.write_bytes(options.out, buffer.getvalue())
    console.show(f"{options.out}: {len(vectors):,} vectors of {len(files):,} documents, D={vectors.shape[1]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
