"""The data of a run, ready to train on: loaded, checked, split, with the baselines' scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lvm_runtime.corpus.corpus import Corpus

from .data.corpus import check_corpus, load_corpus
from .data.synthetic import SyntheticProcess
from .data.windows import Split, VectorStore, split_windows
from .evaluation.baselines import baseline_scores
from .evaluation.metrics import RowScores, bootstrap
from .options import TrainOptions
from .progress import progress_bar

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Material:
    """The data of a run, ready to train on."""

    corpus: Corpus
    split: Split
    digest: str
    baselines: dict[str, RowScores]
    ceiling: float | None = None
    own_ceiling: float | None = None


def prepare(options: TrainOptions, device: str, say: Say) -> Material:
    """Load, check and split the corpus, and print the baselines on its validation windows."""
    corpus = load_corpus(
        options.data,
        windows=options.windows,
        dim=options.dim,
        seed=options.seed,
        context_length=options.context_length,
        trust_pickle=options.trust_pickle,
    )
    with progress_bar(len(corpus.values), "checking", "row") as bar:
        found, usable = check_corpus(corpus, options.context_length, bar.update)
    store = VectorStore(corpus.values, device, normalize=options.normalize, resident_bytes=options.resident_bytes)
    split = split_windows(
        corpus,
        usable,
        store,
        context_length=options.context_length,
        validation=options.validation,
        test=options.test,
        how=options.split,
        seed=options.seed,
    )
    for line in (*found.lines(options.context_length), *split.remarks):
        say(line)
    say(
        f"data {corpus.name}: D={corpus.dim}, windows {len(split.train):,} to train, "
        f"{len(split.validation):,} to validate" + (f", {len(split.test):,} to test" if len(split.test) else "")
    )
    baselines = baseline_scores(split.train, split.validation, seed=options.seed)
    for name, scores in baselines.items():
        say(f"  {name:<15} {bootstrap(scores.cosine, split.validation.groups)}")
    material = Material(corpus, split, corpus.digest(), baselines)
    if options.data != "synthetic":
        return material
    process = SyntheticProcess(dim=options.dim)
    ceiling = process.ceiling(options.context_length)
    own = process.ceiling_of(options.config(corpus.dim))
    say(f"  {'ceiling':<15} {ceiling:.4f}; for this {options.model} {own:.4f} (closed forms, in expectation)")
    return replace(material, ceiling=ceiling, own_ceiling=own)
