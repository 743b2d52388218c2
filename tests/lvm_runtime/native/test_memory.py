"""Where the engine's memory lies: weights in huge pages, which a core reads faster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lvm_runtime.native.test_engine import Case

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SCRIPT = """
import sys
from lvm_runtime.native import _engine
from tests.memory import in_huge_pages
content = open(sys.argv[1], "rb").read()
bytes(30_000_000)  # once this is given back, what follows lies on the heap
used = [b"1" * 100_000 for _ in range(300)]
last = used.pop()
del used
before = in_huge_pages()
engine = _engine.Engine(content)
print(in_huge_pages() - before)
"""


@pytest.mark.skipif(not ENABLED.exists() or "[never]" in ENABLED.read_text(), reason="there are no huge pages here")
def test_weights_lie_in_huge_pages(tmp_path: Path) -> None:
    """5 MB of weights, also where the process has used and given back memory in small pages."""
    Case("lstm", tmp_path, rows=1, dim=768, hidden_dim=512)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "lstm.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) >= 6
