"""`lvm-runtime index CORPUS`: make the vectors of a corpus searchable."""

from __future__ import annotations

import argparse
from pathlib import Path

from lvm_runtime.commands.console import note, show
from lvm_runtime.corpus.formats import ACCEPTED
from lvm_runtime.errors import counted
from lvm_runtime.retrieval.index import EXACT, KINDS, LARGEST_EXACT, Index

DESCRIPTION = f"""Write an index of the vectors of CORPUS to the folder CORPUS.index. Up to {LARGEST_EXACT:,} vectors a
search compares each of them; beyond that, an approximate index of faiss compares a few of them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    parser.epilog = f"CORPUS holds vectors.\n\n{ACCEPTED}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="a .npy, .npz or .parquet file of vectors")
    parser.add_argument("--out", type=Path, help="the folder to write (default: CORPUS.index)")
    parser.add_argument("--kind", default="auto", choices=("auto", *KINDS), help="default: by the number of vectors")


def run(options: argparse.Namespace) -> None:
    """Build the index and say what was written."""
    index = Index.build(options.corpus, options.kind, options.out, report=note)
    size = sum(file.bytes for file in index.record.files) / 1e6
    what = "every vector is compared" if index.record.kind == EXACT else f"approximate, {size:,.1f} MB"
    show(f"{index.path}: {counted(index.record.vectors, 'vector')}, D={index.record.dim}, {what}")
