"""`python -m lvm_runtime`: the `lvm-runtime` command."""

import sys

from lvm_runtime.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
