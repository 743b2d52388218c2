"""The `lvm-runtime` command, which is `python -m lvm_runtime` as well."""

import signal
import sys


def main() -> int:
    """Run the command and return its exit status, for a process that ends with it: Ctrl-C has no traceback."""
    try:
        from lvm_runtime.commands.main import main as command  # here, where Ctrl-C is caught meanwhile

        return command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # or a Ctrl-C while frameworks shut down has a traceback


if __name__ == "__main__":
    sys.exit(main())
