"""A corpus whose best possible predictor is known in closed form.

Each vector is μ + topic + noise, normalised: a fixed mean direction μ, a topic that drifts through the
document as a stationary AR(1) with coefficient ρ, and white noise. The four numbers are those that
reproduce the baselines of a real corpus (Wikipedia chunks under GTR-T5, D = 768). For large D the norms
concentrate at 1, so the best predictor is linear: μ plus the Wiener weights of the T lags. Its cosine is
a ceiling that a trained model can be judged against.

N vectors, D vector, T context length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.artifact.config import AMNConfig, ModelConfig

WINDOWS_PER_DOCUMENT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticProcess:
    """The process; variances are of whole vectors, and mean² + topic + noise = 1."""

    dim: int = 768
    mean_norm: float = 0.4218
    topic_variance: float = 0.2834
    correlation: float = 0.9187

    def sample(
        self, windows: int, *, context_length: int = 5, seed: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return vectors `[N, D]` and document ids `[N]` that hold at least `windows` windows of T + 1 rows."""
        rng = np.random.default_rng(seed)
        documents = -(-windows // WINDOWS_PER_DOCUMENT)
        length = WINDOWS_PER_DOCUMENT + context_length
        scale = np.float32(1 / np.sqrt(self.dim))
        mean = rng.standard_normal(self.dim).astype(np.float32)
        mean *= self.mean_norm / np.linalg.norm(mean)
        noise_scale = scale * np.float32(np.sqrt(1 - self.mean_norm**2 - self.topic_variance))
        topic_scale = scale * np.float32(np.sqrt(self.topic_variance))
        drift_scale = np.float32(np.sqrt(1 - self.correlation**2))
        vectors = np.empty((documents, length, self.dim), np.float32)
        topic = rng.standard_normal((documents, self.dim), np.float32)
        for t in range(length):
            if t:
                step = rng.standard_normal((documents, self.dim), np.float32)
                topic = np.float32(self.correlation) * topic + drift_scale * step
            noise = rng.standard_normal((documents, self.dim), np.float32)
            vectors[:, t] = mean + topic_scale * topic + noise_scale * noise
        flat = vectors.reshape(-1, self.dim)
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
        return flat, np.repeat(np.arange(documents, dtype=np.int64), length)

    def wiener_weights(self, context_length: int = 5) -> NDArray[np.float64]:
        """Return the weights `[T]`, oldest first, of the best linear predictor of the next deviation from μ.

        They solve R w = r with R the covariance of the context and r its covariance with the next vector.
        """
        covariance, cross = self._covariances(context_length)
        return np.asarray(np.linalg.solve(covariance, cross), dtype=np.float64)

    def ceiling(self, context_length: int = 5) -> float:
        """Return the cosine that the best predictor reaches: √(|μ|² + rᵀR⁻¹r)."""
        covariance, cross = self._covariances(context_length)
        explained = float(cross @ np.linalg.solve(covariance, cross))
        return float(np.sqrt(self.mean_norm**2 + explained))

    def unordered_ceiling(self, context_length: int = 5) -> float:
        """Return a cosine that no predictor, linear or not, exceeds if it does not know the order of its context.

        The process reads the same forwards and backwards. So even a predictor that recovers the order from the vectors
        cannot tell it from its reverse, and expects the mean of what both predict: Wiener weights made symmetric. An
        AMN takes a mean and attention without positions, so it is such a predictor; what lies between this and
        `ceiling` is for models that see the order.
        """
        covariance, _ = self._covariances(context_length)
        weights = self.wiener_weights(context_length)
        symmetric = (weights + weights[::-1]) / 2
        return float(np.sqrt(self.mean_norm**2 + symmetric @ covariance @ symmetric))

    def bottleneck_ceiling(self, width: int, context_length: int = 5) -> float:
        """Return a cosine that no predictor exceeds if its last step before normalising is Linear(width, D).

        Its outputs span `width` directions and the bias, whatever comes before. The best unit vector in that span
        follows the expected vector's part in it, whose mean length is at most √(|μ|² + q (width + 1) / D): the
        topic prefers no direction, so each of D holds an equal share of the q = rᵀR⁻¹r that the context explains.
        """
        explained = self.ceiling(context_length) ** 2 - self.mean_norm**2
        return float(np.sqrt(self.mean_norm**2 + explained * min(1.0, (width + 1) / self.dim)))

    def ceiling_of(self, config: ModelConfig) -> float:
        """Return the cosine that no model of this architecture and size exceeds."""
        if isinstance(config, AMNConfig):
            if config.recency:
                return self.ceiling(config.context_length)
            return self.unordered_ceiling(config.context_length)
        width: Any = config.to_dict()["hidden_dim"]
        return self.bottleneck_ceiling(width, config.context_length)

    def _covariances(self, context_length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        lags = np.arange(context_length)
        noise = 1 - self.mean_norm**2 - self.topic_variance
        covariance = self.topic_variance * self.correlation ** np.abs(lags[:, None] - lags)
        cross = self.topic_variance * self.correlation ** (context_length - lags)
        covariance = covariance + noise * np.eye(context_length)
        return covariance.astype(np.float64), cross.astype(np.float64)
