"""`lvm-runtime import-checkpoint best_model.pt --out artifacts/amn`: from a reference checkpoint to an artifact.

A reference checkpoint is a `torch.save` dict with model_type, model_state_dict, model_config, val_cosine and
more. It is read with `weights_only=True`. Keys and shapes cannot tell a model from a look-alike with another
forward pass, so with `--data` the validation cosine is computed again and compared with the stored one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lvm_runtime.artifact.config import CONFIGS, ModelConfig, make_config
from lvm_runtime.artifact.folder import Artifact, require_place
from lvm_runtime.artifact.weights import check_shapes
from lvm_runtime.backends.devices import usual_defaults
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.errors import ArtifactError, InvalidInput, VerificationFailed
from lvm_runtime.system import extras

COSINE_TOLERANCE = 0.01
POSITION_DIM = 769  # 768 and a position scalar that some reference runs appended

_ARCHITECTURE_NAMES = {
    "lstm": "lstm",
    "lstm_baseline": "lstm",
    "gru": "gru",
    "gru_stack": "gru",
    "transformer": "transformer",
    "transformer_optimized": "transformer",
    "amn": "amn",
    "attention_mixture_network": "amn",
}
_FIELD_NAMES = {name: name for name in ("num_layers", "dropout", "context_length")} | {"nhead": "num_heads"}
_PLAIN_FIELDS = ("ffn_dim", "max_positions", "attention_dim", "bottleneck_dim", "recency")


@usual_defaults()
def import_checkpoint(path: Path, out: Path, data: str | None = None, **corpus: Any) -> tuple[Artifact, float | None]:
    """Write the checkpoint at `path` as an artifact at `out`; return it and the recomputed cosine, if `data` is given.

    An artifact that was there is replaced.
    `corpus` goes to `TrainOptions` (`validation`, `split`, …) and must cut the windows as the checkpoint's run did.
    Raises ArtifactError for a file that is no checkpoint, InvalidInput for one that cannot be used here, and
    VerificationFailed where the cosine on `data` is more than 0.01 from the stored one; nothing is written then.

    >>> path, out = Path("best_model.pt"), Path("artifacts/imported")
    >>> artifact, cosine = import_checkpoint(path, out)
    >>> artifact.config.architecture, cosine
    ('amn', None)
    """
    from lvm_runtime.models import build_model, save_model
    from lvm_runtime.models.serialisation import require_finite

    from .foreign_checkpoint import read_checkpoint, strip_prefixes

    checkpoint = read_checkpoint(path)
    config = reference_config(checkpoint["model_type"], checkpoint["model_config"])
    weights, prefix = strip_prefixes(checkpoint["model_state_dict"])
    check_shapes({name: tuple(tensor.shape) for name, tensor in weights.items()}, config, str(path))
    model = build_model(config)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: its weights do not fit a {config.architecture} of its config: {error}") from error
    require_finite(model, str(path))
    stored, epoch = (_number(checkpoint.get(key)) for key in ("val_cosine", "epoch"))
    measured, contexts = (None, None) if data is None else _compare_cosine(path, stored, model, data, corpus)
    metrics = {"stored_val_cosine": stored, "val_cosine": measured if measured is not None else stored}
    provenance = {
        "data": {"name": None if data is None else Path(data).name},
        "metrics": metrics,
        "training": {"imported_from": path.name, "epoch": epoch, "prefix_removed": prefix},
    }
    return save_model(model, out, real_contexts=contexts, provenance=provenance), measured


def reference_config(model_type: Any, values: Any) -> ModelConfig:
    """Map a reference `model_type` and `model_config` to this project's config.

    Raises InvalidInput for an unknown type or key, and for vectors with a position scalar appended.
    """
    architecture = _ARCHITECTURE_NAMES.get(str(model_type).lower())
    if architecture is None:
        raise InvalidInput(f"model_type is {model_type!r}, expected one of {', '.join(sorted(CONFIGS))}")
    if not isinstance(values, Mapping):
        raise InvalidInput(f"model_config is {type(values).__name__}, expected a mapping")
    values = dict(values)
    dim = values.pop("input_dim", 768)
    output = values.pop("output_dim", dim)
    if not (isinstance(dim, int) and isinstance(output, int)):
        raise InvalidInput(f"input_dim is {dim!r} and output_dim {output!r}, expected whole numbers")
    if dim == POSITION_DIM or dim == output + 1:
        raise InvalidInput(
            f"input_dim is {dim}: this model was trained with a position scalar appended to each vector, which is "
            "not supported; train one on the plain vectors"
        )
    if output != dim:
        raise InvalidInput(f"output_dim is {output} and input_dim {dim}; expected them to be equal")
    known = {f.name for f in fields(CONFIGS[architecture])}
    sizes: dict[str, Any] = {"dim": dim}
    for key, value in values.items():
        name = _field_name(architecture, key)
        if name is None:
            raise InvalidInput(f"model_config has the key {key!r}, which is not known for a {architecture}")
        if name in known:
            sizes[name] = value
        elif value:  # a zero or None says that there is none, which is so
            raise InvalidInput(f"model_config has {key} = {value!r}, and a {architecture} has no {name}")
    if "num_heads" in known - set(sizes):
        raise InvalidInput(
            "model_config has no nhead, which no shape of its weights tells; expected the number of heads that the "
            f"{architecture} was trained with: save the checkpoint again with it"
        )
    return make_config(architecture, **sizes)


def _number(value: Any) -> float | None:
    """Return `value` if it is a number, None for all else that a checkpoint may hold in its place."""
    return value if isinstance(value, int | float) else None


def _field_name(architecture: str, key: str) -> str | None:
    if key in ("d_model", "hidden_dim"):
        # the reference AMN calls its attention width d_model and its MLP width hidden_dim
        return "attention_dim" if architecture == "amn" and key == "d_model" else "hidden_dim"
    return _FIELD_NAMES.get(key, key if key in _PLAIN_FIELDS else None)


def _compare_cosine(
    path: Path, stored: float | None, model: Any, data: str, corpus: Mapping[str, Any]
) -> tuple[float, Any]:
    """Return the validation cosine of `model` on `data` and contexts from there, if it is the `stored` one.

    Raises VerificationFailed if it is another one, InvalidInput if none is stored.
    """
    if stored is None:
        raise InvalidInput(f"{path}: stores no val_cosine, so --data has nothing to compare with; leave it out")
    measured, contexts = _validate(model.eval(), model.config, data, corpus)
    if not abs(measured - stored) <= COSINE_TOLERANCE:
        raise VerificationFailed(
            f"{path}: val_cosine is {stored:.4f} in the checkpoint and {measured:.4f} on {data}; expected at most "
            f"{COSINE_TOLERANCE} between them. Either the validation windows are others (--validation, --split and "
            "--seed choose them), or this is a look-alike of the model with another forward pass"
        )
    return measured, contexts


def _validate(model: Any, config: ModelConfig, data: str, corpus: Mapping[str, Any]) -> tuple[float, Any]:
    from .evaluation.metrics import score_rows
    from .options import TrainOptions
    from .prepared_data import load_split
    from .run import REAL_CONTEXTS

    options = TrainOptions(
        model=config.architecture, data=data, dim=config.dim, context_length=config.context_length, **corpus
    )
    found, split = load_split(options, "cpu", lambda line: None)
    if found.dim != config.dim:
        raise InvalidInput(
            f"{data}: vectors have D={found.dim}, and the checkpoint D={config.dim}; "
            "give the corpus that it was trained on"
        )
    sample = split.validation.sample(REAL_CONTEXTS)
    cosine = float(score_rows(model, split.validation).cosine.mean())
    return cosine, sample.batch(sample.starts)[0].numpy()


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and import."""
    parser = Parser(
        prog=prog or console.program(),
        description="Turn a checkpoint of the reference implementation into an artifact.",
        epilog="With --data the validation cosine is computed again; a difference over 0.01 is an error.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a torch.save file, such as best_model.pt")
    parser.add_argument("--out", type=Path, required=True, help="the artifact's folder, such as artifacts/amn")
    parser.add_argument("--overwrite", action="store_true", help="replace the artifact in OUT, with its exports")
    parser.add_argument("--data", help="the corpus to check the stored val_cosine on")
    parser.add_argument("--validation", type=float, help="share of documents validated on (default: 0.1)")
    parser.add_argument("--split", choices=("last", "random"), help="which documents (default: last)")
    parser.add_argument("--seed", type=int, help="of a random split (default: 0)")
    options = parser.parse_args(argv)
    if options.data is None:
        console.refuse_given(options, ("validation", "split", "seed"), "is for the documents of --data; give that too")
    if options.split != "random":
        console.refuse_given(options, ("seed",), "is for --split random")
    given = {name: getattr(options, name) for name in ("validation", "split", "seed")}
    corpus = {name: value for name, value in given.items() if value is not None}
    extras.require("train", "importing a checkpoint", "torch", "safetensors")
    require_place(options.out, overwrite=options.overwrite)
    artifact, cosine = import_checkpoint(options.checkpoint, options.out, options.data, **corpus)
    checked = "not checked against data" if cosine is None else f"validation cosine {cosine:.4f}, as stored"
    console.show(f"{artifact.path}: {artifact.config.architecture}, {checked}")
    if prefix := artifact.manifest.provenance["training"]["prefix_removed"]:
        console.show(f"the names of its weights began with {prefix!r}, which was removed")
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
