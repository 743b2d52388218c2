"""The parser of every command line: an error about an option shows the usage of the command that it was given to.

argparse hands an option that a command does not have back to the program's parser, whose usage does not list the
command's options, and it complains of missing arguments first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NoReturn

from lvm_runtime.commands.console import printable, remember_options

_ALIKE = 0.7  # of difflib's ratio: `drift` is like `max-drift`, and `bogus` is not like `gpus`


class Parser(argparse.ArgumentParser):
    """Ends with status 2 at an option that it does not have, and names the one that may have been meant."""

    elsewhere: Mapping[str, str] = {}
    """Options of other commands, each with the command that has it."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse as argparse does, for the parsers of commands and of the program alike; all has to be known."""
        given = list(sys.argv[1:] if args is None else args)
        if unknown := [word for word in self._long_options(given) if not self._knows(word)]:
            self._refuse(unknown)
        found, left = super().parse_known_args(given, namespace)
        if left:
            self._refuse(left)
        remember_options(self)
        return found, left

    def _long_options(self, given: Sequence[str]) -> list[str]:
        """Return the words that can only be options: of a parser with commands, what comes before the command."""
        words = takewhile(lambda word: word != "--", given)
        if self._subparsers is not None:
            return list(takewhile(lambda word: word.startswith("-"), words))
        return [word for word in words if word.startswith("--") and " " not in word]

    def _knows(self, word: str) -> bool:
        name = word.partition("=")[0]
        return any(known.startswith(name) for known in self._option_string_actions)  # argparse takes a beginning too

    def _refuse(self, words: Sequence[str]) -> NoReturn:
        asked = [word.partition("=")[0].lstrip("-") for word in words if word.startswith("--")]
        near = list(filter(None, map(self._near, asked)))
        others = [self.elsewhere[option] for name in asked if (option := f"--{name}") in self.elsewhere]
        hint = f"; did you mean {' and '.join(near)}?" if near else f"; {others[0]} has it" if others else ""
        self.error(printable(f"unrecognized arguments: {' '.join(words)}{hint}"))

    def _near(self, asked: str) -> str:
        """Return the option that is most like what was `asked`, or those that it is a part of."""
        import difflib

        names = {name.lstrip("-"): name for name in self._option_string_actions}
        parts = [name for name in names if asked in name.split("-")]
        return " or ".join(names[name] for name in difflib.get_close_matches(asked, names, 1, _ALIKE) or parts)
