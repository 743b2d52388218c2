"""What would keep a Core ML program off the Neural Engine, told before it reaches a device.

    lvm-runtime export ane-lint PACKAGE

Errors keep operations off the engine, warnings may do so or may cost digits, notes are worth a look on the device.
Core ML decides in the end; `lvm-runtime placement PACKAGE` on a Mac shows what it decided.
"""

from .findings import Finding, Level
from .lint import lint_package, report

__all__ = ["Finding", "Level", "lint_package", "report"]
