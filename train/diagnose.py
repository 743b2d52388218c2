"""`python -m train.diagnose corpus.npz`: what a corpus offers to learn from, before a model is trained on it."""

from __future__ import annotations

import argparse
import json

from lvm_runtime.commands import console

from .data.corpus import check_corpus, load_corpus


def main() -> int:
    """Parse the command line and print the diagnosis."""
    parser = argparse.ArgumentParser(
        prog="python -m train.diagnose",
        description="Say what a corpus offers to learn from: coherence of neighbours, signal by position, duplicates, "
        "lengths of documents, with the figures of a good and a bad corpus beside them.",
    )
    parser.add_argument("corpus", help="bundled, synthetic, or the path of a corpus")
    parser.add_argument("--context-length", type=int, default=5, help="vectors in a context (default 5)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    from .data.windows import VectorStore
    from .evaluation.diagnosis import diagnose

    corpus = load_corpus(options.corpus, context_length=options.context_length)
    report, _ = check_corpus(corpus, options.context_length)
    found = diagnose(corpus, VectorStore(corpus.vectors, "cpu"), options.context_length)
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print("\n".join([corpus.name, *(f"  {line}" for line in report.lines(options.context_length)), *found.lines()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(main))
