"""The count of the training form's multiply-adds, against figures worked out by hand and PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.limits.operations import plain_macs
from lvm_runtime.artifact.config import ARCHITECTURES, make_config
from lvm_runtime.models import build_model

PLAIN = {"lstm": 23_986_176, "gru": 33_816_576, "transformer": 86_712_320, "amn": 2_301_440}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_counts_at_full_size(architecture: str) -> None:
    config = make_config(architecture)
    assert plain_macs(config) == PLAIN[architecture]


@pytest.mark.parametrize("architecture", ["transformer", "amn"])  # the counter does not see into recurrent layers
def test_plain_count_is_what_pytorch_counts(architecture: str) -> None:
    config = make_config(architecture)
    model = build_model(config, seed=0).train()  # eval mode takes a fused path that the counter does not see into
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.ones(1, config.context_length, config.dim))
    # the counter sees the products; what it may miss are the few that the AMN's mixture and PyTorch's attention fuse
    assert counter.get_total_flops() / 2 == pytest.approx(plain_macs(config), rel=0.005)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_longer_contexts_cost_more(architecture: str) -> None:
    for length in (1, 2, 5, 9):
        short, long = (make_config(architecture, context_length=n) for n in (length, length + 1))
        assert plain_macs(short) < plain_macs(long)
