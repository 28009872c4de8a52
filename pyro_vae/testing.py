"""The contracts that every part keeps, for the parts of this package and for your own.

Each function takes a freshly built part and raises ``AssertionError`` with the reason if it breaks
its contract. They draw random numbers: seed first. Build the part small, one or two entries a
latent or datum, since its density is integrated over a grid.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro.distributions.constraints import sphere
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._given import rows
from pyro_vae.distributions import (
    MAX_ENUMERATED,
    ColumnSupport,
    TotalSupport,
    inverse_positive,
)
from pyro_vae.guides import Guide, GumbelSoftmax
from pyro_vae.guides import Normal as NormalGuide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.likelihoods import Normal as NormalLikelihood
from pyro_vae.networks import Network
from pyro_vae.objectives import Objective
from pyro_vae.part import Part
from pyro_vae.priors import Categorical, Prior
from pyro_vae.priors import Normal as NormalPrior
from pyro_vae.svi import CompiledSVI
from pyro_vae.vae import VAE

__all__ = [
    "check_distribution",
    "check_guide",
    "check_likelihood",
    "check_network",
    "check_objective",
    "check_part",
    "check_prior",
    "some_covariates",
    "total_mass",
]

_BATCH_SHAPES = ((), (5,), (3, 5))
_EXTREME = (-1e3, -30.0, 0.0, 30.0, 1e3)
_STEEP = (-80.0, -3.0, 0.0, 3.0, 80.0)
_ENDS = (-1e6, 0.0, 0.5, 1.0, 1e6)  # of these an entry is given those in its support
_GRID_1D, _GRID_2D = 20_001, 601
_DRAWS = 4000
_AT_ONCE = 10_000
_CHUNKS = 25  # of so many draws, from which standard errors come
_REPEATS, _STANDARD_ERRORS, _STEP = 16, 6.0, 1e-6  # of an objective
_LOGIT, _GRID_LOGIT = 22.0, 901  # to within 3e-10 of 0 and 1, in small steps


def check_prior(prior: Prior) -> None:
    """Checks a prior: what :func:`check_part` and :func:`check_distribution` do, and gradients.

    Args:
        prior: A prior over at most two real entries, or enumerable.

    Raises:
        AssertionError: If the prior breaks its contract.

    Example:
        >>> from pyro_vae import priors
        >>> check_prior(priors.Normal(2))
    """
    check_part(prior)
    prior = copy.deepcopy(prior).double()
    p = prior()
    check_distribution(p, (), prior.event_shape)
    check_distribution(p.expand((5,)), (5,), prior.event_shape)
    z = p.sample((3, 5))
    _require(_all(prior.support.check(z)), f"{prior}: draws outside `support`, {prior.support}")
    _check_gradients(prior, [], lambda: prior().log_prob(z))
    _check_mass(prior, p)


def check_guide(guide: Guide) -> None:
    """Checks a guide on random features and on extreme ones.

    Where its draws are reparameterised, the gradient of an expectation is compared with finite
    differences under common random numbers.

    Args:
        guide: A guide over at most two real entries, or enumerable.

    Raises:
        AssertionError: If the guide breaks its contract.

    Example:
        >>> from pyro_vae import guides
        >>> check_guide(guides.Normal(2))
    """
    check_part(guide)
    guide = copy.deepcopy(guide).double()
    features = _check_batches(guide, guide.event_shape)
    z = guide(features).sample()
    _require(_all(guide.support.check(z)), f"{guide}: draws outside `support`, {guide.support}")
    _check_gradients(guide, [features], lambda: guide(features).log_prob(z))
    _check_mass(guide, guide(features[0, 0].detach()))
    if guide(features).has_rsample:
        if guide.support is sphere:
            _check_reparameterisation_on_sphere(guide)
        else:
            _check_reparameterisation(guide)
    for extreme in _EXTREME:
        far = torch.full((5, *guide.param_shape), extreme, dtype=torch.float32)
        _check_extreme(_single(guide), far)


def check_likelihood(likelihood: Likelihood) -> None:
    """Checks a likelihood on random parameters, on extreme ones, and where it starts.

    Density and gradient must be finite for extreme parameters, and for extreme data too: at the
    closed ends of the support, for counts of a million, and a million away from zero.
    ``init_params`` must explain data drawn from the law itself as well as the parameters they
    were drawn with, to 0.05 nats a datum. A covariate is one number a datum; the density must
    depend on it, and the law must refuse to be without.

    Args:
        likelihood: A likelihood of at most two entries a datum.

    Raises:
        AssertionError: If the likelihood breaks its contract.

    Example:
        >>> from pyro_vae import likelihoods
        >>> check_likelihood(likelihoods.Poisson((2,)))
    """
    check_part(likelihood)
    likelihood = copy.deepcopy(likelihood).double()
    params = _check_batches(likelihood, likelihood.event_shape)
    named = some_covariates(likelihood, params.shape[1])
    law = partial(likelihood, **named)
    x = law(params).sample()
    support = likelihood.support
    _require(_all(support.check(x)), f"{likelihood}: draws outside `support`, {support}")
    measures = ("counting", "lebesgue", "mixed")
    _require(likelihood.measure in measures, f"{likelihood}: `measure` is not one of {measures}")
    kinds = {bool(each.is_discrete) for each in _entries(support, x[0, 0].numel())[1]}
    told = "mixed" if len(kinds) == 2 else "counting" if kinds == {True} else "lebesgue"
    _require(likelihood.measure == told, f"{likelihood}: `measure` contradicts `support`")
    mean = law(params).mean
    _require(mean.shape == x.shape, f"{likelihood}: mean of shape {tuple(mean.shape)}")
    _check_gradients(likelihood, [params], lambda: law(params).log_prob(x))
    _check_mass(likelihood, likelihood(params[0, 0].detach(), **rows(named, 0)))
    _check_covariates(likelihood, params.detach(), x)
    _check_start(likelihood)
    for extreme in _EXTREME:
        far = torch.full((5, *likelihood.param_shape), extreme, dtype=torch.float32)
        _check_extreme(copy.deepcopy(likelihood).float(), far, x[0, :5].float())
    ends = _ends(support, likelihood.event_shape)
    for extreme in _STEEP:
        steep = torch.full((len(ends), *likelihood.param_shape), extreme)
        _check_extreme(copy.deepcopy(likelihood).float(), steep, ends)


def check_network(network: Network, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
    """Checks that a network builds, starts where it is told, and uses all its parameters.

    Args:
        network: A network not built yet.
        in_shape: Shape of one input.
        out_shape: Shape of one output.

    Raises:
        AssertionError: If the network breaks its contract.

    Example:
        >>> from pyro_vae import networks
        >>> check_network(networks.MLP(hidden=(8,)), (3,), (2, 4))
    """
    network.build(in_shape, out_shape)
    check_part(network)
    network = network.double()
    inputs = torch.randn(5, *in_shape, dtype=torch.float64, requires_grad=True)
    outputs = network(inputs)
    _require(
        outputs.shape == (5, *out_shape) and outputs.dtype == torch.float64,
        f"{network}: outputs of shape {tuple(outputs.shape)} and dtype {outputs.dtype}, "
        f"expected {(5, *out_shape)} and torch.float64",
    )
    _check_gradients(network, [inputs], lambda: network(inputs))
    alone = torch.cat([network(each) for each in inputs.split(1)])
    _require(
        torch.allclose(outputs, alone, atol=1e-10),
        f"{network}: the output for a datum depends on the rest of its batch",
    )
    start = torch.randn(*out_shape, dtype=torch.float64)
    network.start_at(start)
    _require(
        _close(network(inputs).mean(0), start, 0.5),
        f"{network}: outputs are not near `start_at`",
    )
    _check_gradients(network, [inputs], lambda: network(inputs))
    network.build(in_shape, out_shape)
    _require(
        network.to(torch.float64)(inputs).shape == (5, *out_shape),
        f"{network}: cannot be built a second time",
    )


def check_part(part: Part) -> None:
    """Checks what all parts share: they can be described, copied, pickled, saved and printed.

    Raises:
        AssertionError: If the part breaks its contract.

    Example:
        >>> from pyro_vae import priors
        >>> check_part(priors.Categorical(2, 3))
    """
    spec = part.spec()
    _require(json.loads(json.dumps(spec)) == spec, f"{part}: spec() changes on its way to JSON")
    _require(
        spec["class"].split(".")[-1] == type(part).__name__, f"{part}: spec() names another class"
    )
    _require(type(part).__name__ in repr(part), f"{part!r}: repr does not name the class")
    state = part.state_dict()
    for how, twin in (
        ("deepcopy", copy.deepcopy(part)),
        ("pickle", pickle.loads(pickle.dumps(part))),
    ):
        _require(_same_state(twin.state_dict(), state), f"{part}: {how} changes the state")
        _require(twin.spec() == spec, f"{part}: {how} loses the constructor arguments")
        shared = {t.data_ptr() for t in state.values() if t.numel()}
        _require(
            not any(t.data_ptr() in shared for t in twin.state_dict().values()),
            f"{part}: {how} shares tensors with the original",
        )
    changed = copy.deepcopy(part)
    with torch.no_grad():
        for tensor in changed.state_dict().values():
            tensor.fill_(1)
    changed.load_state_dict(state)
    _require(
        _same_state(changed.state_dict(), state), f"{part}: load_state_dict does not restore it"
    )


def check_distribution(d: Any, batch_shape: Sequence[int], event_shape: Sequence[int]) -> None:
    """Checks shapes, dtype, support and determinism of a distribution in double precision.

    Args:
        d: A distribution.
        batch_shape: What its batch shape should be.
        event_shape: What its event shape should be.

    Raises:
        AssertionError: If it is not what was announced.

    Example:
        >>> import pyro.distributions as dist
        >>> check_distribution(dist.Normal(torch.zeros(2).double(), 1).to_event(1), (), (2,))
    """
    batch_shape, event_shape = torch.Size(batch_shape), torch.Size(event_shape)
    _require(d.batch_shape == batch_shape, f"{d}: batch shape is not {tuple(batch_shape)}")
    _require(d.event_shape == event_shape, f"{d}: event shape is not {tuple(event_shape)}")
    for sample_shape in (torch.Size(), torch.Size([4])):
        value = d.sample(sample_shape)
        shape = sample_shape + batch_shape + event_shape
        _require(value.shape == shape, f"{d}: draws of shape {tuple(value.shape)}, not {shape}")
        _require(value.dtype == torch.float64, f"{d}: draws are {value.dtype}, not torch.float64")
        _require(_all(d.support.check(value)), f"{d}: draws outside its support")
        log_prob = d.log_prob(value)
        _require(
            log_prob.shape == sample_shape + batch_shape,
            f"{d}: log_prob of shape {tuple(log_prob.shape)}, not {sample_shape + batch_shape}",
        )
        _require(log_prob.dtype == torch.float64, f"{d}: log_prob is {log_prob.dtype}")
        _require(_all(log_prob.isfinite()), f"{d}: log_prob of a draw is not finite")
        _require(torch.equal(log_prob, d.log_prob(value)), f"{d}: log_prob is random")
    # After a draw, since some laws remember what a draw needed.
    wider = d.expand(torch.Size([2, *batch_shape]))
    again = wider.log_prob(value[:2])
    _require(
        wider.event_shape == event_shape
        and wider.sample().shape == (2, *batch_shape, *event_shape),
        f"{d}: draws of it expanded are of another shape",
    )
    _require(
        _close(again, log_prob[:2], 1e-9),
        f"{d}: log_prob of it expanded differs",
    )


@torch.no_grad()
def total_mass(d: Any) -> float:
    """Sums or integrates the density of a small distribution over its whole space.

    Args:
        d: A distribution of empty batch shape: enumerable, boolean, of at most two counts, of at
            most two real numbers, or of unit vectors of two or three coordinates.

    Returns:
        What should be 1.

    Raises:
        AssertionError: If the space is too large.

    Example:
        >>> import pyro.distributions as dist
        >>> round(total_mass(dist.Poisson(torch.tensor([2.0, 5.0])).to_event(1)), 6)
        1.0
    """
    if d.has_enumerate_support:
        try:
            return float(d.log_prob(d.enumerate_support()).exp().sum())
        except NotImplementedError:
            pass  # a product of variables, each with few states: spanned below
    size = d.event_shape.numel()
    draws = d.sample((_DRAWS,)).reshape(_DRAWS, size)
    if d.support is sphere:
        points, areas = _sphere(size, draws.dtype)
        return float((d.log_prob(points).exp() * areas).sum())
    support, entries = _entries(d.support, size)
    if all(each is constraints.boolean for each in entries):
        _require(2**size <= MAX_ENUMERATED, f"{d}: too many entries to sum over all states")
    else:
        _require(size <= 2, f"{d}: at most two entries are integrated, not {size}")
    spanned = [_axis(each, draws[:, i], size) for i, each in enumerate(entries)]
    values = torch.cartesian_prod(*[axis for axis, _ in spanned]).reshape(-1, *d.event_shape)
    volume = torch.cartesian_prod(*[steps for _, steps in spanned]).reshape(-1, size).prod(1)
    inside = support.check(values).reshape(len(values), -1).all(-1)
    # A few at a time stay in the processor's cache: three times as fast.
    chunks = zip(values[inside].split(_AT_ONCE), volume[inside].split(_AT_ONCE), strict=True)
    return sum(float((d.log_prob(x).exp() * steps).sum()) for x, steps in chunks)


def _entries(support: Any, size: int) -> tuple[Any, list[Any]]:
    """Returns a support without what makes events of entries, and that of each entry."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, ColumnSupport):
        return support, support.each()
    if isinstance(support, TotalSupport):
        return support, [constraints.integer_interval(0, support.upper_bound)] * size
    return support, [support] * size


def _axis(support: Any, draws: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns where one entry of ``size`` is looked at, and the volume of each of these places."""
    points = _GRID_1D if size == 1 else _GRID_2D
    # Far enough that what is left out is less than the tolerance for any law with light tails.
    middle, width = float(draws.mean()), float(draws.std().clamp_min(1e-3))
    low, high = middle - 12 * width, middle + 12 * width
    if support is constraints.boolean:
        axis = torch.tensor([0.0, 1.0])
    elif support.is_discrete:
        axis = torch.arange(max(0, int(low)), int(high) + 10)
    elif support is constraints.unit_interval:
        # Even steps of the logit: a density may be steep, or infinite, at both ends.
        axis = torch.linspace(-_LOGIT, _LOGIT, _GRID_LOGIT, dtype=draws.dtype).sigmoid()
        return axis, 2 * _LOGIT / (_GRID_LOGIT - 1) * axis * (1 - axis)
    else:
        axis = torch.linspace(low, high, points, dtype=draws.dtype)
        return axis, torch.full_like(axis, (high - low) / (points - 1))
    return axis.to(draws.dtype), torch.ones(len(axis), dtype=draws.dtype)


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
      ``unbiased_gradient`` says otherwise; it is compared with finite differences under the same
      random numbers, of model and guide apart;
    - minus the mean loss is at most the exact log p(x), if the objective says that it is a bound,
      also where the guide is the posterior, so that nothing is lost by the guide;
    - a step captured as one graph ends where an eager one does.

    Means are of 16 repetitions with 128 data, and may be 6 standard errors off.

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
        objective.told(len(x))
        try:
            objective.loss(vae.model, vae.guide, x)
        except ValueError as error:
            _require("\n" not in str(error), f"{error}: an error of more than one line")
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
    _require(len(refused) < 2, f"{_name(objective)}: takes neither model: {'; '.join(refused)}")


def _name(objective: Objective) -> str:
    return type(objective).__name__


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


def _check_steps(objective: Objective, vae: VAE, x: Tensor) -> None:
    taken = objective.step.clone()
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    _require(
        loss.shape == () and bool(loss.isfinite()) and loss.requires_grad,
        f"{_name(objective)}: expected a finite loss of shape () with a gradient, got {loss}",
    )
    objective.loss(vae.model, vae.guide, x)
    _require(torch.equal(objective.step, taken), f"{_name(objective)}: evaluating it is a step")
    objective.loss_and_grads(vae.model, vae.guide, x)
    vae.zero_grad()
    _require(bool(objective.step == taken + 1), f"{_name(objective)}: a step is not counted")


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
    _require(
        float(over) <= _STANDARD_ERRORS * float(error) + 1e-6 * float(exact.abs()),
        f"{_name(objective)}: said to be a bound, and {float(over):.4g} nats above log p(x)",
    )


def _check_mean(excess: Tensor, tolerance: float, what: str) -> None:
    """Checks that the mean of independent numbers is 0, but for chance and rounding."""
    error = float(excess.std() / len(excess) ** 0.5)
    _require(
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
        z = torch.linspace(-12, 12, _GRID_1D, dtype=x.dtype).unsqueeze(1)
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
    _require(svi.engine != "eager", f"{_name(objective)}: cannot be captured as one graph")
    for name, eager, captured in zip(("loss", "weights", "step"), *ends, strict=True):
        _require(
            _close(eager, captured, 1e-5 * (1 + float(eager.abs().max()))),  # a loss is single
            f"{_name(objective)}: the {name} after a captured step differs from an eager one",
        )


def _descent(params: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.01)


def _check_mass(part: Part, d: Any) -> None:
    mass = total_mass(d)
    _require(abs(mass - 1) < 1e-3, f"{part}: its density sums to {mass:.6g}, not to 1")


def _check_batches(part: Guide | Likelihood, event_shape: torch.Size) -> Tensor:
    """Checks each number of batch dimensions; returns parameters with two of them."""
    params = torch.empty(0)
    for batch_shape in _BATCH_SHAPES:
        params = torch.randn(*batch_shape, *part.param_shape, dtype=torch.float64)
        named = some_covariates(part, *batch_shape[-1:])
        check_distribution(part(params, **named), batch_shape, event_shape)
    value = part(params, **named).sample()
    one_by_one = torch.stack(
        [part(params[0, i], **rows(named, i)).log_prob(value[0, i]) for i in range(params.shape[1])]
    )
    _require(
        torch.allclose(part(params, **named).log_prob(value)[0], one_by_one),
        f"{part}: the density of a datum depends on the rest of its batch",
    )
    return params.requires_grad_()


def _check_gradients(module: nn.Module, inputs: Iterable[Tensor], f: Callable[[], Tensor]) -> None:
    """Checks that ``f`` has a finite, non-zero gradient for each named parameter and input."""
    named = [*module.named_parameters(), *((f"input {i}", t) for i, t in enumerate(inputs))]
    if not named:
        return
    total = f().square().sum()
    _require(total.requires_grad, f"{module}: no gradient reaches {', '.join(n for n, _ in named)}")
    gradients = torch.autograd.grad(total, [t for _, t in named], allow_unused=True)
    for (name, _), gradient in zip(named, gradients, strict=True):
        _require(gradient is not None, f"{module}: no gradient reaches {name}")
        assert gradient is not None
        _require(_all(gradient.isfinite()), f"{module}: the gradient of {name} is not finite")
        _require(bool(gradient.abs().max() > 0), f"{module}: the gradient of {name} is zero")


def _check_reparameterisation(guide: Guide, step: float = 1e-5) -> None:
    features = torch.randn(2, *guide.param_shape, dtype=torch.float64)
    weights = torch.randn(2, *guide.event_shape, dtype=torch.float64)

    def expectation(features: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            z = guide(features).rsample((_DRAWS,))
        return (weights * z + z.square()).mean(0).sum()

    leaf = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expectation(leaf), leaf)
    for index in itertools.product(*map(range, features.shape)):
        shift = torch.zeros_like(features)
        shift[index] = step
        with torch.no_grad():
            rise = expectation(features + shift) - expectation(features - shift)
        slope = rise.detach() / (2 * step)
        _require(
            _close(gradient[index], slope, 1e-5 * (1 + float(slope.abs()))),
            f"{guide}: the gradient of an expectation of draws is {float(gradient[index]):.6g} at "
            f"feature {index}, finite differences give {float(slope):.6g}",
        )


def _sphere(dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Points over the unit sphere, ``(P, dim)``, and the area each stands for, ``(P,)``."""
    _require(dim in (2, 3), f"spheres of 2 or 3 coordinates are integrated over, not {dim}")
    count = _GRID_1D if dim == 2 else _GRID_2D
    angles = torch.arange(count, dtype=dtype) * (2 * math.pi / count)
    circle = torch.stack([angles.cos(), angles.sin()], -1)
    if dim == 2:
        return circle, torch.full((count,), 2 * math.pi / count, dtype=dtype)
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(count // 2))
    heights = nodes.to(dtype)[:, None, None].expand(-1, count, 1)
    around = (1 - heights.square()).sqrt() * circle
    areas = weights.to(dtype)[:, None].expand(-1, count) * (2 * math.pi / count)
    return torch.cat([heights, around], -1).reshape(-1, 3), areas.reshape(-1)


def _check_reparameterisation_on_sphere(guide: Guide) -> None:
    """Compares gradients of an expectation with those of its integral, in standard errors.

    Draws that are accepted or rejected do not move smoothly with the features, though their
    gradient is unbiased: finite differences under common random numbers say nothing about it.
    """
    features = torch.randn(*guide.param_shape, dtype=torch.float64).requires_grad_()
    weights = torch.randn(2, *guide.event_shape, dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return z @ weights[0] + (z @ weights[1]).square()

    points, areas = _sphere(guide.event_shape.numel(), torch.float64)
    exact = (guide(features).log_prob(points).exp() * areas * f(points)).sum()
    (truth,) = torch.autograd.grad(exact, features)
    found = []
    for _ in range(_CHUNKS):
        mean = f(guide(features).rsample((_DRAWS,))).mean()
        found.append(torch.autograd.grad(mean, features)[0])
    gradients = torch.stack(found)
    errors = gradients.std(0) / _CHUNKS**0.5
    away = ((gradients.mean(0) - truth).abs() / errors.clamp_min(1e-9)).max()
    _require(
        bool(away < 6),  # of Student's law with as many degrees of freedom as there are chunks
        f"{guide}: the gradient of an expectation of draws is {float(away):.1f} standard errors "
        "from that of its integral",
    )


def _check_extreme(part: Guide | Likelihood, params: Tensor, value: Tensor | None = None) -> None:
    """Checks that the density and its gradient are finite far away, in single precision."""
    params = params.requires_grad_()
    d = part(params, **some_covariates(part, len(params), dtype=torch.float32))
    if value is None:
        value = d.rsample() if d.has_rsample else d.sample()
    log_prob = d.log_prob(value)
    where = f"where the network returns {float(params.detach().flatten()[0]):g}"
    _require(_all(log_prob.isfinite()), f"{part}: log_prob is not finite {where}")
    (gradient,) = torch.autograd.grad(log_prob.sum(), params)
    _require(_all(gradient.isfinite()), f"{part}: the gradient is not finite {where}")


def _ends(support: Any, event_shape: torch.Size) -> Tensor:
    """Returns data at the ends of a support and far out, shape ``(N, *event_shape)``."""
    support, entries = _entries(support, event_shape.numel())
    columns = []
    for i, each in enumerate(entries):
        known = {*_ENDS, *(getattr(each, f"{side}_bound", 0.0) for side in ("lower", "upper"))}
        values = torch.tensor(sorted(map(float, known)))
        values = values[each.check(values)]
        # Shifted from entry to entry, so that both ends meet in one datum.
        columns.append(values.roll(i)[torch.arange(len(known)) % len(values)])
    longest = max(map(len, columns))
    rows = [column[torch.arange(longest) % len(column)] for column in columns]
    data = torch.stack(rows, -1).reshape(-1, *event_shape)
    return data[support.check(data).reshape(len(data), -1).all(-1)]


def _single(guide: Guide) -> Guide:
    """Returns a copy in single precision, and with it the model it is part of, if any."""
    twin = copy.deepcopy(guide).float()
    view = getattr(twin, "_view", None)
    if view is not None:
        view.vae.float()
    return twin


def some_covariates(
    part: Part, *batch_shape: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Draws what a likelihood needs to know of each datum: nothing for one that needs nothing.

    Args:
        part: The likelihood; any other part has no covariates.
        batch_shape: Shape of each of them.
        dtype: Their dtype.

    Returns:
        Numbers between a half and two, by name: size factors, or any other real numbers.

    Example:
        >>> from pyro_vae import likelihoods
        >>> some_covariates(likelihoods.Poisson((2,), size_factor=True), 5)["size_factor"].shape
        torch.Size([5])
    """
    names = part.covariates if isinstance(part, Likelihood) else ()
    return {name: 2 ** (2 * torch.rand(batch_shape, dtype=dtype) - 1) for name in names}


def _check_covariates(likelihood: Likelihood, params: Tensor, x: Tensor) -> None:
    named = some_covariates(likelihood, params.shape[1])
    before = likelihood(params, **named).log_prob(x)
    seen = likelihood.seen(x, **named)
    _require(seen.shape == x.shape, f"{likelihood}: `seen` is of shape {tuple(seen.shape)}")
    for name, value in named.items():
        after = likelihood(params, **named | {name: 2 * value}).log_prob(x)
        _require(
            bool((after != before).all()), f"{likelihood}: the density does not depend on {name}"
        )
        try:
            likelihood(params, **{k: v for k, v in named.items() if k != name})
        except ValueError as error:
            _require("\n" not in str(error), f"{error}: an error of more than one line")
        else:
            _require(False, f"{likelihood}: does without its covariate {name}")


def _check_start(likelihood: Likelihood) -> None:
    """Checks that ``init_params`` fits data drawn from the law as well as their parameters do."""
    with torch.no_grad():
        true = torch.randn(*likelihood.param_shape, dtype=torch.float64)
        named = some_covariates(likelihood, _DRAWS)
        law = partial(likelihood, **named)
        many = true.expand(_DRAWS, *true.shape)
        x = law(many).sample()
        best = law(many).log_prob(x).mean()
        init_params: Callable[..., Tensor] = likelihood.init_params
        start = init_params(x, **named)
        _require(
            start.shape == likelihood.param_shape,
            f"{likelihood}: init_params of shape {tuple(start.shape)}, "
            f"not {tuple(likelihood.param_shape)}",
        )
        reached = law(start.expand_as(many)).log_prob(x).mean()
        _require(
            bool(reached > best - 0.05),
            f"{likelihood}: init_params explains data of the law itself with {reached:.3f} nats "
            f"a datum, their own parameters with {best:.3f}",
        )
        constant = init_params(x[:1].expand(8, *x.shape[1:]), **rows(named, slice(8)))
        _require(
            _all(constant.isfinite()), f"{likelihood}: init_params of constant data is not finite"
        )


def _same_state(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance)


def _all(flags: Tensor) -> bool:
    return bool(flags.all())


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
