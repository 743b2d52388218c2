"""Compute some products of an int8 form more finely, until its estimated drift is small enough.

In trained models few roundings make nearly all of the drift: those of the first and of the last product. There are two
refinements, and each computes what it refines a second time.

* Columns of a weight: the error that rounding made in them is rounded as well, and its product is added. No error of
  the weight is left there.
* Rows: their positive and their negative part are multiplied one by one. Each part has 255 steps up to its own largest
  number, in the place of 127. A fifth of the error of the rows is left.

Refinements are taken in the order of the drift that they save per multiply-add. It is estimated in float64 with fixed
contexts and signs, so the same model gives the same files.

K inputs and N outputs of a product, R rows of all contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .base import Form
from .ops import Norm
from .rounding import Rounded, quantise_weight, round_halves, round_rows
from .sensitivity import Error, Product, drift_of_errors

TOLERATED = 6e-5
"""Mean drift up to which a form stays as it is. Random weights have up to 5.0e-5, and 8.5e-5 at worst."""
AIM = 4e-5
"""Mean drift to which it is refined otherwise. Trained models drift by up to 2.2 times the mean at worst."""
MOST_MORE = 0.1
"""Share of the form's multiply-adds that refinements may add."""
BLOCK = 128
"""Columns of a weight that are refined together."""
LEAST_WORTH = 5e-4
"""Drift that a refinement must save for as many multiply-adds as the form has: 5e-6 for a hundredth of them.

Where the drift comes evenly from all products, they are worth 1e-4, and the form stays as it is.
"""


@dataclass(frozen=True, slots=True)
class _Refinement:
    """Refine a block of a weight's columns from `start` on, or the rows that the weight multiplies (`start` is None).

    It saves `gain` of the drift and adds `cost`, a share of the form's multiply-adds. `worth` is gain per cost, taken
    over all blocks of a weight that may be refined.
    """

    weight: int
    start: int | None
    gain: float
    cost: float
    worth: float


def refine(
    form: Form,
    contexts: NDArray[np.float32],
    rounded: Mapping[int, Rounded],
    costs: Mapping[int, float],
    centre: Callable[[Norm], Tensor],
) -> None:
    """Refine some of the weights in `rounded` until the estimate for `contexts` `[n, T, D]` is small enough.

    `costs` are the multiply-adds of the products with a weight. The keys of both are ids of weights.
    """

    def errors(product: Product) -> dict[str, Error]:
        weight = rounded[id(product.weight)]
        rows = product.rows if product.norm is None else product.rows - centre(product.norm)
        width = weight.rest.shape[1]
        found = {
            "weight": Error(rows @ weight.residual(), BLOCK),
            "rows": Error((round_rows(rows, positive=product.positive) - rows) @ weight.rest, width),
        }
        if not product.positive:
            found["halves"] = Error((round_halves(rows) - rows) @ weight.rest, width)
        return found

    drifts = drift_of_errors(form, contexts, errors)
    total = sum(float(drift.sum()) for (_, kind), drift in drifts.items() if kind != "halves")
    if total <= TOLERATED:
        return
    shares = {weight: cost / sum(costs.values()) for weight, cost in costs.items()}
    budget, columns = MOST_MORE, dict[int, list[int]]()
    for refinement in sorted(_refinements(drifts, rounded, shares), key=lambda r: -r.worth):
        if total <= AIM or refinement.cost > budget:
            continue
        total, budget = total - refinement.gain, budget - refinement.cost
        if refinement.start is None:
            rounded[refinement.weight].halves = True
        else:
            columns.setdefault(refinement.weight, []).append(refinement.start)
    for weight, starts in columns.items():
        residual = rounded[weight].residual().numpy()
        rounded[weight].residuals = {
            start: quantise_weight(residual[:, start:stop]) for start, stop in _ranges(starts, residual.shape[1])
        }


def _refinements(
    drifts: Mapping[tuple[int, str], Tensor], rounded: Mapping[int, Rounded], shares: Mapping[int, float]
) -> Iterator[_Refinement]:
    """Yield the refinements that are worth their cost; blocks of one weight have one worth, and come in order."""
    for (weight, kind), drift in drifts.items():
        share = shares[weight]
        if kind == "halves":
            gain = float((drifts[weight, "rows"] - drift).sum())
            if gain > LEAST_WORTH * share:
                yield _Refinement(weight, None, gain, share, gain / share)
        elif kind == "weight":
            width = rounded[weight].rest.shape[1]
            costs = {start: share * min(BLOCK, width - start) / width for start in range(0, width, BLOCK)}
            gains = dict(zip(costs, drift.tolist(), strict=True))
            starts = [start for start, gain in gains.items() if gain > LEAST_WORTH * costs[start]]
            for start in starts:
                worth = sum(gains[at] for at in starts) / sum(costs[at] for at in starts)
                yield _Refinement(weight, start, gains[start], costs[start], worth)


def _ranges(starts: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Join blocks that follow each other; return where each run begins and ends."""
    blocks = [(start, min(start + BLOCK, width)) for start in starts]
    firsts = [start for start, _ in blocks if start - BLOCK not in starts]
    stops = [stop for start, stop in blocks if start + BLOCK not in starts]
    return list(zip(firsts, stops, strict=True))
