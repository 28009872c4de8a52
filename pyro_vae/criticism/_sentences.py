"""What uneven ranks of the truth among draws mean: a sentence for each quantity and shape."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COLLAPSED", "SENTENCES", "UNEVEN"]

UNEVEN: Mapping[str, str] = {
    "high": "too high",
    "low": "too low",
    "outer": "too often extreme",
    "inner": "too often in the middle",
    "uneven": "uneven",
}
"""Ranks by their shape, for quantities that have no sentence."""

SENTENCES: Mapping[tuple[str, str], str] = {
    (
        "missed",
        "uneven",
    ): "draws explain x worse than the true z does, and that is where {subject} puts "
    "little mass: it misses the posterior, in place or in correlation; {richer}",
    ("z", "high"): "draws of {names} are too low: {subject} is biased; {learn}",
    ("z", "low"): "draws of {names} are too high: {subject} is biased; {learn}",
    ("z", "outer"): "the scale of {subject} is too small in {names}: the truth lies outside its "
    "intervals too often; {richer}",
    ("z", "inner"): "the scale of {subject} is too large in {names}: the truth lies in the middle "
    "of its draws too often; {learn}",
    ("log_likelihood", "high"): "draws explain x worse than the true z does: {subject} is too wide "
    "or has collapsed to the prior; warm up the KL, or {learn}",
    ("log_likelihood", "low"): "draws explain x better than the true z does: {subject} keeps too "
    "close to the best fit; {richer}",
    ("log_prior", "high"): "draws lie farther out in the prior than the true z; {learn}",
    ("log_prior", "low"): "draws lie nearer to the prior's mode than the true z: {subject} leaves "
    "out part of the posterior; {richer}",
    ("log_joint", "high"): "draws are less likely under the model than the true z: {subject} is "
    "too wide; {learn}",
    ("log_joint", "low"): "draws are more likely under the model than the true z: {subject} is too "
    "narrow; {richer}",
    ("log_guide", "high"): "the true z is denser under {subject} than its own draws are: it is too "
    "wide; {learn}",
    ("log_guide", "low"): "the true z is where {subject} puts little mass: it is too sure of "
    "itself; {richer}",
}
"""By what was ranked and how its ranks are uneven."""

COLLAPSED = (
    "in {names}, which have collapsed onto the prior, {subject} is off by less than 0.01 nats: no "
    "richer family is needed, but fewer latent dimensions, or warm up the KL"
)
"""Of latents that the data do not move."""
