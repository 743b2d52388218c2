"""What the protocol's requests ask for, whichever way they came.

B contexts, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from lvm_runtime.artifact.config import ModelConfig
from lvm_runtime.errors import InvalidInput
from lvm_runtime.server.failures import Failure, Refused

INPUT = "context"
PREDICTION, ATTENTION = OUTPUTS = ("prediction", "attention")
PLATFORM = "lvm_runtime"
BINARY_DATA = "binary_tensor_data"
EXTENSIONS = (BINARY_DATA, "statistics", "model_repository")

_REFUSED = {
    "classification": "an output is its whole tensor, as JSON or as bytes",
    "shared_memory_region": "tensors travel in the request and in its answer",
    "sequence_id": "the models remember nothing from one request to the next",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that was asked for, and whether as bytes."""

    name: str
    binary: bool


def contexts_of(names: Sequence[Any]) -> None:
    """Raise InvalidInput unless the inputs are the model's only one."""
    if list(names) != [INPUT]:
        raise InvalidInput(f"inputs are {list(names)!r:.99}, expected one of name {INPUT}")


def check_parameters(value: Callable[[str], Any]) -> None:
    """Raise InvalidInput where a parameter, whose `value` by name is neither none nor 0, asks for another answer."""
    for name, supported in _REFUSED.items():
        if value(name):
            raise InvalidInput(f"the parameter {name} is not supported; {supported}")


def check_outputs(config: ModelConfig, names: Sequence[str]) -> bool:
    """Return whether attention is among the outputs; InvalidInput for one that the model does not have, or twice.

    An answer in which an output comes as often as a request can name it would take gigabytes.
    """
    for number, name in enumerate(names):
        if name not in outputs_of(config):
            raise InvalidInput(f"output {name!r:.99}: expected {' or '.join(outputs_of(config))}")
        if name in names[:number]:
            raise InvalidInput(f"output {name} is there twice; expected it once")
    return ATTENTION in names


def check_contexts(config: ModelConfig, contexts: NDArray[Any], most: int) -> None:
    """Raise InvalidInput for a shape that the model does not take, Refused for more than `most` contexts."""
    expected = (config.context_length, config.dim)
    if contexts.ndim != 3 or contexts.shape[1:] != expected:
        raise InvalidInput(f"{INPUT}: shape is {list(contexts.shape)}, expected [B, {expected[0]}, {expected[1]}]")
    if len(contexts) > most:
        raise Refused(Failure.LARGE, f"{INPUT}: {len(contexts)} contexts, expected at most {most} in a request")


def outputs_of(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of a model's outputs."""
    return OUTPUTS if config.attention else (PREDICTION,)


def tensors_of(config: ModelConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the inputs and the outputs of a model as its metadata tell them; −1 stands for B."""
    sizes = {PREDICTION: config.dim, ATTENTION: config.context_length}
    inputs = [{"name": INPUT, "datatype": "FP32", "shape": [-1, config.context_length, config.dim]}]
    return inputs, [{"name": name, "datatype": "FP32", "shape": [-1, sizes[name]]} for name in outputs_of(config)]
