"""Sphinx's settings. Build with `make docs`; every warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import lvm_runtime

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folders train and export, which only a checkout has

project = "lvm_runtime"
author = "the authors of lvm_runtime"
copyright = "the authors of lvm_runtime, Apache-2.0"
version = release = lvm_runtime.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "code"  # docstrings write `code` in single backticks

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
python_trailing_comma_in_multi_line_signatures = False

html_theme = "furo"
html_title = "lvm_runtime"
html_static_path = ["_static"]
html_css_files = ["guide.css"]
html_show_sourcelink = False

ARRAY = re.compile(r"~numpy\.ndarray\[.*?~numpy\.float32\]\]")


def name_arrays(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returned: str) -> Any:
    """Write the type of a float32 array as the code does, which autodoc spells out."""
    return tuple(text and ARRAY.sub("Array", text) for text in (signature, returned))


def setup(app: Any) -> None:
    """Register the hook."""
    app.connect("autodoc-process-signature", name_arrays)
