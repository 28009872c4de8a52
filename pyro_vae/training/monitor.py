"""What is followed from epoch to epoch: the ELBO, and the bound that chooses the epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import Rows
from pyro_vae.engine.by_rows import Again
from pyro_vae.objectives import ELBO, Enumerated, Terms
from pyro_vae.objectives.importance import Importance
from pyro_vae.programs import Amortized
from pyro_vae.programs.streamed import StreamedRows

__all__ = ["MONITORED", "chosen_by", "monitor"]

MONITORED = 2000  # training observations on which the ELBO is followed
_ENUMERATED = 100  # at a time, each with all states of its latent
_SEED = 20140414  # the same draws at each epoch: what changes is the model


def _terms(vae: Amortized, objective: object, rows: Rows | StreamedRows, again: Again) -> Terms:
    """The bound itself on some rows, whatever the objective, leaving the generators alone."""
    # Where a sum over states is what is trained the guide may not be; it takes more memory.
    bound: ELBO | Enumerated = objective if isinstance(objective, Enumerated) else ELBO()
    size = MONITORED if isinstance(bound, ELBO) else _ENUMERATED

    def terms(batch: Rows) -> tuple[Tensor, Tensor, dict[str, str]]:
        found = bound.terms(vae.model, vae.guide, batch.x, **batch.given)
        return found.reconstruction, found.kl, found.kl_estimator

    reconstruction, kl, estimators = zip(*again(vae, rows, size, _SEED, terms), strict=True)
    return Terms(
        torch.cat(reconstruction).to(vae.device), torch.cat(kl).to(vae.device), estimators[0]
    )


def chosen_by(vae: Amortized, objective: object) -> str:
    """Returns the entry of the history whose greatest value is that of the epoch to keep.

    A bound of several draws goes on rising where the ELBO, which it does not train, has begun to
    fall. What is no bound, such as a penalty beside one, leaves the choice to the ELBO.
    """
    if isinstance(objective, Importance) and objective.num_samples > 1:
        return "validation_bound" if objective.bounds(vae.guide) else "validation_elbo"
    return "validation_elbo"


def bound(vae: Amortized, objective: Importance, rows: Rows | StreamedRows, again: Again) -> float:
    """Returns the objective's own bound, the mean over some rows, in nats."""

    def loss(batch: Rows) -> float:
        return objective.loss(vae.model, vae.guide, batch.x, **batch.given)

    size, total = max(1, MONITORED // objective.num_samples), 0.0
    for each in again(vae, rows, size, _SEED, loss):
        total -= each
    return total / len(rows)


def _shared(vae: Amortized, rows: Rows | StreamedRows) -> tuple[float, float]:
    """The two halves of the ELBO an observation, where some latents belong to none."""
    reconstruction = kl = 0.0
    with undisturbed(vae, _SEED, vae.device), torch.no_grad():
        for batch in rows.batches(MONITORED):
            halves = ELBO().totals(vae.model, vae.guide, batch.x, **batch.given)
            reconstruction += halves[0].item() / len(rows)
            kl += halves[1].item() / len(rows)
    return reconstruction, kl


def monitor(
    vae: Amortized, objective: object, rows: Rows | StreamedRows, again: Again, prefix: str = ""
) -> dict[str, float]:
    """Returns the bound and its two terms, means over some rows, in nats, for the history.

    Args:
        vae: The model.
        objective: What is minimised.
        rows: The rows, each time the same with the same ``again``.
        again: How their batches are shared by processes.
        prefix: Of the names.
    """
    if vae.has_globals:
        reconstruction, kl = _shared(vae, rows)
        values = {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        return {f"{prefix}{name}": value for name, value in values.items()}
    terms = _terms(vae, objective, rows, again)
    return {
        f"{prefix}elbo": terms.elbo.mean().item(),
        f"{prefix}reconstruction": terms.reconstruction.mean().item(),
        f"{prefix}kl": terms.kl.mean().item(),
    }
