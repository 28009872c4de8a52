"""The divergence of two distributions, where a closed form is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions.kl import kl_divergence

__all__ = ["closed_kl"]


def closed_kl(q: Any, p: Any) -> Tensor | None:
    """Returns KL(q || p) in closed form, or None where none is known."""
    try:
        return torch.as_tensor(kl_divergence(q, p))
    except NotImplementedError:
        return None
