r"""Is a model rejected for its fit, or for its family? Effects beside those of refits.

Of data that the fitted model simulates, its family is true. A refit to as many of them as the model
was fitted to errs as the fit did, and what it does not reproduce of data held out of the same
simulation is the error of a fit alone. With K refits of effects e_k, the effect e of the data is
beyond that error where

.. math:: T = \frac{e - \bar e}{s_e \sqrt{1 + 1/K}}

is large for a t distribution of K - 1 degrees of freedom: the interval predicts one more refit.
Their centre and spread are used and never ranks, as K refits allow no p-value below 1 / (K + 1),
which no correction for many tests survives. Of a statistic of many columns e is the logarithm of
the largest effect, and T one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

__all__ = ["FitError", "fit_error"]

_LEAST, _MOST = 1e-3, 1e3  # sizes of effects: no logarithm, and no mean, is without end
_CENTRAL = 0.95


@dataclass(frozen=True)
class FitError:
    """What refits say of one effect.

    Attributes:
        low: Where the interval of 95% begins that predicts the effect of one more refit; of many
            columns that of its size.
        high: Where it ends.
        p_value: Of an effect as far out by the error of a fit alone.
    """

    low: float
    high: float
    p_value: float


def fit_error(effect: float, refits: Sequence[float], *, columns: int) -> FitError:
    """Compares an effect with those of refits.

    References:
        Statistical Intervals (Meeker, Hahn and Escobar, 2017), section 4.8, of one future
        observation, https://doi.org/10.1002/9781118594841

    Args:
        effect: Of the data.
        refits: Of as many refits, two at least.
        columns: Of how many columns each is the largest.

    Example:
        >>> fit_error(0.5, [0.0, 0.1, -0.1, 0.05, -0.05], columns=1).p_value < 0.01
        True
        >>> fit_error(0.5, [0.3, 0.4, 0.8, 0.6, 0.2], columns=20).p_value > 0.2
        True
    """
    scaled = [_scaled(each, columns) for each in (effect, *refits)]
    own, others = scaled[0], np.array(scaled[1:])
    centre, spread = float(others.mean()), float(others.std(ddof=1))
    spread *= math.sqrt(1 + 1 / len(others))
    freedom = len(others) - 1
    half = spread * float(student.ppf((1 + _CENTRAL) / 2, freedom))
    ends = centre - half, centre + half
    away = own - centre
    if columns > 1:
        ends = math.exp(ends[0]), math.exp(ends[1])
    else:
        away = abs(away)
    if spread > 0:
        p_value = float(student.sf(away / spread, freedom)) * (1 if columns > 1 else 2)
    else:  # refits that are all alike, such as those of a statistic that never varies
        p_value = 0.0 if away > 0 else 1.0
    return FitError(*ends, p_value)


def _scaled(effect: float, columns: int) -> float:
    """An effect on a scale on which those of refits are nearly normal."""
    effect = min(max(effect, -_MOST), _MOST)
    return math.log(max(abs(effect), _LEAST)) if columns > 1 else effect
