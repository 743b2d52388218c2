"""`python -m benchmarks.report RESULT.json …`: a Markdown table and a page to look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.report import regression, rerun
from benchmarks.report.results import Run, join, read
from benchmarks.report.tables import readme_section, write_readme
from lvm_runtime.commands import console
from lvm_runtime.system import atomic

EPILOG = """examples:
  pytest benchmarks/ --benchmark-only --benchmark-json=here.json
  python -m benchmarks.report here.json                          # table on the screen, page in here.html
  python -m benchmarks.report linux.json mac.json --html both.html
  python -m benchmarks.report benchmarks/results/*.json --readme README.md
  python -m benchmarks.report here.json --against stored.json --fail-below 0.9   # have we become slower?
  python -m benchmarks.report here.json --rerun again.json                       # does a second run say the same?
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description="Report results of the benchmarks: a Markdown table, and one HTML page that needs nothing else.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json", help="one or more per machine")
    parser.add_argument("--html", type=Path, help="the page (default: the first result's name with .html)")
    parser.add_argument("--readme", type=Path, help="put the table between this file's <!-- benchmarks --> markers")
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
    """Write the page, print the table, and compare with a stored result if asked to."""
    options = parse(arguments)
    runs = join(read(path) for path in options.results)
    print(readme_section(runs))
    from benchmarks.report.page import render  # matplotlib takes a second to load, and the table does not need it

    page = options.html or options.results[0].with_suffix(".html")
    atomic.write_bytes(page, render(runs).encode())
    print(f"\npage: {page}", file=sys.stderr)
    if options.readme:
        write_readme(options.readme, runs)
        print(f"table: {options.readme}", file=sys.stderr)
    agreed = not options.rerun or _rerun(runs[0], options.rerun)
    kept = options.against is None or _no_slower(runs[0], options.against, options.fail_below)
    return 0 if agreed and kept else 1


def _rerun(first: Run, again: list[Path]) -> bool:
    same, why = rerun.verdict(rerun.pairs(first, join(read(path) for path in again)[0]))
    print(f"\n{why}", file=sys.stderr)
    return same


def _no_slower(now: Run, stored: Path, fail_below: float) -> bool:
    found = regression.regressions(now.rows, read(stored).rows, fail_below)
    for change in found:
        print(f"slower: {change}", file=sys.stderr)
    return not found


if __name__ == "__main__":
    sys.exit(console.run(main))
