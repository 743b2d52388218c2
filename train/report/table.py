"""The table of a comparison."""

from __future__ import annotations

from lvm_runtime.commands import tables
from lvm_runtime.errors import counted

from ..evaluation.metrics import Estimate
from .runs import Row, Run, windows_of

NO_FIGURE = "–"
COLUMNS = (
    "model", "recipe", "parameters", "MFLOP", "MB", "trained", "val cosine [95 %]", "to linear average [95 %]",
    "test: to lin. avg [95 %]", "to ceiling", "to its own", "hit@5", "MRR", "margin", "pred/s b=1", "b=32",
    "cosine/M par.",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return one run's cells, in the order of `COLUMNS`."""
    return [
        row.name,
        row.recipe,
        f"{row.parameters:,}",
        f"{row.mega_flops:.1f}",
        f"{row.megabytes:.1f}",
        f"{duration(row.seconds)}, epoch {row.best_epoch} of {row.epochs}",
        f"{row.cosine:.4f} [{row.low:.4f}, {row.high:.4f}]",
        Estimate(row.gain, row.gain_low, row.gain_high, row.documents).signed,
        NO_FIGURE if row.test_gain is None else row.test_gain.signed,
        NO_FIGURE if row.to_ceiling is None else f"{row.to_ceiling:+.4f}",
        NO_FIGURE if row.to_own_ceiling is None else f"{row.to_own_ceiling:+.4f}",
        f"{row.hit_at_5:.3f}",
        f"{row.mrr:.3f}",
        f"{row.margin:+.3f}",
        f"{row.speed['1']:,.0f}",
        f"{row.speed['32']:,.0f}",
        f"{row.cosine_per_million:.3f}",
    ]


def duration(seconds: float) -> str:
    """Return the time that a training took, with two or three digits that count."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the header and a line of cells per run, without the columns that no run has a figure for."""
    lines = [cells(run.row) for run in runs]
    kept = [i for i in range(len(COLUMNS)) if any(line[i] != NO_FIGURE for line in lines)]
    return [COLUMNS[i] for i in kept], [[line[i] for i in kept] for line in lines]


def markdown(runs: list[Run], remarks: list[str]) -> str:
    """Return the table, the baselines of each data set, and the machine, as Markdown."""
    columns, body = table(runs)
    return "\n".join([tables.markdown(columns, body, left=2), "", *remarks, *baseline_lines(runs)]) + "\n"


def baseline_lines(runs: list[Run]) -> list[str]:
    """Return one line per data set with its baselines and ceiling, and one on how to read the intervals."""
    lines: dict[tuple[str, ...], str] = {}
    for run in runs:
        baselines = run.result["validation"]["baselines"]
        text = ", ".join(f"{name} {value['value']:.4f}" for name, value in baselines.items())
        ceiling = run.result["ceiling"]
        text += "" if ceiling is None else f", ceiling {ceiling:.4f} (closed form)"
        count = len(run.windows["cosine"])
        lines[windows_of(run)] = f"Baselines on {run.row.data} ({counted(count, 'validation window')}): {text}."
    note = (
        "Intervals are 95 % bootstraps over documents; the gain is paired with the linear average on the same windows. "
        "Validation documents chose the epoch, which flatters it; test documents chose nothing. "
        f"Trained on {runs[0].machine}."
    )
    started = "" if all(run.result["history"][0]["epoch"] for run in runs) else (
        " Epoch 0 is a model before training, where its recipe let it start."
    )  # fmt: skip
    return [*lines.values(), note + started]
