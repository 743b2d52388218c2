"""The description of the machine: enough to compare results, nothing about whose it is."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from lvm_runtime.system import machine
from lvm_runtime.system.cpus import usable_cpus


def test_description_is_json_and_names_no_host() -> None:
    found = machine.describe()
    text = json.dumps(found)
    assert platform.node() not in text.replace(found["processor"], "") or len(platform.node()) < 4
    assert found["cpus"] == usable_cpus()
    assert found["memory_gib"] > 0.1
    assert set(found["versions"]) >= {"numpy", "onnxruntime", "torch"}


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ({"model name": "Intel(R) Xeon(R) 6975P"}, "Intel(R) Xeon(R) 6975P"),
        ({"model name": "AMD EPYC", "cpu family": "25", "model": "17"}, "AMD EPYC (family 25, model 17)"),
    ],
    ids=["full", "virtual-machine"],
)
def test_processor(info: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine, "_cpuinfo", lambda: info)
    assert machine.processor() == name


def test_features_are_those_that_decide_about_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": "fpu sse2 avx2 avx512_vnni rdrand"})
    assert machine.features() == ["avx2", "avx512_vnni"]


@pytest.mark.parametrize(
    ("architecture", "flags", "saturates"),
    [("x86_64", "avx2", True), ("x86_64", "avx2 avx512_vnni", False), ("aarch64", "asimd", False)],
    ids=["avx2", "vnni", "arm"],
)
def test_products_saturate_without_vnni(
    architecture: str, flags: str, saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": flags})
    assert machine.products_saturate() is saturates


def test_mac_features_come_from_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"machdep.cpu.brand_string": "Apple M1 Max", "hw.optional.arm.FEAT_DotProd": "1"}
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine, "_sysctl", lambda name: answers.get(name, ""))
    assert machine.processor() == "Apple M1 Max"
    assert machine.features() == ["FEAT_DotProd"]


def test_line_names_the_hardware() -> None:
    described = {"processor": "Testium", "cpus": 2, "memory_gib": 8.0, "features": ["avx2", "amx_int8"]}
    assert machine.line(described | {"cpus": 1, "accelerators": []}) == "Testium; 1 CPU; 8.0 GiB; amx_int8"
    assert machine.line(described | {"accelerators": ["GPU"]}) == "Testium; 2 CPUs; 8.0 GiB; amx_int8; GPU"


def test_identity_holds_what_a_measurement_depends_on() -> None:
    found = machine.identity()
    assert (found["processor"], found["system"]) == (machine.processor(), machine.system())
    assert found["features"].split() == machine.features()


def test_importing_it_loads_nothing_slow() -> None:
    slow = {"subprocess", "importlib.metadata", "psutil", "torch"}
    if sys.version_info < (3, 11):
        slow.remove("subprocess")  # Python's own platform module imports it there
    code = f"import sys, lvm_runtime.system.machine; print(sorted({slow} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
