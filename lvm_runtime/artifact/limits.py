"""How large the parts of an artifact may be.

An artifact may come from a stranger. Each limit is checked before the part is read, so that a small file cannot ask
for much memory or time. Models of this project are 1 to 20 million weights; the limits leave room for 50 times that.
"""

from __future__ import annotations

LARGEST_FILE = 4 << 30
"""Bytes of one file or package. The largest model here has 72 MB, and protobuf ends at 2 GiB; 4 GiB hash in seconds."""

LARGEST_MANIFEST = 4 << 20
"""Bytes of `manifest.json`. A manifest of eight forms has 12 KB."""

DEEPEST_JSON = 32
"""Nesting of objects and arrays in JSON. A manifest has 5 levels; Python's own limit is an error without a name."""

LARGEST_FINGERPRINT = 256 << 20
"""Bytes of `fingerprint.npz`: 32 probes of D = 768 have 0.7 MB, of D = 8,192 and T = 100 they have 107 MB."""

MOST_PROBES = 256
"""Probes in a fingerprint; 32 are written. Each backend answers all of them when it is built."""

LARGEST_WEIGHTS_HEADER = 1 << 20
"""Bytes of the JSON header of a safetensors file. A tensor takes about 120; safetensors itself allows 100 MB."""

MOST_PACKAGE_FILES = 1000
"""Files and folders in a package. A Core ML package has about 10."""

MOST_COMPILED = 256
"""Compiled forms of one artifact. All formats and precisions make about 12."""

LARGEST_BATCH = 4096
"""Rows of a fixed batch size. The probes are filled up to it when a backend is built; Core ML exports use 128."""

MOST_BATCH_SIZES = 64
"""Fixed batch sizes of one compiled form."""

LARGEST_PATH = 256
"""Characters of a path inside an artifact."""
