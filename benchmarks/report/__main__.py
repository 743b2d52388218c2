"""`python -m benchmarks.report RESULT.json …`: Markdown tables, a page to look at, documents and summaries."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.report import regression, rerun, summary
from benchmarks.report.documents import results_page, results_text, write_readme
from benchmarks.report.read import read
from benchmarks.report.results import Run, join, newest_first
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.errors import InvalidInput
from lvm_runtime.system import atomic

EPILOG = """examples:
  pytest benchmarks/ --benchmark-only --benchmark-json=here.json
  python -m benchmarks.report here.json                          # tables on the screen
  python -m benchmarks.report linux.json mac.json --html both.html
  python -m benchmarks.report here.json --summary benchmarks/results/here.json   # a tenth of the size, to keep
  python -m benchmarks.report benchmarks/results/*.json --readme README.md --docs docs/results.md
  python -m benchmarks.report here.json --against stored.json --fail-below 0.9   # have we become slower?
  python -m benchmarks.report here.json --rerun again.json                       # does a second run say the same?
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="python -m benchmarks.report",
        description="Report results of the benchmarks: Markdown tables; on request a page, a document or a summary.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json", help="results or their summaries")
    parser.add_argument("--html", type=Path, help="write everything as one page")
    parser.add_argument("--readme", type=Path, help="put the table between this file's <!-- benchmarks --> markers")
    parser.add_argument("--docs", type=Path, help="write the tables as Markdown, and a plot beside them as SVG")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the summary of one machine's results")
    parser.add_argument("--against", type=Path, metavar="STORED.json", help="an earlier result to compare with")
    parser.add_argument(
        "--fail-below",
        type=float,
        metavar="RATIO",
        help="exit with 1 if a form's speed over the plain export fell below RATIO of what --against holds",
    )
    parser.add_argument(
        "--rerun",
        nargs="+",
        type=Path,
        default=[],
        metavar="AGAIN.json",
        help="a second run on the machine of the first: exit with 1 if their ratios differ by more than their noise",
    )
    options = parser.parse_args(arguments)
    if (options.against is None) != (options.fail_below is None):
        parser.error("--against and --fail-below belong together")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print the tables, write what was asked for, and compare with a stored result if asked to."""
    options = parse(arguments)
    runs = join(read(path) for path in options.results)
    newest = newest_first(runs)
    print(results_text(newest))
    for path, write in (
        (options.html, _html),
        (options.docs, _docs),
        (options.readme, lambda path, runs: write_readme(path, runs[0])),
        (options.summary, _summary),
    ):
        if path is not None:
            write(path, newest)
            print(f"written: {path}", file=sys.stderr)
    agreed = not options.rerun or _rerun(runs[0], options.rerun)
    kept = options.against is None or _no_slower(runs[0], options.against, options.fail_below)
    return 0 if agreed and kept else 1


def _html(path: Path, runs: list[Run]) -> None:
    from benchmarks.report.page import render  # matplotlib takes a second to load, and the tables do not need it

    atomic.write_bytes(path, render(runs).encode())


def _docs(path: Path, runs: list[Run]) -> None:
    from benchmarks.report.charts import overview

    plot = path.with_suffix(".svg")
    atomic.write_bytes(plot, overview(runs[0]).encode())
    atomic.write_bytes(path, results_page(runs, plot.name).encode())


def _summary(path: Path, runs: list[Run]) -> None:
    if len(runs) > 1:
        raise InvalidInput(f"--summary takes the results of one machine, and these are of {len(runs)}")
    atomic.write_bytes(path, summary.to_json(runs[0]).encode())


def _rerun(first: Run, again: list[Path]) -> bool:
    second = join(read(path) for path in again)[0]
    found = rerun.pairs(first, second)
    same, why = rerun.verdict(found)
    print(f"\n{why}", file=sys.stderr)
    for line in rerun.left_out(first, second, found):
        print(f"not compared: {line}", file=sys.stderr)
    return same


def _no_slower(now: Run, stored: Path, fail_below: float) -> bool:
    before = read(stored).rows
    found = regression.regressions(now.rows, before, fail_below)
    for change in found:
        print(f"slower: {change}", file=sys.stderr)
    for line in regression.missing(now.rows, before):
        print(f"not compared: {line}", file=sys.stderr)
    return not found


if __name__ == "__main__":
    sys.exit(console.run(main))
