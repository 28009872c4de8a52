"""The scores of a run observation by observation, of which ``scores.json`` is the summary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_vae import checkpoint
from pyro_vae._errors import expected
from pyro_vae.evaluation.scores import OF_EACH, Scores

__all__ = ["FILE", "recorded_by_row", "write_by_row"]

FILE = "scores.safetensors"
_SAMPLED = "kl_is_sampled"


def write_by_row(folder: Path, scores: Scores) -> None:
    """Writes the scores of each observation of a run.

    Of a program with global latents nothing is written: its page is of one draw of them, and these
    are means over several.
    """
    if scores.mean_without_draw is not None:
        return
    # Copies: of an exact sum two columns are one array, which a file cannot hold twice.
    tensors = {name: torch.tensor(getattr(scores, name)) for name in OF_EACH}
    tensors[_SAMPLED] = torch.tensor(scores.kl_estimator == "sampled")
    checkpoint.write_tensors(folder / FILE, tensors)


def recorded_by_row(folder: Path, summary: Mapping[str, Any], size: int) -> Scores | None:
    """Reads the scores of each observation of a run; None where it has none, as older runs.

    Args:
        folder: The run.
        summary: What its ``scores.json`` has.
        size: How many observations it was scored on.

    Raises:
        ValueError: If the file is damaged, or not what the summary is of.
    """
    path = folder / FILE
    if not (path.exists() or path.is_symlink()):
        return None
    checkpoint.size_of(path)
    tensors, _ = checkpoint.tensors_of(path, path.read_bytes())
    kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    wanted: dict[str, Any] = dict.fromkeys(OF_EACH, (torch.float64, (size,)))
    if kinds != wanted | {_SAMPLED: (torch.bool, ())}:
        columns = ", ".join(OF_EACH)
        raise expected(str(path), f"{columns} of {size} observations, and {_SAMPLED}", kinds)
    each, known = tensors["log_marginal"], summary["log_marginal"]
    mean = each.mean().item()
    # Another processor adds up in another order: of what cancels out, little is left.
    rounding = 1e-9 * each.abs().mean().item() if math.isfinite(mean) else 0.0
    same = math.isclose(mean, math.nan if known is None else known, rel_tol=0, abs_tol=rounding)
    if not same and (known is not None or math.isfinite(mean)):
        raise expected(str(path), f"scores of mean {known}, as scores.json has it", mean)
    return Scores(
        **{name: tensors[name].numpy() for name in OF_EACH},
        active_units=summary["active_units"],
        num_samples=summary["num_samples"],
        estimator=summary["estimator"],
        kl_estimator="sampled" if tensors[_SAMPLED] else "analytic",
        base_measure=summary["base_measure"],
    )
