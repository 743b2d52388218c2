"""Cut a slice of whole documents out of a corpus: how the bundled corpus was made.

    python -m train.data.cut docs-minilm-384.npz --out lvm_runtime/corpus/docs-minilm-384.npz --bytes 3900000 --seed 0

Documents are drawn at random across the corpus until the budget is spent and then put back into corpus
order, so that the slice has the manuals in the proportions of the whole.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.corpus.corpus import open_corpus
from lvm_runtime.errors import InvalidInput, counted
from lvm_runtime.system import atomic


def cut(source: Path, out: Path, budget: int, seed: int) -> str:
    """Write a slice of at most `budget` bytes to `out`; return a line that says what is in it.

    Raises InvalidInput for a corpus without documents, and where not one fits.
    """
    corpus = open_corpus(source, context_length=1)
    if corpus.doc_ids is None or corpus.groups is None:
        raise InvalidInput(f"{source}: holds no doc_ids, so there are no documents to draw")
    documents, first, lengths = np.unique(corpus.groups, return_index=True, return_counts=True)
    narrow = corpus.doc_ids.astype(np.int32)
    ids = narrow if np.array_equal(narrow, corpus.doc_ids) else corpus.doc_ids
    row_bytes = corpus.values[0].nbytes + ids.itemsize
    order = np.random.default_rng(seed).permutation(len(documents))
    kept = np.sort(order[np.cumsum(lengths[order]) * row_bytes < budget - 2048])  # 2 KiB for the headers
    if not len(kept):
        raise InvalidInput(f"{source}: the first document that was drawn needs more than {budget:,} bytes")
    rows = np.concatenate([np.arange(first[d], first[d] + lengths[d]) for d in kept])
    buffer = io.BytesIO()
    np.savez(buffer, vectors=corpus.values[rows], doc_ids=ids[rows])
    atomic.write_bytes(out, buffer.getvalue())
    kept_rows = f"{counted(len(rows), 'vector')} of {counted(len(kept), 'document')}"
    return f"{out}: {kept_rows}, {len(buffer.getvalue()):,} bytes"


def command(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and cut."""
    parser = Parser(prog=console.program(), description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help="the corpus to cut from")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--bytes", type=int, default=3_900_000, help="size limit of the slice (default: 3900000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of documents (default: 0)")
    options = parser.parse_args(argv)
    print(cut(options.source, options.out, options.bytes, options.seed))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
