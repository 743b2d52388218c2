"""`lvm-runtime predict ARTIFACT INPUT OUTPUT`: predict for a file, however large."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from lvm_runtime.bulk.predict import BulkResult, look_first, open_for_bulk, predict_file, workers_for
from lvm_runtime.commands.console import note, refuse_given, show
from lvm_runtime.commands.request_options import add_artifact, add_request_options, request_from
from lvm_runtime.corpus.formats import ACCEPTED
from lvm_runtime.errors import InvalidInput, counted

DESCRIPTION = """Predict the next vector for every context of INPUT, or for every window of its documents. Memory stays
flat. An interrupted run goes on where it was when the same command is given again."""
OUTPUT = """OUTPUT is .npy (predictions in order), or .npz or .parquet, which also carry the row of the input that each
prediction belongs to (for vectors: of its window's last one)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    parser.epilog = f"INPUT is a corpus.\n\n{ACCEPTED}\n\n{OUTPUT}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_artifact(parser)
    parser.add_argument("input", metavar="INPUT", type=Path, help="a .npy, .npz or .parquet file")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the .npy, .npz or .parquet file to write")
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="list what has a NaN, an infinity or a vector of a norm over 1e6 in OUTPUT.bad.csv and go on",
    )
    parser.add_argument("--restart", action="store_true", help="drop what an interrupted run left")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="on the Ray cluster at ADDRESS, or one of this machine: INPUT is a file or a folder, OUTPUT a folder",
    )
    parser.add_argument("--cpus", type=int, metavar="N", help="with --ray: CPUs of a worker (default: 1)")
    parser.add_argument("--gpus", type=float, metavar="N", help="with --ray: GPUs of a worker (default: 0)")
    add_request_options(parser)


def run(options: argparse.Namespace) -> None:
    """Predict the file and print how many predictions were written."""
    if options.ray is None:
        refuse_given(options, ("cpus", "gpus"), "is for the workers of --ray; give --threads for this machine")
    try:
        result = _predict_here(options) if options.ray is None else _predict_on_ray(options)
    except KeyboardInterrupt:
        drops = options.restart or (options.overwrite and options.ray is not None)
        again = "the same command" + (" without --restart or --overwrite" if drops else "")
        note(f"what is done is kept; {again} goes on from there")
        raise
    taken_over = f", {result.resumed:,} of them by an interrupted run before" if result.resumed else ""
    show(f"{options.output}: {counted(result.predictions, 'prediction')}{taken_over}")
    if not result.predictions:
        note("WARNING: no document has as many vectors as the model reads, so nothing was predicted")
    for remark in result.remarks:
        note(remark)
    if result.bad:
        listed = f"{options.output}.bad.csv" if options.ray is None else options.output / "bad.csv"
        note(f"{listed}: {counted(result.bad, 'row')} that could not be predicted")


def _predict_on_ray(options: argparse.Namespace) -> BulkResult:
    result: BulkResult = import_module("lvm_runtime.integrations.ray").predict(
        options.input,
        options.artifact,
        options.output,
        request=request_from(options),
        address=options.ray or None,
        cpus=1 if options.cpus is None else options.cpus,
        gpus=0 if options.gpus is None else options.gpus,
        skip_bad=options.skip_bad,
        overwrite=options.overwrite,
        restart=options.restart,
    )
    return result


def _predict_here(options: argparse.Namespace) -> BulkResult:
    request = request_from(options)
    if options.input.is_dir():
        raise InvalidInput(f"{options.input}: is a folder; give a file, or --ray for a folder of files")
    look_first(options.artifact, options.input, options.output, overwrite=options.overwrite)
    with open_for_bulk(options.artifact, request) as predictor:
        note(predictor.explain().running)
        note(f"{counted(workers_for(predictor), 'run')} at a time")
        return predict_file(
            predictor,
            options.input,
            options.output,
            skip_bad=options.skip_bad,
            restart=options.restart,
            overwrite=options.overwrite,
        )
