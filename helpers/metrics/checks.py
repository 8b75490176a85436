"""Arrays that are what they are said to be, or a ValueError with the reason."""

import numpy as np
from numpy.typing import ArrayLike


def checked(p: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities [N, C] and integer labels [N] that fit each other."""
    p, y = distributions(p, 2), np.asarray(y)
    if y.shape != p.shape[:1]:
        raise ValueError(f"expected labels {p.shape[:1]} for probabilities {p.shape}; found {y.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers (not one-hot, not floats); found {y.dtype}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels must lie in 0..{p.shape[1] - 1}; found {y.min()}..{y.max()}")
    return p, y


def distributions(p: ArrayLike, ndim: int) -> np.ndarray:
    """Return an array with `ndim` axes whose last axis sums to 1."""
    p = finite(p, "probabilities")
    if p.ndim != ndim or not p.size:
        expected = "[N, C]" if ndim == 2 else "[S, N, C]"
        raise ValueError(f"expected probabilities {expected}; found shape {p.shape}")
    total = p.sum(axis=-1, dtype=np.float64)
    if p.min() < 0 or np.abs(total - 1).max() > 1e-3:
        raise ValueError(
            f"probabilities must be >= 0 and sum to 1; found a least value of {p.min():.3g} and sums from "
            f"{total.min():.3g} to {total.max():.3g}: were logits passed without a softmax?"
        )
    return p


def finite(a: ArrayLike, name: str) -> np.ndarray:
    a = np.asarray(a)
    a = a if np.issubdtype(a.dtype, np.floating) else a.astype(np.float64)
    if not np.isfinite(a).all():
        raise ValueError(f"{name}: {np.sum(~np.isfinite(a))} of {a.size} values are NaN or infinite")
    return a
