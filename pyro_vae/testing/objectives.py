"""The contract of objectives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pyro_vae.distributions import inverse_positive
from pyro_vae.engine import CompiledSVI
from pyro_vae.guides import GumbelSoftmax
from pyro_vae.guides import Normal as NormalGuide
from pyro_vae.likelihoods import Normal as NormalLikelihood
from pyro_vae.objectives import Objective
from pyro_vae.priors import Categorical
from pyro_vae.priors import Normal as NormalPrior
from pyro_vae.programs import VAE
from pyro_vae.testing._assertions import close, require
from pyro_vae.testing.distributions import GRID_1D

__all__ = ["check_objective"]

_REPEATS = 16  # independent losses, from which standard errors come
_STANDARD_ERRORS = 6.0  # that a mean may be off
_STEP = 1e-6  # of finite differences


def check_objective(
    objective: Objective,
    *,
    expected_loss: Callable[[VAE, Tensor], Tensor] | None = None,
    capture: bool = True,
) -> None:
    """Checks an objective on a model of one real latent and on one of a latent with three states.

    It may refuse one of the two with a ``ValueError`` of one line. On the other:

    - the loss is a finite number, and neither it nor an evaluation counts as a step;
    - the gradient of the loss is, in the mean over draws, that of the mean loss, unless
      ``unbiased_gradient`` is False; it is compared with finite differences under the same
      random numbers, of model and guide apart;
    - minus the mean loss is at most the exact log p(x), if the objective is declared a bound, also
      where the guide is the posterior, so that nothing is lost by the guide;
    - a step captured as one graph ends where an eager one does.

    Means are of 16 repetitions with 128 observations, and may be 6 standard errors off.

    Args:
        objective: An objective that has taken no step.
        expected_loss: Its expectation, summed over data of shape ``(B, 1)``, a differentiable
            function of the model of one real latent; its value and gradient are then compared too.
        capture: Whether to compile a step, which takes seconds.

    Raises:
        AssertionError: If the objective breaks its contract.

    Example:
        >>> from pyro_vae import objectives
        >>> check_objective(objectives.IWAE(2), capture=False)
    """
    objective = copy.deepcopy(objective)
    refused = []
    for vae in (_one_real(), _three_states()):
        x = torch.linspace(-2, 2, 4, dtype=torch.float64).repeat(32).unsqueeze(1)
        objective.prepare(len(x))
        try:
            objective.loss(vae.model, vae.guide, x)
        except ValueError as error:
            require("\n" not in str(error), f"{error}: an error of more than one line")
            refused.append(str(error))
            continue
        _check_steps(objective, vae, x)
        _check_expectations(
            objective, vae, x, None if vae.prior.support.is_discrete else expected_loss
        )
        _check_bound(objective, vae, x)
        if not vae.prior.support.is_discrete:
            _check_bound(objective, _with_posterior(), x)
        if capture:
            _check_capture(objective, vae, x)
    require(len(refused) < 2, f"{_name(objective)}: takes neither model: {'; '.join(refused)}")


def _check_steps(objective: Objective, vae: VAE, x: Tensor) -> None:
    taken = objective.step.clone()
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    require(
        loss.shape == () and bool(loss.isfinite()) and loss.requires_grad,
        f"{_name(objective)}: expected a finite loss of shape () with a gradient, got {loss}",
    )
    objective.loss(vae.model, vae.guide, x)
    require(torch.equal(objective.step, taken), f"{_name(objective)}: evaluating it is a step")
    objective.loss_and_grads(vae.model, vae.guide, x)
    vae.zero_grad()
    require(bool(objective.step == taken + 1), f"{_name(objective)}: a step is not counted")


def _check_expectations(
    objective: Objective, vae: VAE, x: Tensor, expected_loss: Callable[[VAE, Tensor], Tensor] | None
) -> None:
    programs = {"model": list(vae.model.parameters()), "guide": list(vae.guide.parameters())}
    generator = torch.Generator().manual_seed(4)
    directions = {
        name: [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params]
        for name, params in programs.items()
    }

    def slope(loss: Tensor, name: str) -> Tensor:
        gradients = torch.autograd.grad(
            loss, programs[name], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        pairs = zip(gradients, directions[name], strict=True)
        return sum((g * d).sum() for g, d in pairs)  # type: ignore[return-value]

    @torch.no_grad()
    def difference(loss: Tensor, name: str, seed: int) -> Tensor:
        """The slope by a small step in one direction, with the same random numbers."""
        before = [parameter.clone() for parameter in programs[name]]
        for parameter, d in zip(programs[name], directions[name], strict=True):
            parameter.add_(_STEP * d)
        torch.manual_seed(seed)
        ahead = objective.differentiable_loss(vae.model, vae.guide, x)
        for parameter, value in zip(programs[name], before, strict=True):
            parameter.copy_(value)
        return (ahead - loss) / _STEP

    rows: dict[str, list[Tensor]] = {"loss": [], "model": [], "guide": []}
    differences: dict[str, list[Tensor]] = {"model": [], "guide": []}
    with torch.random.fork_rng(devices=[]):
        for seed in range(_REPEATS):
            torch.manual_seed(seed)
            loss = objective.differentiable_loss(vae.model, vae.guide, x)
            rows["loss"].append(loss.detach())
            for name in programs:
                rows[name].append(slope(loss, name).detach())
            for name in programs:  # moves the parameters, which a gradient does not survive
                differences[name].append(difference(loss, name, seed))
    mean = torch.stack(rows["loss"]).mean()
    for name in programs if objective.unbiased_gradient else ():
        excess = torch.stack(rows[name]) - torch.stack(differences[name])
        scale = torch.stack(differences[name]).abs().mean()
        _check_mean(
            excess, 1e-5 * (1 + float(scale)), f"{_name(objective)}: gradient of the {name}"
        )
    if expected_loss is not None:
        truth = expected_loss(vae, x)
        tolerance = 1e-6 * (1 + float(mean.abs()))
        where = f"{_name(objective)}: the expected loss"
        _check_mean(torch.stack(rows["loss"]) - truth.detach(), tolerance, where)
        for name in programs if objective.unbiased_gradient else ():
            excess = torch.stack(rows[name]) - slope(truth, name).detach()
            _check_mean(excess, tolerance, f"{where}, its gradient of the {name},")


@torch.no_grad()
def _check_bound(objective: Objective, vae: VAE, x: Tensor) -> None:
    if not objective.bounds(vae.guide):
        return
    exact = _exact_log_prob(vae, x)
    excess = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(_REPEATS):
            torch.manual_seed(seed)
            excess.append(-objective.differentiable_loss(vae.model, vae.guide, x) - exact)
    over, error = torch.stack(excess).mean(), torch.stack(excess).std() / _REPEATS**0.5
    require(
        float(over) <= _STANDARD_ERRORS * float(error) + 1e-6 * float(exact.abs()),
        f"{_name(objective)}: declared a bound, and {float(over):.4g} nats above log p(x)",
    )


def _check_mean(excess: Tensor, tolerance: float, what: str) -> None:
    """Checks that the mean of independent numbers is 0, but for chance and rounding."""
    error = float(excess.std() / len(excess) ** 0.5)
    require(
        abs(float(excess.mean())) <= _STANDARD_ERRORS * error + tolerance,
        f"{what} is off by {float(excess.mean()):.4g}, with a standard error of {error:.2g}",
    )


@torch.no_grad()
def _exact_log_prob(vae: VAE, x: Tensor) -> Tensor:
    """Log p(x), summed over data, by a sum over states or by quadrature."""
    prior = vae.prior()
    if vae.prior.support.is_discrete:
        z, log_volume = prior.enumerate_support(), 0.0
    else:
        z = torch.linspace(-12, 12, GRID_1D, dtype=x.dtype).unsqueeze(1)
        log_volume = float((z[1] - z[0]).log())
    log_joint = vae.decode(z.unsqueeze(1)).log_prob(x) + prior.log_prob(z).unsqueeze(1)
    return (log_joint.logsumexp(0) + log_volume).sum()


def _check_capture(objective: Objective, vae: VAE, x: Tensor) -> None:
    ends = []
    for compiled in (False, True):
        twin, fresh = copy.deepcopy(vae), copy.deepcopy(objective)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            svi = CompiledSVI(twin.model, twin.guide, _descent, fresh, compile=compiled)
            loss = svi.step(x)
        weights = torch.cat([p.detach().flatten() for p in twin.parameters()])
        ends.append((torch.tensor(loss), weights, fresh.step))
    require(svi.engine != "eager", f"{_name(objective)}: cannot be captured as one graph")
    for name, eager, captured in zip(("loss", "weights", "step"), *ends, strict=True):
        require(
            close(eager, captured, 1e-5 * (1 + float(eager.abs().max()))),  # a loss is single
            f"{_name(objective)}: the {name} after a captured step differs from an eager one",
        )


def _descent(params: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.01)


def _one_real() -> VAE:
    encoder = nn.Linear(1, 2)
    decoder = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    parts = NormalPrior(1), NormalGuide(1), NormalLikelihood((1,), scale=0.5)
    return _weighted(VAE(*parts, encoder, decoder))


def _three_states() -> VAE:
    encoder = nn.Sequential(nn.Linear(1, 3), nn.Unflatten(1, (1, 3)))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(3, 1))
    prior, guide = Categorical(1, 3), GumbelSoftmax(1, 3, mode="enumerate")
    return _weighted(VAE(prior, guide, NormalLikelihood((1,), scale=0.5), encoder, decoder))


@torch.no_grad()
def _with_posterior(weight: float = 0.8, noise: float = 0.5) -> VAE:
    """A linear model, and its posterior for a guide."""
    encoder, decoder = nn.Linear(1, 2), nn.Linear(1, 1)
    parts = NormalPrior(1), NormalGuide(1), NormalLikelihood((1,), scale=noise)
    vae = VAE(*parts, encoder, decoder).double()
    precision = torch.tensor(1 + (weight / noise) ** 2, dtype=torch.float64)
    slope = weight / noise**2 / float(precision)
    raw_scale = float(inverse_positive(precision.rsqrt()))
    encoder.weight.copy_(torch.tensor([[slope], [0.0]]))
    encoder.bias.copy_(torch.tensor([0.0, raw_scale]))
    decoder.weight.fill_(weight)
    decoder.bias.zero_()
    return vae


@torch.no_grad()
def _weighted(vae: VAE) -> VAE:
    """The same weights each time, for a guide that is neither the prior nor the posterior."""
    generator = torch.Generator().manual_seed(3)
    for parameter in vae.double().parameters():
        parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return vae


def _name(objective: Objective) -> str:
    return type(objective).__name__
