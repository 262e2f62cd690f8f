"""How far a description lies from what a hypernetwork was trained on, and what score that predicts.

The distance is Mahalanobis' to the nearest training task (Lee et al. 2018, arXiv:1807.03888): descriptions are whitened by how
much those of one task vary, and compared with the mean of each training task's. The score it predicts is
fitted by isotonic regression on answers to held-out tasks: further away never predicts better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2l.hypernetwork import Hypernetwork


@torch.no_grad()
def task_centres(
    hypernetwork: Hypernetwork, descriptions: Sequence[Float[Tensor, "descriptions d_embedding"]]
) -> Float[Tensor, "tasks d_embedding"]:
    """Where each task lies: the mean of its (whitened) training descriptions."""
    return torch.stack([hypernetwork.describe(group).mean(dim=0) for group in descriptions])


@torch.no_grad()
def distances(
    hypernetwork: Hypernetwork,
    centres: Float[Tensor, "tasks d_embedding"],
    embeddings: Float[Tensor, "batch d_embedding"],
) -> tuple[Float[Tensor, " batch"], list[int]]:
    """Each description's distance to the nearest task, and which task that is.

    In units in which descriptions of one task have a mean square of one per dimension (where the
    hypernetwork whitens them).
    """
    described = hypernetwork.describe(embeddings.to(centres.device))
    apart, nearest = (torch.cdist(described, centres) / centres.shape[1] ** 0.5).min(dim=1)
    return apart.cpu(), nearest.tolist()


@dataclass(frozen=True)
class Calibration:
    """From distance to expected score: a non-increasing piecewise linear function."""

    distance: tuple[float, ...]
    score: tuple[float, ...]
    step: int
    """of the checkpoint it was fitted for"""
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, distance: Sequence[float], score: Sequence[float], step: int) -> Calibration:
        """Isotonic regression (non-increasing) of scores on distances. Raises ValueError for fewer than two points."""
        from sklearn.isotonic import IsotonicRegression

        if len(distance) < 2:
            raise ValueError("confidence needs at least two scored descriptions to be fitted on")
        model = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=False, out_of_bounds="clip")
        model.fit(np.asarray(distance), np.asarray(score))
        return cls(tuple(map(float, model.X_thresholds_)), tuple(map(float, model.y_thresholds_)), step)

    def __call__(self, distance: Sequence[float] | Tensor) -> list[float]:
        """The score to expect, in [0, 1], for each distance."""
        apart = distance.cpu() if isinstance(distance, Tensor) else distance
        return np.interp(np.asarray(apart, dtype=float), self.distance, self.score).tolist()

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_json` described."""
        return cls(tuple(data["distance"]), tuple(data["score"]), int(data["step"]), data.get("about", {}))


def auroc(near: Sequence[float], far: Sequence[float]) -> float:
    """Probability that something foreign lies further away than something of the suite; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata([*near, *far])
    rank_sum = ranks[len(near) :].sum() - len(far) * (len(far) + 1) / 2
    return float(rank_sum / (len(near) * len(far)))


def reliability(predicted: Sequence[float], observed: Sequence[float], bins: int = 10) -> list[dict[str, float]]:
    """Means of prediction and observation in bins of equal size, from the least confident up."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    ours, theirs = np.asarray(predicted, dtype=float), np.asarray(observed, dtype=float)
    return [{"predicted": float(ours[p].mean()), "observed": float(theirs[p].mean()), "n": len(p)} for p in parts]


def calibration_error(bins: Sequence[Mapping[str, float]]) -> float:
    """Mean over bins of |predicted - observed|, weighted by size (expected calibration error, Guo et al. 2017)."""
    total = sum(b["n"] for b in bins)
    return sum(b["n"] * abs(b["predicted"] - b["observed"]) for b in bins) / total
