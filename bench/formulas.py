"""Formulas that the hand-written NumPy versions share, with their gradients, in the dtype of their arguments.

What enters: arrays. What leaves: arrays; functions that end in ``_`` work in place. Invariant: in float64 they are accurate to
float64, so that they can be the reference.
"""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from typing import Any

import numpy as np

_EXACT = np.vectorize(math.erf, otypes=[np.float64])
# Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 7.1.26: |error| <= 1.5e-7.
_ERF = (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


@cache
def _scipy_erf() -> Any:
    if importlib.util.find_spec("scipy") is None:
        return None
    from scipy.special import erf

    return erf


def erf(x: np.ndarray) -> np.ndarray:
    """The error function: SciPy's where it is installed, else a polynomial in float32 and the C library's in float64.

    >>> bool(abs(erf(np.float32([0.5]))[0] - math.erf(0.5)) < 1e-6)
    True
    """
    if scipy_erf := _scipy_erf():
        return np.asarray(scipy_erf(x))
    if x.dtype == np.float64:
        return np.asarray(_EXACT(x))
    p, a1, a2, a3, a4, a5 = _ERF
    size = np.abs(x)
    t = 1 / (1 + np.float32(p) * size)
    series = t * (a1 + t * (a2 + t * (a3 + t * (a4 + t * a5))))
    return np.asarray(np.copysign(1 - series * np.exp(-size * size), x).astype(x.dtype))


def gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x Phi(x), and its derivative Phi(x) + x phi(x) (Hendrycks, Gimpel, 2016)."""
    phi = np.exp(-0.5 * x * x)
    phi *= 1 / math.sqrt(2 * math.pi)
    cdf = erf(x * math.sqrt(0.5))
    cdf += 1
    cdf *= 0.5
    phi *= x
    phi += cdf
    cdf *= x
    return cdf, phi


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)); exact enough for |x| < 80.

    >>> sigmoid(np.float64([0.0])).item()
    0.5
    """
    y = np.negative(x)
    np.exp(y, out=y)
    y += 1
    return np.reciprocal(y, out=y)


def cross_entropy(logits: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean loss, and its gradient in the logits, which it overwrites: (softmax - one hot) / rows."""
    rows = np.arange(len(logits))
    logits -= logits.max(axis=1, keepdims=True)
    picked = logits[rows, label]
    p = np.exp(logits, out=logits)
    total = p.sum(axis=1, keepdims=True)
    loss = (np.log(total[:, 0]) - picked).mean()
    p /= total
    p[rows, label] -= 1
    p /= len(p)
    return loss, p


def layer_norm(
    x: np.ndarray, gain: np.ndarray, shift: np.ndarray, epsilon: float = 1e-5
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Rows of mean 0 and variance 1, scaled and shifted; and what the gradient needs (Ba, Kiros, Hinton, 2016)."""
    normal = x - x.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(np.einsum("...i,...i->...", normal, normal)[..., None] / x.shape[-1] + epsilon)
    inverse = inverse.astype(x.dtype)
    normal *= inverse
    y = normal * gain
    y += shift
    return y, (normal, inverse)


def layer_norm_gradient(
    dy: np.ndarray, gain: np.ndarray, saved: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients in x, gain and shift."""
    normal, inverse = saved
    width = dy.shape[-1]
    d_gain = np.einsum("ni,ni->i", dy.reshape(-1, width), normal.reshape(-1, width))
    d_shift = dy.reshape(-1, width).sum(axis=0)
    scaled = dy * gain
    mean = scaled.mean(axis=-1, keepdims=True)
    slope = np.einsum("...i,...i->...", scaled, normal)[..., None] / width
    scaled -= mean
    scaled -= normal * slope.astype(dy.dtype)
    scaled *= inverse
    return scaled, d_gain, d_shift
