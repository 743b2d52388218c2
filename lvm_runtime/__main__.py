"""`python -m lvm_runtime`: the `lvm-runtime` command."""

import sys

from lvm_runtime.commands.main import main

sys.exit(main())
