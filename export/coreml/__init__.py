"""Core ML packages that the Neural Engine can take, proved before they reach a Mac.

python -m export.coreml --model amn
"""

from .export import export_coreml
from .options import CoreMLOptions

__all__ = ["CoreMLOptions", "export_coreml"]
