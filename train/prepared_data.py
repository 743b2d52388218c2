"""The data of a run, ready to train on: loaded, checked, split, with the baselines' scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lvm_runtime.corpus.corpus import Corpus

from .data.corpus import LARGEST_NORM, LARGEST_SCALED, check_corpus, load_corpus
from .data.synthetic import SyntheticProcess
from .data.windows import Split, VectorStore, split_windows
from .evaluation.baselines import LINEAR_AVERAGE, Baselines, fit_baselines
from .evaluation.diagnosis import Diagnosis, copied, diagnose, nearly_copied
from .evaluation.metrics import bootstrap
from .evaluation.retrieval import Scores, score
from .options import TrainOptions
from .terminal import progress_bar

Say = Callable[[str], None]

_DATA_OPTIONS = ("data", "windows", "dim", "seed", "context_length", "trust_pickle", "normalize", "resident_bytes",
                 "validation", "test", "split", "queries")  # fmt: skip


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The data of a run, ready to train on.

    `scores` and `test_scores` are the baselines' on the validation and the test windows; `copies` are the shares of
    these, by name, that are copies of training windows, where there are some; `made_for` are the options and the device
    that all but `own_ceiling` depend on.
    """

    corpus: Corpus
    split: Split
    digest: str
    baselines: Baselines
    scores: dict[str, Scores]
    test_scores: dict[str, Scores]
    diagnosis: Diagnosis
    copies: dict[str, float]
    made_for: tuple[object, ...]
    ceiling: float | None = None
    own_ceiling: float | None = None

    @property
    def linear_average(self) -> float:
        """The linear average's cosine on the validation windows."""
        return float(self.scores[LINEAR_AVERAGE].rows.cosine.mean())

    @property
    def best_mrr(self) -> float:
        """The best baseline's mean reciprocal rank on the validation windows."""
        return max(float((1 / found.ranks.rank).mean()) for found in self.scores.values())


def prepare(
    options: TrainOptions,
    device: str,
    say: Say,
    earlier: PreparedData | None = None,
    *,
    look: Callable[[str], None] | None = None,
) -> PreparedData:
    """Load, check and split the corpus, and print the baselines on its validation windows.

    Those of an `earlier` run on the same data are taken over. `look` is given the digest of the data before they are
    computed, and may raise.
    """
    made_for = (device, *(getattr(options, name) for name in _DATA_OPTIONS))
    if earlier is not None and earlier.made_for == made_for:
        say(f"data {earlier.corpus.name}: with the baselines of the run before")
        if look is not None:
            look(earlier.digest)
        return _with_ceiling(earlier, options, say)
    corpus, split = load_split(options, device, say)
    digest = corpus.digest()
    if look is not None:
        look(digest)
    diagnosis, copies = _diagnose(corpus, split, options.context_length, say)
    baselines = fit_baselines(split.train, seed=options.seed)
    scores = score(baselines.predictors, split.validation, options.queries)
    for name, reached in scores.items():
        cosine = str(bootstrap(reached.rows.cosine, split.validation.groups))
        mrr = reached.ranks.estimates()["mrr"]
        say(f"  {name:<15} {cosine:<24}  MRR {mrr}  "
            f"{baselines.notes.get(name, '')}".rstrip())  # fmt: skip
    test_scores = score(baselines.predictors, split.test, options.queries) if len(split.test) else {}
    prepared = PreparedData(corpus, split, digest, baselines, scores, test_scores, diagnosis, copies, made_for)
    return _with_ceiling(prepared, options, say)


def load_split(options: TrainOptions, device: str, say: Say) -> tuple[Corpus, Split]:
    """Return the corpus, checked, and its windows with the vectors on `device`; say what a look at it found."""
    corpus = load_corpus(
        options.data,
        windows=options.windows,
        dim=options.dim,
        seed=options.seed,
        context_length=options.context_length,
        trust_pickle=options.trust_pickle,
    )
    with progress_bar(len(corpus.values), "checking", "row") as bar:
        longest = LARGEST_SCALED if options.normalize else LARGEST_NORM
        found, usable = check_corpus(corpus, options.context_length, bar.update, largest_norm=longest)
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
    return corpus, split


def _diagnose(corpus: Corpus, split: Split, context_length: int, say: Say) -> tuple[Diagnosis, dict[str, float]]:
    """Say what the corpus offers to learn from, and warn of held-out windows that are copies of training windows.

    Return the diagnosis and the shares of such windows, where there are some.
    """
    diagnosis = diagnose(corpus, split.train.store, context_length)
    for line in diagnosis.lines():
        say(line)
    held = split.validation, split.test
    exact = copied(corpus.values, split.train, *held) if diagnosis.duplicates else [0.0] * len(held)
    copies = {}
    for name, windows, share in zip(("validation", "test"), held, exact, strict=True):
        if share := max(share, nearly_copied(split.train, windows)):
            copies[name] = share
            say(f"  WARNING: {share:.1%} of the {name} windows are copies of training windows, in the target and most "
                "of the context, which flatters whoever remembers them; keep one of each document")  # fmt: skip
    return diagnosis, copies


def _with_ceiling(prepared: PreparedData, options: TrainOptions, say: Say) -> PreparedData:
    if options.data != "synthetic":
        return prepared
    process = SyntheticProcess(dim=options.dim)
    ceiling = process.ceiling(options.context_length)
    own = process.ceiling_of(options.config(prepared.corpus.dim))
    say(f"  {'ceiling':<15} {ceiling:.4f}; for this {options.model} {own:.4f} (closed forms, in expectation)")
    return replace(prepared, ceiling=ceiling, own_ceiling=own)
