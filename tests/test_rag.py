"""The way from text to the text that comes next, as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.soak
def test_it_ends_with_its_table_and_three_examples(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rag", "--out", str(tmp_path), "--models", "amn"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    table = re.findall(r"^  (\S.*?)  +((?:\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] *){4})$", done.stdout, re.MULTILINE)
    assert [name for name, _ in table] == [
        "no model: last chunk",
        "linear average",
        "recency average",
        "ridge map",
        "amn",
    ]
    for label in ("the last chunk", "what follows", "predicted"):
        assert done.stdout.count(f"\n  {label}  ") == 3
    asked = re.search(r"lvm-runtime (next .*)$", done.stdout, re.MULTILINE)
    assert asked is not None
    answer = subprocess.run(
        [sys.executable, "-m", "lvm_runtime", *asked[1].split()], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert answer.returncode == 0, answer.stderr
    assert "found with the last chunk alone" in answer.stdout
