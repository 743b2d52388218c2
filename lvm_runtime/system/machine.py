"""What the benchmarks ran on: enough to compare two result files, nothing that names a person or a host."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from lvm_runtime.system.cpus import usable_cpus

PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "coremltools", "lvm_runtime")
FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Return the processor and its features, CPUs usable, memory, system, accelerators and library versions."""
    return {
        "processor": processor(),
        "features": features(),
        "architecture": platform.machine(),
        "cpus": usable_cpus(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "accelerators": accelerators(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def slug(machine: dict[str, Any]) -> str:
    """Return a file name for results of this machine, from its processor and CPUs."""
    words = "".join(c if c.isalnum() else " " for c in str(machine["processor"]).lower()).split()
    return "-".join([*words, f"{machine['cpus']}cpu"])


def processor() -> str:
    """Return the processor's name, with its family where the name says little (virtual machines)."""
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    info = _cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
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
    """Return the machine's memory."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import psutil

    return int(psutil.virtual_memory().total)


def seconds_elsewhere() -> float:
    """Return the CPU seconds that all CPUs together have spent on anything but this process, since some moment."""
    import psutil

    spent = psutil.cpu_times()._asdict()
    idle = sum(spent.get(kind, 0.0) for kind in ("idle", "iowait"))
    twice = sum(spent.get(kind, 0.0) for kind in ("guest", "guest_nice"))  # Linux counts them as user and nice too
    return sum(spent.values()) - idle - twice - time.process_time()


def accelerators() -> list[str]:
    """Return the GPUs that PyTorch sees; empty without PyTorch."""
    try:
        import torch
    except ImportError:
        return []
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["Apple GPU (MPS)"] if torch.backends.mps.is_available() else []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _sysctl(name: str) -> str:
    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True)
    return done.stdout.strip()
