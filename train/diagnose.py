"""`lvm-runtime diagnose corpus.npz`: what a corpus offers to learn from, before a model is trained on it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lvm_runtime.arguments import whole_number
from lvm_runtime.artifact.json_text import numbers_or_null
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.system import extras

from .data.corpus import check_corpus, load_corpus


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and print the diagnosis."""
    parser = Parser(
        prog=prog or console.program(),
        description="Say what a corpus offers to learn from: coherence of neighbours, signal by position, duplicates, "
        "lengths of documents, with the figures of a good and a bad corpus beside them.",
    )
    parser.add_argument("corpus", metavar="CORPUS", help="bundled, synthetic, or the path of a corpus")
    parser.add_argument("--context-length", type=int, default=5, help="vectors in a context (default: 5)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(argv)
    whole_number(options.context_length, "context_length")
    extras.require("train", "the diagnosis of a corpus", "torch")
    from .data.windows import VectorStore
    from .evaluation.diagnosis import diagnose

    corpus = load_corpus(options.corpus, context_length=options.context_length)
    report, _ = check_corpus(corpus, options.context_length)
    found = diagnose(corpus, VectorStore(corpus.values, "cpu"), options.context_length)
    if options.json:
        console.show(json.dumps(numbers_or_null(found.to_dict()), indent=2))
    else:
        console.show(
            "\n".join([corpus.name, *(f"  {line}" for line in report.lines(options.context_length)), *found.lines()])
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
