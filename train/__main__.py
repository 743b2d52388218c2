"""`lvm-runtime train --model amn`, or `python -m train` in a checkout: train one model and write its artifact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import require_place
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.corpus.formats import ACCEPTED
from lvm_runtime.errors import InvalidInput
from lvm_runtime.system import extras

from .options import JUDGES, LOSSES, NAMED_RECIPES, PRECISIONS, RECIPES, SCHEDULES, SPLITS, STARTS, TrainOptions

EXAMPLES = """examples:
  %(prog)s --model amn                                   the bundled corpus, to artifacts/amn
  %(prog)s --model lstm --data corpus.npz --test 0.1     your vectors; a tenth of the documents kept for a test
  %(prog)s --model amn --data synthetic                  80,000 windows whose best possible cosine is known
  %(prog)s --model gru --recipe tuned --set dropout=0.3  named settings, and a change to the model's config
  %(prog)s --model amn --recipe retrieval                to search with: ranks over the corpus, judged by MRR
  %(prog)s --model amn --resume                          take up a run that was stopped or killed

  two processes, same global batch:
  torchrun --nproc-per-node 2 -m lvm_runtime train --model amn

`lvm-runtime embed FILES` makes a corpus from text.

"""


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the command's parser; `prog` is what the user typed for it."""
    result = Parser(
        prog=prog or console.program(),
        description="Train a latent vector model and write it as an artifact.",
        epilog=EXAMPLES + ACCEPTED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--model", required=True, choices=ARCHITECTURES, help="the architecture")
    result.add_argument("--out", type=Path, help="the artifact's folder (default: artifacts/MODEL)")
    add_shared_arguments(result)
    return result


def require_places(arguments: argparse.Namespace, *runs: TrainOptions) -> None:
    """Raise ArtifactError if a run would replace an artifact that the command line does not give up.

    A run that is taken up may: where there was an artifact when it began, that was given up then.
    """
    for options in runs:
        require_place(options.artifact_path, overwrite=arguments.overwrite or options.resume)


def add_shared_arguments(result: argparse.ArgumentParser) -> None:
    """Add every option that does not name one model; unset ones are left to the recipe."""
    defaults = {f.name: f.default for f in fields(TrainOptions)}

    def add(group: Any, name: str, text: str, **how: Any) -> None:
        default = defaults[name.replace("-", "_")]
        note = "" if isinstance(default, bool) else f" (default: {default})"
        if how.get("action") is None and "choices" not in how:
            how.setdefault("type", type(default))
        group.add_argument(f"--{name}", help=text + note, default=None, **how)

    data = result.add_argument_group("data")
    add(data, "data", "bundled, synthetic, or the path of a corpus", type=str)
    add(data, "validation", "share of the documents to validate on")
    add(data, "test", "share of the documents kept for a test that no choice has seen")
    add(data, "split", "which documents: the last of the corpus, or random ones", choices=SPLITS)
    add(data, "context-length", "vectors in a context")
    add(data, "queries", "held-out windows, evenly spaced, whose target is searched in the whole corpus; 0: all")
    add(
        data,
        "normalize",
        "divide every vector by its length; predictions then take such vectors only",
        action="store_true",
    )
    add(data, "windows", "size of the synthetic corpus, in training and held-out windows")
    add(data, "dim", "vector size of the synthetic corpus")
    add(data, "trust-pickle", "allow object arrays: reading them runs code of the file's maker", action="store_true")

    recipe = result.add_argument_group("recipe")
    recipe.add_argument("--recipe", choices=RECIPES, default="reference", help="named settings (default: reference)")
    recipe.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the model's config")
    add(recipe, "start", "weights to begin with: default, or a linear fit to targets (baseline) or to the ranking loss "
        "(ranked); an amn starts at an average by itself", choices=STARTS)  # fmt: skip
    add(recipe, "epochs", "passes over the training windows; the best epoch is kept")
    add(recipe, "batch-size", "windows per step, over all processes")
    add(recipe, "learning-rate", "AdamW's rate")
    add(recipe, "weight-decay", "AdamW's decay")
    add(recipe, "grad-clip", "largest length of the gradient")
    add(recipe, "schedule", "halve the rate after 3 epochs without progress, or warm up for 200 steps and follow a "
        "cosine", choices=SCHEDULES)  # fmt: skip
    add(recipe, "loss", "mse; ranking: a softmax over the training vectors, for search; infonce, to see that it is the "
        "wrong loss here", choices=LOSSES)  # fmt: skip
    add(recipe, "temperature", "of ranking and infonce")
    add(recipe, "cosine-weight", "weight of 1 − cosine, added to the loss")
    add(recipe, "candidates", "vectors that a step ranks over at most, a new sample each; 0: all")
    add(recipe, "judge", "the metric that says which epoch is best; both: the sum of the two", choices=JUDGES)
    add(recipe, "input-noise", "length of the noise added to each context vector while training")
    add(
        recipe,
        "vector-dropout",
        "share of the context vectors that are left out while training, never all of one context",
    )
    add(recipe, "ema", "decay of a running average of the weights, which is then judged and kept")

    machine = result.add_argument_group("machine")
    add(machine, "device", "where to train", choices=("auto", "mps", "cuda", "cpu"))
    add(machine, "precision", "of the forward pass; weights stay fp32", choices=PRECISIONS)
    add(machine, "compile", "run the model through torch.compile", action="store_true")
    add(machine, "seed", "of weights, order, dropout and the synthetic corpus")
    add(machine, "resume", "continue from the last checkpoint", action="store_true")
    machine.add_argument("--overwrite", action="store_true", help="replace the artifact of an earlier run, with its "
        "exports")  # fmt: skip
    add(machine, "checkpoint-every", "steps between checkpoints within an epoch; 0: after each epoch only")


def options_from(arguments: argparse.Namespace, **fixed: Any) -> TrainOptions:
    """Build the options: the recipe's, then what the command line says, then `fixed`.

    Raises InvalidInput for what would have no effect with the others.
    """
    model = fixed.get("model") or arguments.model
    names = {f.name for f in fields(TrainOptions)}
    given = {k: v for k, v in vars(arguments).items() if k in names and v is not None and v is not False}
    named = NAMED_RECIPES.get(arguments.recipe, {}).get(model, {})
    sizes = dict(named.get("sizes", {})) | dict(_size(text) for text in arguments.set)
    options = TrainOptions(**(named | given | fixed | {"sizes": sizes}))
    if options.data != "synthetic":
        console.refuse_given(arguments, ("windows", "dim"), "is for --data synthetic; a corpus has its own")
    if options.loss == "mse":
        console.refuse_given(arguments, ("temperature",), "is for --loss ranking and infonce")
    if options.loss != "ranking":
        console.refuse_given(arguments, ("candidates",), "is for --loss ranking")
    return options


def _size(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if value in ("true", "false"):
        return name, value == "true"
    try:
        return name, int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        raise InvalidInput(
            f"--set {text}: expected FIELD=VALUE, such as hidden_dim=256, dropout=0.3 or recency=true"
        ) from None


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and train."""
    arguments = make_parser(prog).parse_args(argv)
    options = options_from(arguments)
    require_places(arguments, options)
    extras.require("train", "training", "torch", "safetensors")
    from .run import train  # torch takes a second or two to load; --help and slips should not wait for it

    train(options, console.show)
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
