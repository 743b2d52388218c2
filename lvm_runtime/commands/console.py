"""What every command line of this project does with errors and with Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lvm_runtime.errors import LvmError


def run(main: Callable[[], int | None]) -> int:
    """Call `main` and return an exit status: 0, or 1 after a one-line error, or 130 after Ctrl-C.

    Only errors that this project raises on purpose become one line; anything else is a bug and keeps its traceback.
    """
    try:
        return main() or 0
    except LvmError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stderr.close()
        return 0
