"""What a run computes on its device, on one without float64, as MPS is: there a conversion to it is an error.

No MPS has to be there. Tensors that are sent to it stay where they are, and remember.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from lvm_runtime.artifact.config import CONFIGS, make_config
from lvm_runtime.models import build_model
from train.data.corpus import load_corpus
from train.data.windows import Split, VectorStore, split_windows
from train.evaluation.baselines import fit_baselines
from train.evaluation.diagnosis import diagnose, nearly_copied
from train.evaluation.evaluate import evaluate
from train.evaluation.retrieval import score
from train.ranked_start import start_ranked
from train.ranking import CorpusRanking
from train.warm_start import start_at_baseline

CORPUS = load_corpus("synthetic", windows=800, dim=16)


class OnMps(torch.Tensor):
    """A tensor that is said to be on MPS."""


class PretendMps(TorchFunctionMode):
    """Takes "mps" for a device that is here; what is computed from its tensors is on it too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        given = [*args, *(kwargs or {}).values()]
        given += [entry for value in given if isinstance(value, list | tuple) for entry in value]
        here = any(isinstance(value, OnMps) for value in given)
        if here and func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return torch.device("mps")
        sent = any(map(_is_mps, given))
        left = func.__name__ == "cpu"
        if (here or sent) and not left and (func.__name__ == "double" or any(v is torch.float64 for v in given)):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*map(_here, args), **{name: _here(value) for name, value in (kwargs or {}).items()})
        if left and here:
            return found.as_subclass(torch.Tensor)
        if sent and isinstance(found, torch.Tensor) and found.requires_grad:  # a new leaf, and it has to stay one
            return found.detach().as_subclass(OnMps).requires_grad_()
        return _marked(found) if here or sent else found


def _is_mps(value: Any) -> bool:
    return isinstance(value, torch.device | str) and str(value) == "mps"


def _here(value: Any) -> Any:
    return "cpu" if _is_mps(value) else value


def _marked(found: Any) -> Any:
    if isinstance(found, list | tuple):
        return tuple(map(_marked, found))
    if not isinstance(found, torch.Tensor) or isinstance(found, OnMps | torch.nn.Parameter):
        return found
    return found.as_subclass(OnMps)


@pytest.fixture
def split() -> Iterator[Split]:
    with PretendMps():
        yield split_windows(CORPUS, np.ones(len(CORPUS.values), bool), VectorStore(CORPUS.values, "mps"), test=0.1)


def test_the_pretence_notices(split: Split) -> None:
    vectors = split.train.store.rows(split.train.starts)
    assert vectors.device.type == "mps"
    assert vectors.cpu().double().device.type == "cpu"
    with pytest.raises(TypeError, match="float64"):
        vectors.double()
    with pytest.raises(TypeError, match="float64"):
        (vectors[:2] * 2).to(torch.float64)


def test_corpora_are_diagnosed(split: Split) -> None:
    found = diagnose(CORPUS, split.train.store, 5)
    assert found.coherence > found.random_pairs
    assert len(found.by_position) == 5
    assert nearly_copied(split.train, split.validation) == 0


def test_baselines_and_models_are_scored(split: Split) -> None:
    scores = score(fit_baselines(split.train).predictors, split.test)
    model = build_model(make_config("amn", **CONFIGS["amn"].small), seed=0)
    found = evaluate(model, split.test, scores, CORPUS.document_ids)
    assert found.gain.value == pytest.approx(0, abs=1e-6)  # of a fresh AMN, which is the average


@pytest.mark.parametrize("architecture", ["lstm", "gru", "transformer"])
def test_models_start_at_what_is_fitted(split: Split, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.ranked_start.STEPS", 1)
    model = build_model(make_config(architecture, **CONFIGS[architecture].small), seed=0)
    assert start_at_baseline(model, split.train) is not None
    ranking = CorpusRanking(split.train, 0.05, 200)
    assert start_ranked(model, split.train, ranking, cosine_weight=1.0, seed=0).loss > 0
