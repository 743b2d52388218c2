"""The `lvm` command.

lvm info ARTIFACT                      what is in an artifact, and whether it is whole
lvm doctor                             which backends work on this machine, and what the others need
lvm tune ARTIFACT                      measure the forms of an artifact here, for later Predictors
lvm predict ARTIFACT INPUT OUTPUT      predict for a file, however large
lvm explain PACKAGE                    on a Mac: what Core ML means to run where
lvm cache                              the compiled Core ML models that are kept
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lvm_runtime.commands import console
from lvm_runtime.commands import coreml as coreml_commands
from lvm_runtime.corpus.formats import ACCEPTED
from lvm_runtime.request import AUTO, Request

_ARTIFACT = "an artifact's folder, or an architecture's name for ./artifacts/NAME"

_OUTPUT = """OUTPUT is .npy (predictions in order), or .npz or .parquet, which also carry the row of the input that each
prediction belongs to (for vectors: of its window's last one)."""


def _info(options: argparse.Namespace) -> None:
    from lvm_runtime.artifact.folder import Artifact, resolve
    from lvm_runtime.commands.report import describe_artifact

    print(describe_artifact(Artifact.load(resolve(options.artifact))))


def _doctor(options: argparse.Namespace) -> None:
    from lvm_runtime.commands.report import describe_machine

    print(describe_machine())


def _tune(options: argparse.Namespace) -> None:
    from lvm_runtime.commands.report import describe_tuning
    from lvm_runtime.selection.tuning import tune

    measured, refused = tune(options.artifact, _request(options), report=lambda line: print(line, file=sys.stderr))
    print(describe_tuning(measured, refused, options.typical_batch))


def _predict(options: argparse.Namespace) -> None:
    from lvm_runtime.bulk.predict import open_for_bulk, predict_file, workers_for

    with open_for_bulk(options.artifact, _request(options)) as predictor:
        print("\n".join(map(str, predictor.explain().routes)), file=sys.stderr)
        print(f"{workers_for(predictor)} runs at a time", file=sys.stderr)
        try:
            result = predict_file(
                predictor,
                options.input,
                options.output,
                skip_bad=options.skip_bad,
                restart=options.restart,
                overwrite=options.overwrite,
            )
        except KeyboardInterrupt:
            print("what is done is kept; the same command goes on from there", file=sys.stderr)
            raise
    taken_over = f", {result.resumed:,} of them by an interrupted run before" if result.resumed else ""
    print(f"{options.output}: {result.predictions:,} predictions{taken_over}")
    for remark in result.remarks:
        print(remark, file=sys.stderr)
    if result.bad:
        print(f"{options.output}.bad.csv: {result.bad:,} rows that could not be predicted", file=sys.stderr)


def _request(options: argparse.Namespace) -> Request:
    return Request(
        options.backend,
        options.device,
        options.precision,
        options.max_drift,
        options.threads,
        options.typical_batch,
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the `lvm` command."""
    parser = argparse.ArgumentParser(
        prog="lvm", description="Serve latent vector models: predict the next vector of a document."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="show what is in an artifact, and check that it is whole")
    info.add_argument("artifact", metavar="ARTIFACT", help=_ARTIFACT)
    info.set_defaults(action=_info)

    doctor = commands.add_parser(
        "doctor",
        help="show which backends work on this machine, and what the others need",
        description="Import every framework that is installed here and show which backends can run, on which devices, "
        "with how many CPUs, and what to install for the others.",
    )
    doctor.set_defaults(action=_doctor)

    tune = commands.add_parser(
        "tune",
        help="measure which form of an artifact is fastest here",
        description="Time every form of the artifact that this machine can run and that passes its known-answer test. "
        "The result is kept in the user's cache folder, and Predictors on this machine choose by it from then on.",
    )
    tune.add_argument("artifact", metavar="ARTIFACT", help=_ARTIFACT)
    _add_choice(tune, max_drift=1e-3)
    tune.set_defaults(action=_tune)

    predict = commands.add_parser(
        "predict",
        help="predict for a file, however large",
        description="Predict the next vector for every context of INPUT, or for every window of its documents.\n"
        "Memory stays flat. An interrupted run goes on where it was when the same command is given again.",
        epilog=f"INPUT is a corpus.\n\n{ACCEPTED}\n\n{_OUTPUT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("artifact", metavar="ARTIFACT", help=_ARTIFACT)
    predict.add_argument("input", metavar="INPUT", type=Path)
    predict.add_argument("output", metavar="OUTPUT", type=Path)
    predict.add_argument(
        "--skip-bad", action="store_true", help="list rows with NaN or infinity in OUTPUT.bad.csv and go on"
    )
    predict.add_argument("--restart", action="store_true", help="drop what an interrupted run left")
    predict.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    _add_choice(predict)
    predict.set_defaults(action=_predict)
    coreml_commands.add_commands(commands)
    return parser


def _add_choice(parser: argparse.ArgumentParser, max_drift: float | None = None) -> None:
    add = parser.add_argument_group("which form runs").add_argument
    add("--backend", default=AUTO, help="auto, onnx, openvino, torchscript, eager, compiled or coreml (default: auto)")
    add("--device", default=AUTO, help="auto, cpu, cuda, mps, gpu or ane, as the backend has it (default: auto)")
    add("--precision", help="fp32, fp16, bf16 or int8 (default: any within --max-drift)")
    shown = "1e-6, full precision" if max_drift is None else f"{max_drift:g}"
    add("--max-drift", type=float, default=max_drift, help=f"largest 1 - cosine to the model's answers ({shown})")
    add("--threads", type=int, help="threads for one run (default: all usable CPUs)")
    add("--typical-batch", type=int, metavar="B", help="the batch size to be fastest at (default: weigh all)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `lvm` command and return its exit status."""
    options = build_parser().parse_args(arguments)
    return console.run(lambda: options.action(options))


if __name__ == "__main__":
    sys.exit(main())
