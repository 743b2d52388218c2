"""Plant each listed mistake in a copy of this checkout, and see whether the test that is named for it fails.

    python -m tests.mistakes            # all
    python -m tests.mistakes int8       # those of a kind
    python -m tests.mistakes "a row of" # those whose kind, name or file has this in it
    python -m tests.mistakes --list     # say what they are, and plant none

Ends with status 1 if a mistake survived, or if a named test fails without any.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import tests.mistakes
from tests.mistakes.mistake import Mistake

ROOT = Path(__file__).parents[2]
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "_build", "artifacts", "*.egg-info")
_NO_KINDS = {"__main__", "mistake", "test_mistakes"}
_FAILED = 1  # what pytest returns for a failing test; 0 for none, others where it could not run it


def listed() -> dict[str, list[Mistake]]:
    """Return the mistakes of each kind; a kind is a module of this package that has `MISTAKES`."""
    names = {module.name for module in pkgutil.iter_modules(tests.mistakes.__path__)} - _NO_KINDS
    return {name: list(import_module(f"tests.mistakes.{name}").MISTAKES) for name in sorted(names)}


def chosen(words: list[str]) -> list[Mistake]:
    """Return the mistakes whose kind, name or file has one of `words` in it; all, if there are no words."""
    return [
        mistake
        for kind, mistakes in listed().items()
        for mistake in mistakes
        if not words or any(word in text for word in words for text in (kind, mistake.name, mistake.file))
    ]


def planted(text: str, mistake: Mistake) -> str:
    """Return the file's `text` with the mistake in it; ValueError if its place is not there, or there twice."""
    if (count := text.count(mistake.old)) != 1:
        raise ValueError(f"{mistake.file}: {mistake.name}: its place is there {count} times, expected once")
    return text.replace(mistake.old, mistake.new)


def run_tests(copy: Path, ids: list[str], *, keep_bytecode: bool) -> tuple[int, str]:
    """Run tests in the copy and return pytest's status and output; a mistake's bytecode would serve the next one."""
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    environment |= {} if keep_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *ids]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def try_all(mistakes: list[Mistake]) -> int:
    """Print a line for each mistake; return how many were not noticed."""
    survived = 0
    with tempfile.TemporaryDirectory(prefix="lvm-mistakes-") as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
        status, said = run_tests(copy, sorted({m.noticed_by for m in mistakes}), keep_bytecode=True)
        if status:
            print(f"{said}\nwithout a mistake the tests end with status {status}, expected 0")
            return len(mistakes)
        for mistake in mistakes:
            file = copy / mistake.file
            right = file.read_text()
            file.write_text(planted(right, mistake))
            status, _ = run_tests(copy, [mistake.noticed_by], keep_bytecode=False)
            file.write_text(right)
            survived += status != _FAILED
            outcome = {_FAILED: "noticed ", 0: "SURVIVED"}.get(status, f"status {status}")
            print(f"{outcome}  {mistake.file}: {mistake.name}", flush=True)
    print(f"{len(mistakes) - survived} of {len(mistakes)} noticed")
    return survived


def main() -> int:
    """Parse the command line and try the mistakes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="NAME", help="part of a kind, of a mistake's name or of its file")
    parser.add_argument("--list", action="store_true", help="print the mistakes, and plant none")
    options = parser.parse_args()
    mistakes = chosen(options.words)
    if not mistakes:
        parser.error("no mistake is called so")
    if options.list:
        print(*(f"{m.file}: {m.name}\n    {m.noticed_by}" for m in mistakes), sep="\n")
        return 0
    return 1 if try_all(mistakes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
