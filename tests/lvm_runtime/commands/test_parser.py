"""What a command line with a slip in it is told: the usage of its command, and what may have been meant."""

from __future__ import annotations

import pytest

from lvm_runtime.commands import console
from lvm_runtime.commands.main import main
from lvm_runtime.commands.parser import Parser

Capture = pytest.CaptureFixture[str]

SLIPS = {
    "complete but for it": ("info amn --bogus", "info", "--bogus"),
    "before what is required": ("predict --bogus", "predict", "--bogus"),
    "like another": ("serve amn --max-drfit 1e-3", "serve", "--max-drfit; did you mean --max-drift?"),
    "with a value": ("tune amn --precison=int8", "tune", "--precison=int8; did you mean --precision?"),
    "in the place of a required one": ("train --modle amn", "train", "--modle; did you mean --model?"),
    "two": ("tune amn --thraeds 1 --bogus", "tune", "--thraeds --bogus; did you mean --threads?"),
    "of a format": ("export onnx --model amn --dta x", "export onnx", "--dta; did you mean --data?"),
    "a part of two": ("serve amn --port 80", "serve", "--port; did you mean --http-port or --grpc-port?"),
    "of another format": (
        "export --model amn --precision int8",
        "export",
        "--precision; a format's own command, such as `{program} export onnx`, has it",
    ),
    "a word too many": ("info amn lstm", "info", "lstm"),
    "before the command": ("--backend onnx info amn", "", "--backend"),
    "a letter before the command": ("-x info amn", "", "-x"),
    "control characters": ("info amn --\x1b[31m", "info", "--\\x1b[31m"),
}


@pytest.mark.parametrize(("line", "command", "told"), SLIPS.values(), ids=SLIPS.keys())
def test_a_slip_is_told_with_the_usage_of_its_command(line: str, command: str, told: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(line.split(" "))
    assert end.value.code == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert f"{command} [-h]" in first
    told = told.format(program=console.program())
    assert last.endswith(f"{command}: error: unrecognized arguments: {told}")


def test_what_argparse_takes_is_taken() -> None:
    parser = Parser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--threads", type=int)
    found = parser.parse_args(["--thr=3", "a", "-5", "--a word with spaces", "--", "--bogus"])
    assert (found.threads, found.words[0], found.words[-1]) == (3, "a", "--bogus")


def test_a_value_that_is_missing_is_told_as_such(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["tune", "amn", "--threads"])
    assert capsys.readouterr().err.endswith("tune: error: argument --threads: expected one argument\n")
