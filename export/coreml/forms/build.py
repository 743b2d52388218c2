"""From a training form to its Core ML form."""

from __future__ import annotations

from typing import Any

from torch import nn

from .amn import ChannelAMN
from .gru import ChannelGRU
from .layers import ErfGELU
from .lstm import ChannelLSTM
from .transformer import ChannelTransformer

_FORMS: dict[str, Any] = {
    "lstm": ChannelLSTM,
    "gru": ChannelGRU,
    "transformer": ChannelTransformer,
    "amn": ChannelAMN,
}


def coreml_form(model: nn.Module, *, gelu: str = "table") -> nn.Module:
    """Return the Core ML form of a training form, in eval mode, with weights copied in the model's own precision.

    It maps contexts `[B, T, D]` to predictions `[B, D]`, or to (prediction, attention `[B, T]`) for the AMN. T is
    fixed, as the steps are unrolled and the masks are constants. With `gelu="erf"` GELU is spelled out by the error
    function instead of left to Core ML's fused operation.
    """
    config: Any = model.config
    form: nn.Module = _FORMS[config.architecture](model)
    if gelu == "erf":
        for sequence in [m for m in form.modules() if isinstance(m, nn.Sequential)]:
            for index, layer in enumerate(sequence):
                if isinstance(layer, nn.GELU):
                    sequence[index] = ErfGELU()
    return form.eval()
