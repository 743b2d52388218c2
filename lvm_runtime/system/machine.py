"""Which machine this is: enough to compare two measurements, nothing that names a person or a host."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lvm_runtime.errors import counted
from lvm_runtime.system.cpus import usable_cpus
from lvm_runtime.system.imports import load

PACKAGES = (
    "numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "coremltools", "coreai-core",
    "coreai-torch", "mlx", "lvm_runtime",
)  # fmt: skip
FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip


def identity() -> dict[str, str]:
    """Return what a measurement depends on besides the model and the libraries: the processor, system and Python.

    A processor's features stand beside its name, because a virtual machine may hide some of them.
    """
    found = {"processor": processor(), "features": " ".join(features())}
    return found | {"system": system(), "python": platform.python_version()}


def describe() -> dict[str, Any]:
    """Return the processor and its features, CPUs usable, memory, system, accelerators and library versions."""
    return {
        "processor": processor(),
        "features": features(),
        "architecture": platform.machine(),
        "cpus": usable_cpus(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "system": system(),
        "python": platform.python_version(),
        "accelerators": accelerators(),
        "versions": versions(PACKAGES),
    }


def line(described: Mapping[str, Any]) -> str:
    """Return the hardware of what `describe` returned, here or on another machine, in one line."""
    parts = [described["processor"], counted(described["cpus"], "CPU"), f"{described['memory_gib']} GiB"]
    if wide := [name for name in described["features"] if name not in ("avx2", "asimd")]:
        parts.append(", ".join(wide))
    return "; ".join([*parts, *described["accelerators"]])


def system() -> str:
    """Return the operating system and its version."""
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return f"{platform.system()} {platform.release()}"


def processor() -> str:
    """Return the processor's name, with its family where the name says little (virtual machines)."""
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    info = _cpuinfo()
    name = info.get("model name") or info.get("Model") or platform.processor() or platform.machine()
    if not any(c.isdigit() for c in name) and "cpu family" in info:
        name += f" (family {info['cpu family']}, model {info.get('model', '?')})"
    return name


def features() -> list[str]:
    """Return the instruction sets that decide about matrix products."""
    if platform.system() == "Darwin":
        names = ("FEAT_DotProd", "FEAT_I8MM", "FEAT_BF16", "FEAT_SME")
        return [name for name in names if _sysctl(f"hw.optional.arm.{name}") == "1"]
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [name for name in FEATURES if name in flags]


def products_saturate() -> bool:
    """Return whether onnxruntime's products of u8 by s8 overflow 16 bits here: x86 without VNNI or AMX.

    There, two neighbouring products are added up in 16 bits; weights of 7 bits keep that exact.
    """
    exact = {"avx512_vnni", "avx_vnni", "amx_int8"}
    return platform.machine().lower() in ("x86_64", "amd64") and not exact & set(features())


def memory_bytes() -> int:
    """Return the machine's memory; 0 where the system does not say (Windows)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def accelerators() -> list[str]:
    """Return the GPUs that PyTorch sees; empty without PyTorch."""
    try:
        torch = load("torch")
    except ImportError:
        return []
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["Apple GPU (MPS)"] if torch.backends.mps.is_available() else []


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of `packages` that are installed."""
    from importlib import metadata  # takes 20 ms to import, and a Predictor seldom needs it

    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> dict[str, str]:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            pairs = [line.partition(":") for line in _until_blank(lines)]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in pairs}


def _until_blank(lines: Iterable[str]) -> Iterable[str]:
    """Yield the lines of the first CPU: a machine with hundreds takes milliseconds to list them all."""
    for text in lines:
        if not text.strip():
            return
        yield text


def _sysctl(name: str) -> str:
    import subprocess  # on macOS alone

    done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip()
