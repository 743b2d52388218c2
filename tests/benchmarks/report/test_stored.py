"""The results that are kept: what the pages say of them, and whom they name as the fastest peer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.report.documents import BEGIN, END, readme_section, results_page
from benchmarks.report.read import read
from benchmarks.report.results import join, newest_first

ROOT = Path(__file__).parents[3]
STORED = sorted((ROOT / "benchmarks/results").glob("*.json"))


def test_the_pages_say_what_the_stored_results_say() -> None:
    runs = newest_first(join(map(read, STORED)))
    assert (ROOT / "docs/results.md").read_text() == results_page(runs, "results.svg")
    text = (ROOT / "README.md").read_text()
    assert text.partition(BEGIN)[2].partition(END)[0] == f"\n{readme_section(runs[0])}\n"


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_no_stored_peer_is_closer_to_ours_than_the_one_that_is_named(path: Path) -> None:
    run = read(path)
    for row in (row for row in run.rows if row.ours and row.best_peer is not None):
        peers = [p for p in run.select(model=row.model, batch=row.batch) if not p.ours and p.precision == row.precision]
        mine = row.record["round_milliseconds"]
        ratios = {p.contender: float(np.median(np.divide(p.record["round_milliseconds"], mine))) for p in peers}
        assert row.over_best_peer == pytest.approx(ratios[row.best_peer], rel=1e-3), row.key  # rounds keep four digits
        assert ratios[row.best_peer] <= min(ratios.values()) * 1.001, row.key
