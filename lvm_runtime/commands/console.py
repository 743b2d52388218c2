"""What every command line of this project does with names, errors, strange characters and Ctrl-C."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lvm_runtime.errors import ITEM, InvalidInput, LvmError

_typed: dict[str, str] = {}
"""How the options of the command line in hand are typed, by their names in Python."""


def run(main: Callable[[], int | None]) -> int:
    """Call `main` and return an exit status: 0, or 1 after a one-line error, or 130 after Ctrl-C, or 141.

    The last one, as the shell has it, is for a reader of our output, `head` say, that left before the work was done.

    Errors that this project raises on purpose and those of the operating system (a file that is missing, a full disk,
    no memory) become one line, and one more for each item of a list; anything else is a bug and keeps its traceback.
    Characters that the terminal's, or the file's, encoding does not have are escaped.
    """
    _typed.clear()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return main() or 0
    except LvmError as error:
        return _fail(as_typed(str(error), _typed))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except MemoryError as error:
        return _fail(f"not enough memory ({error})" if str(error) else "not enough memory")
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{where}{error.strerror or error}")


def _fail(message: str) -> int:
    lines = (" ".join(item.split()) for item in message.split(ITEM))
    print(f"error: {printable(ITEM.join(lines))}", file=sys.stderr)
    return 1


def remember_options(parser: argparse.ArgumentParser) -> None:
    """Let errors name the options of `parser` as they are typed."""
    _typed.update((action.dest, action.option_strings[-1]) for action in parser._actions if action.option_strings)


def as_typed(message: str, options: Mapping[str, str]) -> str:
    """Return a message that begins with the name of an option with the options spelled as they are typed.

    >>> as_typed("max_batch is 0, expected 1 or more", {"max_batch": "--max-batch"})
    '--max-batch is 0, expected 1 or more'
    """
    begins = re.match(r"(\w+) (is|was|and) ", message)
    if begins is None or begins[1] not in options:
        return message
    return re.sub(r"^\w+|[a-z]+(_[a-z]+)+", lambda name: options.get(name[0], name[0]), message)


def refuse_given(options: argparse.Namespace, names: Iterable[str], reason: str) -> None:
    """Raise InvalidInput if one of the options `names`, whose default is None, was given: it would have no effect.

    >>> refuse_given(argparse.Namespace(cpus=2), ["cpus"], "is for --ray")
    Traceback (most recent call last):
    lvm_runtime.errors.InvalidInput: --cpus is for --ray
    """
    for name in names:
        if getattr(options, name.replace("-", "_")) is not None:
            raise InvalidInput(f"--{name} {reason}")


def printable(text: str) -> str:
    """Return `text` with control characters escaped, as names and metadata read from files may hold them.

    >>> printable("red\\x1b[31m")
    'red\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def show(text: object) -> None:
    """Print `text` to stdout with control characters escaped."""
    print(printable(str(text)), flush=True)


def note(text: object) -> None:
    """Print to stderr, with control characters escaped, what is beside the result."""
    print(printable(str(text)), file=sys.stderr)


def program() -> str:
    """Return what the user typed to start this process: `lvm-runtime`, or `python -m train` and the like."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"


def fields(values: Iterable[tuple[str, Any]]) -> str:
    """Return names and values as one line, numbers to four digits."""
    return ", ".join(f"{name} {short(value)}" for name, value in values)


def short(value: object) -> str:
    """Return a value as text, a float to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
