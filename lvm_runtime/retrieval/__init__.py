"""Find chunks by vectors: an index over a corpus, and the chunks that a model says come next."""

from lvm_runtime.retrieval.index import Hits, Index
from lvm_runtime.retrieval.next import Found, next_chunks

__all__ = ["Found", "Hits", "Index", "next_chunks"]
