"""Change the core with mutmut, an operator or a constant at a time, and show each change that no test notices.

    python -m tests.mutants                        # the modules of the core that changed since main, or whose tests did
    python -m tests.mutants lvm_runtime/batcher.py # these modules
    python -m tests.mutants --all                  # the whole core, which takes hours
    python -m tests.mutants --all --sample 25      # 25 mutants of each of its modules, drawn by --seed

One module at a time: mutmut runs in a folder of its own that links to this checkout, with the tests of `CORE` alone.
A sample's score has a 95 % Wilson interval. Ends with status 1 where a module's score is below 90 %. docs/mistakes.md
has the scores and the survivors.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEAST = 0.9
"""Share of a module's mutants that its tests have to notice."""

_ARTIFACT, _SELECTION, _BULK, _EVALUATION = (
    f"tests/{folder}"
    for folder in ("lvm_runtime/artifact", "lvm_runtime/selection", "lvm_runtime/bulk", "train/evaluation")
)
_EXPORT = ("tests/export/test_onnx.py", "tests/export/test_int8.py")
_DURABILITY = "tests/lvm_runtime/test_durability.py"
_RUNS = tuple(f"{_BULK}/test_{name}.py" for name in ("bulk", "destination", "resumption"))
_LIMITS = (f"{_ARTIFACT}/test_drift.py", "tests/export/test_verify.py")
_RETRIEVAL = tuple(f"tests/lvm_runtime/retrieval/test_{name}.py" for name in ("index", "next"))

CORE: dict[str, tuple[str, ...]] = {
    "lvm_runtime/artifact/config.py": tuple(
        f"{_ARTIFACT}/test_{name}.py" for name in ("config", "manifest", "weights")
    ),
    "lvm_runtime/artifact/drift.py": _LIMITS,
    "lvm_runtime/artifact/files.py": (f"{_ARTIFACT}/test_files.py", f"{_ARTIFACT}/test_folder.py"),
    "lvm_runtime/artifact/fingerprint.py": (f"{_ARTIFACT}/test_fingerprint.py", f"{_ARTIFACT}/test_folder.py"),
    "lvm_runtime/artifact/folder.py": (f"{_ARTIFACT}/test_folder.py", f"{_ARTIFACT}/test_manifest.py", _DURABILITY),
    "lvm_runtime/artifact/json_text.py": (f"{_ARTIFACT}/test_manifest.py",),
    "lvm_runtime/artifact/manifest.py": (f"{_ARTIFACT}/test_manifest.py", f"{_ARTIFACT}/test_folder.py"),
    "lvm_runtime/artifact/weights.py": (f"{_ARTIFACT}/test_weights.py",),
    "lvm_runtime/contexts.py": ("tests/lvm_runtime/test_contexts.py", "tests/lvm_runtime/test_norms.py"),
    "lvm_runtime/batcher.py": ("tests/lvm_runtime/test_batcher.py",),
    "lvm_runtime/selection/candidates.py": tuple(
        f"{_SELECTION}/test_{name}.py" for name in ("choice", "session", "tuning")
    ),
    "lvm_runtime/selection/choice.py": (f"{_SELECTION}/test_choice.py",),
    "lvm_runtime/selection/explanation.py": (f"{_SELECTION}/test_explanation.py",),
    "lvm_runtime/selection/measurements.py": (f"{_SELECTION}/test_measurements.py", f"{_SELECTION}/test_choice.py"),
    "lvm_runtime/selection/sequences.py": (f"{_SELECTION}/test_sequences.py",),
    "lvm_runtime/selection/session.py": (
        *(f"{_SELECTION}/test_{name}.py" for name in ("session", "choice")),
        "tests/lvm_runtime/test_norms.py",
    ),
    "lvm_runtime/selection/timing.py": (f"{_SELECTION}/test_timing.py",),
    "lvm_runtime/selection/tuning.py": (f"{_SELECTION}/test_tuning.py", f"{_SELECTION}/test_choice.py"),
    "lvm_runtime/bulk/destination.py": _RUNS,
    "lvm_runtime/bulk/journal.py": (f"{_BULK}/test_journal.py",),
    "lvm_runtime/bulk/output.py": (*_RUNS, _DURABILITY),
    "lvm_runtime/bulk/parts.py": (f"{_BULK}/test_parts.py", f"{_BULK}/test_resumption.py"),
    "lvm_runtime/bulk/predict.py": _RUNS,
    "lvm_runtime/bulk/source.py": (f"{_BULK}/test_bulk.py", f"{_BULK}/test_source.py"),
    "lvm_runtime/predictor.py": (
        *(f"tests/lvm_runtime/test_{name}.py" for name in ("predictor", "request", "arguments", "overlap")),
        f"{_SELECTION}/test_sequences.py",
    ),
    "lvm_runtime/retrieval/*.py": _RETRIEVAL,
    "export/forms/*.py": ("tests/export/test_forms.py", "tests/export/test_int8.py", "tests/export/test_recency.py"),
    "export/onnx/graph.py": _EXPORT,
    "export/onnx/quantise.py": _EXPORT,
    "export/verify.py": (
        "tests/export/test_verify.py",
        "tests/export/test_search_check.py",
        "tests/export/test_onnx.py",
    ),
    "train/checkpoint.py": ("tests/train/test_checkpoint.py", "tests/test_no_code_runs.py"),
    "train/data/windows.py": ("tests/train/data/test_windows.py",),
    "train/evaluation/gate.py": (f"{_EVALUATION}/test_gate.py",),
    "train/evaluation/metrics.py": (f"{_EVALUATION}/test_metrics.py",),
}
"""The modules, and the tests that say what each does. A mutant is tried with those that call its function."""

_READERS = ("lvm_runtime/batcher.py", "lvm_runtime/bulk/", "lvm_runtime/selection/")
"""Modules that no artifact is made with: all their mutants read the artifacts that the first run of the tests made."""

_LEFT_OUT = (
    f"{_SELECTION}/test_tuning.py::test_tuning_measures_everything_and_later_predictors_use_it",
    "tests/lvm_runtime/test_predictor.py::test_a_look_alike_for_documents_is_warned_of_where_it_was_asked_for",
    "tests/lvm_runtime/test_predictor.py::test_a_look_alike_is_never_chosen",
)
"""Every mutant of selection that survives would wait a minute for the first. The others look which line a warning
names, and mutmut's own calls lie between."""

_SETTINGS = """
[tool.mutmut]
source_paths = ["lvm_runtime", "train", "export", "benchmarks"]
only_mutate = ["{module}"]
pytest_add_cli_args_test_selection = [{tests}]
pytest_add_cli_args = ["-m", "not soak", "-p", "no:cacheprovider", "-p", "tests.slow_last", {left_out}]
process_isolation = "forkserver"  # torch and onnxruntime have threads, which a fork loses
timeout_constant = 5.0
timeout_multiplier = 10.0
track_dependencies = false
use_git_change_detection = false
do_not_mutate_patterns = ['''^\\s*f?"[^"]*"$''', '''raise \\w+\\(''']  # messages, of which tests look at the facts
"""


_STATUSES = "exit_code_by_key"

_GENERATE = """
from pathlib import Path
from mutmut import __main__ as mutmut

Path("mutants").mkdir()
mutmut.set_mutant_under_test("mutant_generation")
mutmut.copy_src_dir()
mutmut.copy_also_copy_files()
mutmut.create_mutants(1)
"""
"""The first step of `mutmut run`, which has no command of its own: names to draw from, before a test runs."""

_KILLED, _TIMEOUT = dict.fromkeys((1, 3, 255), "killed"), dict.fromkeys((24, 152, -24), "timeout")
_OUTCOMES: dict[int | None, str] = {0: "survived", 33: "no tests", **_KILLED, **_TIMEOUT}
"""Of the status that a mutant's tests ended with. 255 is an error that leaves pytest itself, such as that of a thread
while it ends; the same tests ran to their end before, without the mutant."""

_SPINNER = re.compile("^[\u2800-\u28ff] .*\n", re.MULTILINE)
_UNCALLED = "could not find any test case"
"""In what mutmut says where no test calls any function of the module, which is an error to it."""


class MutmutError(RuntimeError):
    """mutmut ended with another status than 0; the text has the end of what it printed."""


def changed() -> list[str]:
    """Return the modules of the core that differ from main, or whose tests do."""
    command = ["git", "diff", "--name-only", "--merge-base", "main"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"error: {found.stderr.strip()}; name the modules, or say --all")
    names = found.stdout.split()
    return [m for m, tests in CORE.items() if any(Path(name).match(m) or name in tests for name in names)]


@dataclass(frozen=True)
class Score:
    """How many of a module's mutants there are, were tried, and were noticed."""

    mutants: int
    tried: int
    noticed: int

    @property
    def share(self) -> float:
        """Return the share of the tried mutants that were noticed."""
        return self.noticed / max(self.tried, 1)


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share of `count` independent draws."""
    z = 1.96
    middle, width = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return (middle - width) / (1 + z * z / count), (middle + width) / (1 + z * z / count)


def overall(scores: list[Score]) -> tuple[float, float]:
    """Return the share noticed of all modules' mutants, and how many draws from all of them are worth the sample.

    A module counts by its number of mutants, so one that is sampled thinly makes the estimate worth fewer draws.
    """
    total = sum(score.mutants for score in scores)
    weights = [(score.mutants / total, score) for score in scores if score.tried]
    return sum(w * score.share for w, score in weights), 1 / sum(w * w / score.tried for w, score in weights)


def mutmut(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run mutmut in `folder` and return what it printed."""
    return _python(folder, "-m", "mutmut", *arguments, environment=environment)


def _python(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", **(environment or {})}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = _SPINNER.sub("", done.stdout + done.stderr)
        raise MutmutError(f"mutmut ends with status {done.returncode}:\n{said[-3000:]}")
    return done.stdout


def generate(folder: Path, module: str) -> list[str]:
    """Write the mutants of `module` below `folder` and return their names; `mutmut run` takes them as they are."""
    _python(folder, "-c", _GENERATE)
    return sorted(name for file in _results(folder, module) for name in json.loads(file.read_text())[_STATUSES])


def _results(folder: Path, module: str) -> list[Path]:
    return sorted((folder / "mutants").glob(f"{module}.meta"))


def try_module(module: str, processes: int, sample: int | None, seed: int) -> Score:
    """Print the score of a module's mutants and how each survivor differs, and return the score."""
    with tempfile.TemporaryDirectory(prefix="lvm-mutants-") as name:
        folder = Path(name)
        for path in ROOT.iterdir():
            if path.name != "pyproject.toml" and not path.name.startswith("."):
                (folder / path.name).symlink_to(path)
        tests = ", ".join(f'"{test}"' for test in CORE[module])
        left_out = ", ".join(f'"--deselect", "{test}"' for test in _LEFT_OUT)
        settings = _SETTINGS.format(module=module, tests=tests, left_out=left_out)
        (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings)
        mutants = generate(folder, module)
        count = len(mutants) if sample is None else min(sample, len(mutants))
        drawn = sorted(random.Random(f"{seed} {module}").sample(mutants, count))
        made = {"LVM_SMALL_ARTIFACTS": str(folder / "small-artifacts")} if module.startswith(_READERS) else None
        # With their names, mutmut first runs the tests by the ids that it runs them by for each mutant.
        try:
            mutmut(folder, "run", "--max-children", str(processes), *drawn, environment=made)
        except MutmutError as error:
            if _UNCALLED not in str(error):
                raise
            return _uncalled(module, mutants, drawn)
        statuses: dict[str, int | None] = {}
        for file in _results(folder, module):
            statuses |= json.loads(file.read_text())[_STATUSES]
        outcomes = {mutant: _OUTCOMES.get(statuses[mutant], f"status {statuses[mutant]}") for mutant in drawn}
        counts = Counter(outcomes.values())
        score = Score(len(mutants), len(drawn), counts["killed"] + counts["timeout"])
        print(f"{module}: {_line(score.share, score.tried)};", end=" ")
        print(f"{score.tried} of {len(mutants)} mutants tried; {dict(counts)}", flush=True)
        for mutant, outcome in outcomes.items():
            if outcome not in ("killed", "timeout"):
                shown = mutmut(folder, "show", mutant).splitlines()
                edits = [line for line in shown if line[:1] in "-+" and line[:3] not in ("---", "+++")]
                print(f"  {outcome}: {mutant}", *edits, sep="\n    ", flush=True)
    return score


def _uncalled(module: str, mutants: list[str], drawn: list[str]) -> Score:
    print(f"{module}: 0 of {len(drawn)} noticed, because no test that CORE lists for it calls any of it", flush=True)
    return Score(len(mutants), len(drawn), 0)


def _line(share: float, count: float) -> str:
    low, high = wilson(share, max(count, 1))
    return f"{share:.1%} noticed ({low:.1%} to {high:.1%})"


def main() -> int:
    """Parse the command line and try the modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="FILE", help="modules of the core")
    parser.add_argument("--all", action="store_true", help="the whole core")
    parser.add_argument("--processes", type=int, default=1, help="mutants that are tried at the same time")
    parser.add_argument("--sample", type=int, help="mutants of each module that are drawn and tried; all by default")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws others")
    options = parser.parse_args()
    if options.sample is not None and options.sample < 1:
        parser.error(f"--sample has to be 1 or more, got {options.sample}")
    if unknown := sorted(set(options.modules) - set(CORE)):
        parser.error(f"{unknown[0]} is not in CORE of tests/mutants.py, which says what its tests are")
    modules = list(CORE) if options.all else options.modules or changed()
    if not modules:
        print("no module of the core differs from main, and none of its tests")
    if options.sample is not None:
        print(f"{options.sample} mutants of each module, drawn by seed {options.seed}", flush=True)
    try:
        scores = [try_module(module, options.processes, options.sample, options.seed) for module in modules]
    except MutmutError as error:
        raise SystemExit(f"error: {error}") from None
    if len(scores) > 1:
        tried, mutants = sum(score.tried for score in scores), sum(score.mutants for score in scores)
        print(f"{len(scores)} modules: {_line(*overall(scores))}; {tried} of {mutants} mutants tried")
    return 1 if any(score.share < LEAST for score in scores) else 0


if __name__ == "__main__":
    raise SystemExit(main())
