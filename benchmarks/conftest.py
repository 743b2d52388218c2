"""Options and fixtures of the benchmarks: `pytest benchmarks/ --benchmark-only`.

One session measures everything in one process, because only what was measured side by side is compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.logger import PytestBenchmarkWarning

from benchmarks.harness.arena import EFFORTS, Arena, Cell
from benchmarks.harness.contender import ANCHOR
from benchmarks.harness.contenders import available, contender, not_measured
from benchmarks.harness.progress import Progress, Stop
from benchmarks.harness.record import cell_record
from benchmarks.harness.replay import recorded_clock, replay
from benchmarks.harness.workload import Workload
from benchmarks.limits.ceilings import Ceilings, measure
from benchmarks.report.read import read
from benchmarks.report.regression import Change, missing, regressions
from benchmarks.report.results import DIM, Row, disturbed, require_one_size, rows_of
from benchmarks.report.tables import count, plus_minus
from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS
from lvm_runtime.errors import InvalidInput
from lvm_runtime.system import machine

FAILED_PEERS = pytest.StashKey[dict[str, str]]()
CEILINGS = pytest.StashKey[Ceilings]()
RECORDS = pytest.StashKey[list[dict[str, Any]]]()

STORED = pytest.StashKey[Sequence[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the selections; each may be repeated or hold a list with commas."""
    group = parser.getgroup("lvm benchmarks")
    for name, what in (
        ("model", f"architectures to measure: {', '.join(ARCHITECTURES)} (default: all)"),
        ("backend", "backends to measure, ours and peers: onnx, torchscript, openvino, … (default: all present)"),
        ("batch", "batch sizes to measure (default: those of the suite)"),
    ):
        group.addoption(f"--{name}", action="append", default=[], metavar="A,B", help=what)
    group.addoption("--effort", choices=EFFORTS, default="full", help="how long to measure (default: full)")
    group.addoption("--dim", type=int, metavar="N", help=f"size of the vectors (default: {DIM})")
    group.addoption("--tiny", action="store_true", help="small models, to try the benchmarks out; no figures to quote")
    group.addoption("--against", type=Path, metavar="STORED.json", help="an earlier result file to compare with")
    group.addoption(
        "--fail-below",
        type=float,
        metavar="RATIO",
        help="fail if a form's speed over the plain export fell below RATIO of what --against holds",
    )


def _selected(config: pytest.Config, name: str) -> set[str]:
    return {part for value in config.getoption(f"--{name}") for part in value.split(",") if part}


def _dim(config: pytest.Config) -> int:
    small = min(cls.small["dim"] for cls in CONFIGS.values())
    return int(config.getoption("--dim") or (small if config.getoption("--tiny") else DIM))


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a selection that names nothing known."""
    # peers warn of their own deprecations, at compile time too; that is theirs to mend and no failure here
    for category in ("DeprecationWarning", "FutureWarning", "UserWarning"):
        config.addinivalue_line("filterwarnings", f"ignore::{category}")
    warnings.simplefilter("default", PytestBenchmarkWarning)  # nothing was measured before a stop: no error
    config.option.showcapture = "no"
    config.pluginmanager.register(Progress(partial(_write_line, config)))
    config.pluginmanager.register(Stop())
    config.stash[FAILED_PEERS] = {}
    config.stash[RECORDS] = []
    if (config.getoption("--against") is None) != (config.getoption("--fail-below") is None):
        raise pytest.UsageError("--against and --fail-below belong together")
    if (against := config.getoption("--against")) is not None:
        try:
            config.stash[STORED] = read(against).rows
            require_one_size((*config.stash[STORED], Row({"dim": _dim(config)})))
        except InvalidInput as error:
            raise pytest.UsageError(str(error)) from error
    for name, known in (
        ("model", set(ARCHITECTURES)),
        ("backend", {c.backend for c in available()}),
    ):
        if unknown := sorted(_selected(config, name) - known):
            raise pytest.UsageError(f"--{name} {unknown[0]}: unknown here; expected one of {', '.join(sorted(known))}")


def _write_line(config: pytest.Config, line: str) -> None:
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    terminal.ensure_newline()
    terminal.write_line(line)
    terminal.flush()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Spread a benchmark over the selected architectures, batch sizes (`BATCHES` of its module) and contenders."""
    config, names = metafunc.config, metafunc.fixturenames
    if "architecture" in names:
        chosen = _selected(config, "model")
        metafunc.parametrize("architecture", [a for a in ARCHITECTURES if not chosen or a in chosen], scope="session")
    if "batch" in names:
        chosen = _selected(config, "batch")
        batches = [b for b in metafunc.module.BATCHES if not chosen or str(b) in chosen]
        metafunc.parametrize("batch", batches, ids=[f"b{b}" for b in batches])
    if "contender_name" in names:
        chosen = _selected(config, "backend")
        metafunc.parametrize("contender_name", [c.name for c in available() if not chosen or c.backend in chosen])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let pytest-benchmark read the arena's recorded times instead of a clock, where a test replays them.

    A cell is measured in the set-up of its first test, and on a slow machine that takes longer than any test may.
    """
    for item in items:
        item.add_marker(pytest.mark.timeout(0))
        if "recorded_benchmark" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=recorded_clock))


@pytest.fixture(scope="session")
def workloads() -> dict[str, Workload]:
    """Workloads made so far, by architecture; use `workload`."""
    return {}


@pytest.fixture
def workload(
    architecture: str,
    workloads: dict[str, Workload],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Workload:
    """An artifact with random weights, contexts and known answers of one architecture; T = 5, D = 768 or --dim."""
    if architecture not in workloads:
        sizes = CONFIGS[architecture].small if request.config.getoption("--tiny") else {}
        sizes = {**sizes, "dim": _dim(request.config)}
        workloads[architecture] = Workload(architecture, tmp_path_factory.mktemp("models"), **sizes)
    return workloads[architecture]


@pytest.fixture(scope="session")
def arena(request: pytest.FixtureRequest) -> Arena:
    """Measures each cell once."""
    return Arena(EFFORTS[request.config.getoption("--effort")])


@pytest.fixture(scope="session")
def ceilings(request: pytest.FixtureRequest) -> Ceilings:
    """The product rates and read bandwidths that this machine reaches in this session."""
    effort = EFFORTS[request.config.getoption("--effort")]
    found = measure(effort.product_widths, seconds=min(effort.seconds, 0.03))
    request.config.stash[CEILINGS] = found
    return found


@pytest.fixture
def cell(workload: Workload, batch: int, arena: Arena, request: pytest.FixtureRequest) -> Cell:
    """The measured cell of this architecture and batch, with every contender that this session selected for it."""
    mine = {"architecture": workload.architecture, "batch": batch}
    names: list[str] = []
    for item in request.session.items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if "contender_name" in params and all(params.get(key) == value for key, value in mine.items()):
            names.append(str(params["contender_name"]))
    return arena.cell(workload, batch, names)


@pytest.fixture
def recorded_benchmark(benchmark: Any) -> Any:
    """pytest-benchmark's fixture for times that were taken elsewhere; give them to it with `replay`."""
    return benchmark


@pytest.fixture
def measured(
    recorded_benchmark: Any,
    ceilings: Ceilings,
    cell: Cell,
    workload: Workload,
    contender_name: str,
    request: pytest.FixtureRequest,
) -> dict[str, Any]:
    """The record of one contender; it goes into `extra_info`, its calls into pytest-benchmark's statistics."""
    if contender_name in cell.failed:
        reason = f"{contender_name} was not measured: {cell.failed[contender_name]}"
        if contender(contender_name).ours:
            pytest.fail(reason, pytrace=False)
        request.config.stash[FAILED_PEERS][contender_name] = cell.failed[contender_name]
        pytest.skip(reason)
    suite = request.module.__name__.rpartition("test_")[2]
    record = {"suite": suite, **cell_record(cell, ceilings, workload, contender_name)}
    recorded_benchmark.group = f"{suite} {workload.architecture} batch {record['batch']}"
    recorded_benchmark.extra_info.update(record)
    request.config.stash[RECORDS].append(record)
    replay(recorded_benchmark, cell.measured[contender_name].timing.calls)
    return record


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Describe the machine in a way that is the same from run to run, without the host's name."""
    machine_info.clear()
    machine_info.update(machine.describe())


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Add what could not be measured, and leave the single calls out: statistics and noise say it in a hundredth."""
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)
    output_json["not_measured"] = not_measured() | config.stash[FAILED_PEERS]
    if CEILINGS in config.stash:
        output_json["ceilings"] = config.stash[CEILINGS].to_dict()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a regression against the stored result into a failed run."""
    config = session.config
    if config.getoption("--fail-below") is not None and session.exitstatus == pytest.ExitCode.OK and _slower(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _slower(config: pytest.Config) -> list[Change]:
    records, stored = config.stash[RECORDS], config.stash[STORED]
    return regressions(rows_of(records), stored, config.getoption("--fail-below"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how our forms stand against their peers, what could not be measured, and what became slower."""
    records = config.stash[RECORDS]
    ours = [row for row in rows_of(records) if row.ours]
    if ours:
        terminalreporter.section(
            "predictions per second: ours, × plain onnxruntime fp32, × best peer of equal precision, ± 95 % interval"
        )
    for row in ours:
        ratios = ((row.over_anchor, ANCHOR), (row.over_best_peer, row.best_peer))
        figures = " ".join(f"{plus_minus(ratio, row.interval(over)):>14}" for ratio, over in ratios)
        terminalreporter.line(
            f"{row.model:12} batch {row.batch:<5} {row.contender:24} {count(row.per_second):>6} {figures}"
        )
    if cells := disturbed(rows_of(records)):
        terminalreporter.line(
            f"other programs kept the CPUs busy (share of all CPUs), do not quote: {', '.join(cells)}", red=True
        )
    if absent := not_measured() | config.stash[FAILED_PEERS]:
        for reason in sorted(set(absent.values())):
            names = sorted(name for name, why in absent.items() if why == reason)
            terminalreporter.line(f"not measured: {', '.join(names)}: {reason}")
    if config.getoption("--fail-below") is not None and ours:
        for change in _slower(config):
            terminalreporter.line(f"slower: {change}", red=True)
        for line in missing(rows_of(records), config.stash[STORED]):
            terminalreporter.line(f"not compared: {line}")
