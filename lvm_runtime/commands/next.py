"""`lvm-runtime next ARTIFACT --index CORPUS`: the chunks that are likely to come next in a text."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.arguments import whole_number
from lvm_runtime.artifact.folder import read_config
from lvm_runtime.commands.console import refuse_given, show
from lvm_runtime.commands.embed import add_encoder
from lvm_runtime.commands.request_options import add_artifact, add_request_options, request_from
from lvm_runtime.corpus.corpus import open_corpus
from lvm_runtime.corpus.documents import run_begins
from lvm_runtime.errors import InvalidInput, counted
from lvm_runtime.predictor import Predictor
from lvm_runtime.retrieval.index import Index
from lvm_runtime.retrieval.next import Found, last_chunk_finds, next_chunks
from lvm_runtime.text.encoder import Encoder
from lvm_runtime.text.reading import SUFFIXES, read_text

DESCRIPTION = """Cut a text into chunks as its corpus was cut, predict the vector of the chunk after the last one, and
print the chunks of the corpus that are nearest to it. The chunks that the model read are left out."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    add_artifact(parser)
    parser.add_argument("--index", type=Path, required=True, help="a folder from `index`, or the corpus that it is of")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--document", default="-", help=f"a text ({', '.join(SUFFIXES)}); - is stdin (default)")
    given.add_argument("--vectors", type=Path, help="vectors of a text, or contexts [n, T, D], in the place of a text")
    parser.add_argument("-k", type=int, default=5, help="chunks to print (default: 5)")
    parser.add_argument("--compare", action="store_true", help="print also what a search with the last chunk finds")
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with the chunks' whole texts; of contexts a list"
    )
    add_encoder(parser, None, "--encoder-device")
    add_request_options(parser)


def run(options: argparse.Namespace) -> None:
    """Search and print what was found."""
    if options.vectors is not None:
        refuse_given(options, ("encoder", "encoder-device"), "is for a text; --vectors are not encoded")
    request, k = request_from(options), whole_number(options.k, "k")
    index = Index.open(options.index)
    config = read_config(options.artifact)  # what is given is looked at first: loading the model takes longer
    if config.dim != index.record.dim:
        raise InvalidInput(
            f"{options.artifact} has D={config.dim}, {index.path} has D={index.record.dim}; give the "
            "index of a corpus of the encoder that the model was trained with"
        )
    if options.vectors is not None:
        contexts = _contexts_of(options.vectors, config.context_length, config.dim)
    else:
        name = _encoder_of(options, index)
        text = _read_stdin() if options.document == "-" else read_text(Path(options.document))
    with Predictor.from_request(options.artifact, request) as predictor:
        if options.vectors is None:
            contexts = _context_of_text(text, name, options, index, config.context_length)
        found = {"next": next_chunks(predictor, index, contexts, k)}
        if options.compare:
            found["last_chunk"] = last_chunk_finds(predictor, index, contexts, k)
    hits = [dict(zip(found, lists, strict=True)) for lists in zip(*found.values(), strict=True)]
    if options.json:
        body = [_json(of_one) for of_one in hits]
        show(json.dumps(body if contexts.ndim == 3 else body[0], indent=1))  # in ASCII: the rest is escaped
        return
    for number, of_one in enumerate(hits):
        if contexts.ndim == 3:
            show(f"context {number}")
        show(_text(of_one))


def _contexts_of(path: Path, length: int, dim: int) -> NDArray[Any]:
    """Return the contexts `[n, T, D]` of a file, or the last window `[T, D]` of its last document."""
    corpus = open_corpus(path, context_length=length, dim=dim)
    values = corpus.values
    if values.ndim == 3:
        return values
    begin = 0 if corpus.doc_ids is None or not len(values) else int(run_begins(corpus.doc_ids)[-1])
    if len(values) - begin < length:
        where = " in the last document" if begin else ""
        raise InvalidInput(
            f"{path}: {counted(len(values) - begin, 'vector')}{where}, expected at least the {length} that the model "
            "reads"
        )
    return values[-length:]


def _read_stdin() -> str:
    if sys.stdin is None:
        raise InvalidInput("stdin: is closed; give a text there, or --document")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"stdin: cannot be read as {error.encoding} text ({error.reason})") from error


def _encoder_of(options: argparse.Namespace, index: Index) -> str:
    """Return the name of the encoder for the text."""
    name = options.encoder or (index.corpus.columns.made or {}).get("encoder")
    if name is None:
        raise InvalidInput(f"{index.corpus.name} does not say which encoder made it; give --encoder, or --vectors")
    return str(name)


def _context_of_text(
    text: str, name: str, options: argparse.Namespace, index: Index, length: int
) -> NDArray[np.float32]:
    """Return the vectors `[T, D]` of the last chunks of the text."""
    source = "stdin" if options.document == "-" else options.document
    made = index.corpus.columns.made or {}
    encoder = Encoder(name, options.encoder_device or "auto")
    if made and not encoder.agrees(made):
        raise InvalidInput(
            f"encoder {name} gives other vectors than the one that made {index.corpus.name}: {made.get('encoder')}; "
            "give that one"
        )
    tokens = encoder.checked_tokens(made.get("tokens"), made.get("overlap", 0))
    chunks = encoder.cut(text, tokens, made.get("overlap", 0))
    if len(chunks) < length:
        raise InvalidInput(
            f"{source}: {counted(len(chunks), 'chunk')} of {tokens} tokens, and the model reads {length}; give a "
            "longer text, or train on a corpus of smaller chunks (embed --tokens)"
        )
    return encoder.encode(chunks[-length:])


def _json(hits: dict[str, list[Found]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {"score": round(hit.score, 6), "document": hit.chunk.document, "position": hit.chunk.position}
            | {"row": hit.chunk.row, "text": hit.chunk.text}
            for hit in found
        ]
        for name, found in hits.items()
    }


def _text(hits: dict[str, list[Found]]) -> str:
    lines: list[str] = []
    titles = {"next": "likely to come next", "last_chunk": "found with the last chunk alone"}
    width = shutil.get_terminal_size((120, 24)).columns
    for name, found in hits.items():
        lines += ["", titles[name]] if lines else [titles[name]]
        for number, hit in enumerate(found, 1):
            head = f"{number:>3}  {hit.score:.3f}  {hit.chunk.document} #{hit.chunk.position}"
            text = " ".join((hit.chunk.text or "").split())
            lines += [head, *([f"     {text[: width - 6]}{'…' * (len(text) > width - 6)}"] if text else [])]
    return "\n".join(lines)
