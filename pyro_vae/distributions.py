"""The few distributions and transforms that Pyro and PyTorch do not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import Independent, TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints, relaxed_bernoulli, relaxed_categorical
from torch.distributions.kl import kl_divergence, register_kl
from torch.distributions.utils import clamp_probs

from pyro_vae._errors import expected

__all__ = [
    "MAX_ENUMERATED",
    "SCALE_FLOOR",
    "AutoregressiveLevels",
    "ColumnSupport",
    "Columns",
    "DiscretizedLogistic",
    "EdgedBeta",
    "ExpRelaxedCategorical",
    "GroupedOneHotCategorical",
    "JointBernoulli",
    "Levels",
    "LogitRelaxedBernoulli",
    "TotalMultinomial",
    "TotalSupport",
    "ZeroInflated",
    "by_entry",
    "closed_kl",
    "diagonal_normal",
    "feasible",
    "inverse_positive",
    "labelled",
    "masked",
    "positive",
]

SCALE_FLOOR = 1e-4
MAX_ENUMERATED = 2**16
_IMPOSSIBLE = 1e30  # nats below what is certain: its probability is exactly 0


def positive(raw: Tensor) -> Tensor:
    """Maps real numbers to positive ones: ``softplus(raw) + 1e-4``."""
    return F.softplus(raw) + SCALE_FLOOR


def inverse_positive(value: Tensor) -> Tensor:
    """Inverts :func:`positive`; values at or below its floor are taken just above it."""
    above = (value - SCALE_FLOOR).clamp_min(SCALE_FLOOR)
    return above + torch.log(-torch.expm1(-above))


def diagonal_normal(features: Tensor) -> Any:
    """Returns N(loc, diag scale^2) of features ``(*, 2 * dim)``: loc, then raw scale."""
    loc, raw = features.chunk(2, -1)
    return dist.Normal(loc, positive(raw)).to_event(1)


def by_entry(law: Any, event_dim: int) -> Any:
    """Returns the law of the single entries, batch shape the whole, or None if they depend."""
    if not isinstance(law, Independent) or law.base_dist.event_shape:
        return None
    return law.base_dist if law.reinterpreted_batch_ndims == event_dim else None


def masked(law: Any, mask: Tensor) -> Any:
    """Returns the law of those entries of x that a mask leaves.

    Args:
        law: p(x|z), of event shape ``event_shape``.
        mask: Booleans, shape ``(*, *event_shape)``; what they hide must still be feasible.

    Raises:
        ValueError: If the entries are not independent.
    """
    event_dim = len(law.event_shape)
    entries = by_entry(law, event_dim)
    if entries is None:
        name = type(law).__name__
        raise expected("mask", "a likelihood whose entries are independent given z", name)
    return entries.mask(mask).to_event(event_dim)


def feasible(support: constraints.Constraint, event_shape: Any) -> Tensor:
    """Returns a datum of a support, shape ``event_shape``: entries of 0, else a half, else 1."""
    datum = torch.full(torch.Size(event_shape), math.nan)
    for value in (1.0, 0.5, 0.0):
        tried = torch.full_like(datum, value)
        datum = torch.where(support.check(tried), tried, datum)
    return datum


class GroupedOneHotCategorical(Independent):
    """Creates independent one-hot categorical variables, enumerable jointly.

    ``Independent`` refuses to enumerate a product of variables; this one enumerates all
    ``classes ** groups`` joint states, up to ``MAX_ENUMERATED`` of them.

    Args:
        base_distribution: One-hot categoricals of batch shape ``(*, groups)``.
        reinterpreted_batch_ndims: Always 1, the dimension of the groups.

    Example:
        >>> from pyro.distributions import OneHotCategorical
        >>> q = GroupedOneHotCategorical(OneHotCategorical(logits=torch.zeros(3, 2)), 1)
        >>> q.event_shape, q.enumerate_support().shape
        (torch.Size([3, 2]), torch.Size([8, 3, 2]))
    """

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the joint states can be listed: always."""
        return True

    @property
    def num_states(self) -> int:
        """How many joint states there are."""
        groups, classes = self.event_shape
        return int(classes**groups)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Lists the joint states.

        Args:
            expand: Whether to repeat them over the batch shape.

        Returns:
            One-hot states, shape ``(classes ** groups, *batch_shape, groups, classes)``, with
            ones in place of the batch shape if not expanded.

        Raises:
            ValueError: If there are more than ``MAX_ENUMERATED`` of them.
        """
        groups, classes = self.event_shape
        if self.num_states > MAX_ENUMERATED:
            raise expected(
                "groups", f"at most {MAX_ENUMERATED} joint states", f"{classes}**{groups}"
            )
        logits = self.base_dist.logits
        axis = torch.arange(classes, device=logits.device)
        states = torch.cartesian_prod(*[axis] * groups).reshape(-1, groups)
        # Unlike `one_hot`, this reads no value back, so that a step can be captured.
        one_hot = torch.eye(classes, dtype=logits.dtype, device=logits.device)[states]
        batch = self.batch_shape if expand else (1,) * len(self.batch_shape)
        view = one_hot.reshape(-1, *(1,) * len(batch), groups, classes)
        return view.expand(-1, *batch, -1, -1)


def labelled(law: GroupedOneHotCategorical, labels: Tensor) -> tuple[Any, Tensor]:
    """Returns the law of one categorical variable that is known of some data.

    Args:
        law: Of one group, batch shape ``(B,)``.
        labels: The class, shape ``(B,)``; negative where it is not known.

    Returns:
        The law, a point mass where the class is known, and what ``law`` said of it: the logarithm
        of its probability, 0 where it is not known, shape ``(B,)``.

    Example:
        >>> from pyro.distributions import OneHotCategorical
        >>> law = GroupedOneHotCategorical(OneHotCategorical(logits=torch.zeros(2, 1, 4)), 1)
        >>> known, log_prob = labelled(law, torch.tensor([3, -1]))
        >>> known.mean.squeeze(1).tolist(), (4 * log_prob.exp()).tolist()
        ([[0.0, 0.0, 0.0, 1.0], [0.25, 0.25, 0.25, 0.25]], [1.0, 4.0])
    """
    logits = law.base_dist.logits
    known, index = labels >= 0, labels.clamp_min(0)
    log_prob = logits.squeeze(-2).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    corner = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)[index]
    # Finite, so that nothing times it is nothing, not NaN, in a divergence and its gradient.
    certain = (corner - 1) * _IMPOSSIBLE
    logits = torch.where(known[:, None, None], certain.unsqueeze(-2), logits)
    point = GroupedOneHotCategorical(dist.OneHotCategorical(logits=logits), 1)
    return point, torch.where(known, log_prob, 0.0)


class JointBernoulli(Independent):
    """Creates independent binary variables, enumerable jointly, up to ``MAX_ENUMERATED`` states.

    Args:
        base_distribution: Bernoulli variables of batch shape ``(*, dim)``.
        reinterpreted_batch_ndims: Always 1, the dimension of the variables.

    Example:
        >>> from pyro.distributions import Bernoulli
        >>> JointBernoulli(Bernoulli(logits=torch.zeros(3)), 1).enumerate_support().shape
        torch.Size([8, 3])
    """

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the joint states can be listed: always."""
        return True

    @property
    def num_states(self) -> int:
        """How many joint states there are."""
        return int(2 ** self.event_shape[0])

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Lists the joint states.

        Args:
            expand: Whether to repeat them over the batch shape.

        Returns:
            States, shape ``(2 ** dim, *batch_shape, dim)``, with ones in place of the batch shape
            if not expanded.

        Raises:
            ValueError: If there are more than ``MAX_ENUMERATED`` of them.
        """
        (dim,) = self.event_shape
        if self.num_states > MAX_ENUMERATED:
            raise expected("dim", f"at most {MAX_ENUMERATED} joint states", f"2**{dim}")
        logits = self.base_dist.logits
        axis = torch.arange(2, dtype=logits.dtype, device=logits.device)
        states = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
        batch = self.batch_shape if expand else (1,) * len(self.batch_shape)
        return states.reshape(-1, *(1,) * len(batch), dim).expand(-1, *batch, -1)


class LogitRelaxedBernoulli(relaxed_bernoulli.LogitRelaxedBernoulli, TorchDistributionMixin):
    """Creates the log-odds of a binary Concrete variable, where its density stays finite.

    They are logistic variables, scaled. Draws depend on the log-odds themselves where those of
    torch depend on a probability, which is rounded to one of few numbers near 0 and 1.

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables
        (Maddison et al., 2017), https://arxiv.org/abs/1611.00712, appendix B

    Args:
        temperature: Positive, shape ``()``.
        logits: Log-odds.

    Example:
        >>> LogitRelaxedBernoulli(torch.tensor(0.5), logits=torch.zeros(3)).rsample().shape
        torch.Size([3])
    """

    has_rsample = True  # which torch forgets to say

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        uniform = clamp_probs(uniform)
        return (self.logits + uniform.log() - torch.log1p(-uniform)) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # Torch's own takes the exponential of this, which overflows.
        odds = self.logits - value * self.temperature
        return self.temperature.log() + F.logsigmoid(odds) + F.logsigmoid(-odds)


class ExpRelaxedCategorical(relaxed_categorical.ExpRelaxedCategorical, TorchDistributionMixin):
    """Creates a Concrete variable in log space, where its density stays finite.

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables
        (Maddison et al., 2017), https://arxiv.org/abs/1611.00712, appendix C.3

    Args:
        temperature: Positive, shape ``()``.
        logits: Shape ``(*, classes)``.

    Example:
        >>> y = ExpRelaxedCategorical(torch.tensor(0.5), logits=torch.zeros(3)).rsample()
        >>> bool(torch.isclose(y.exp().sum(), torch.tensor(1.0)))
        True
    """


class EdgedBeta(dist.Beta):
    """Creates a beta variable whose mass within ``EDGE`` of either end is spread evenly there.

    The density of a beta variable is infinite or zero at 0 and 1, where measured proportions often
    are; this one is finite everywhere, and a beta density but for the outermost millionths. Their
    mass is known to a relative error of about ``EDGE``.

    Args:
        concentration1: Positive, the power of x and more.
        concentration0: Positive, the power of 1 - x.

    Example:
        >>> law = EdgedBeta(torch.tensor(0.5), torch.tensor(2.0))
        >>> bool(law.log_prob(torch.tensor(0.0)).isfinite())
        True
    """

    EDGE = 1e-6

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        within = value.clamp(self.EDGE, 1 - self.EDGE)
        log_prob = super().log_prob(within)
        # Near 0 the density goes as x to the power a - 1, of which the mean is 1 / a of the end.
        log_prob = log_prob - torch.where(value < self.EDGE, self.concentration1.log(), 0.0)
        return log_prob - torch.where(value > 1 - self.EDGE, self.concentration0.log(), 0.0)


class Levels(dist.Categorical):
    """Creates a categorical variable whose classes are numbers, so that it has a mean.

    Draws have the dtype of the logits.

    Args:
        probs: Shape ``(*, K)``; or
        logits: Shape ``(*, K)``.

    Example:
        >>> Levels(probs=torch.tensor([0.5, 0.0, 0.5])).mean
        tensor(1.)
    """

    @property
    def mean(self) -> Tensor:
        """The mean level."""
        return (self.probs * self._levels()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The variance of the level."""
        return (self.probs * self._levels().square()).sum(-1) - self.mean.square()

    def _levels(self) -> Tensor:
        return torch.arange(self._num_events, device=self._param.device, dtype=self._param.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)).to(self._param.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return super().log_prob(value.long())


class DiscretizedLogistic(TorchDistribution):
    """Creates levels 0 to K - 1: the unit intervals that a mixture of logistic variables falls in.

    What is beyond the outermost intervals counts as the outermost level.

    Args:
        loc: Locations in levels, shape ``(*, M)``.
        scale: Positive, in levels, shape ``(*, M)``.
        logits: Of the weights, shape ``(*, M)``.
        levels: Number of levels, K.

    Example:
        >>> one = torch.ones(1)
        >>> law = DiscretizedLogistic(one, one, one, 3)
        >>> torch.stack([law.log_prob(torch.tensor(k)) for k in (0.0, 1.0, 2.0)]).exp().sum()
        tensor(1.)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
        "logits": constraints.independent(constraints.real, 1),
    }

    def __init__(
        self, loc: Tensor, scale: Tensor, logits: Tensor, levels: int, validate_args: Any = None
    ) -> None:
        self.loc, self.scale, self.logits = torch.broadcast_tensors(loc, scale, logits)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Levels 0 to K - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        shape = (*batch_shape, self.loc.shape[-1])
        for name in ("loc", "scale", "logits"):
            setattr(new, name, getattr(self, name).expand(shape))
        new.levels = self.levels
        super(DiscretizedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = value.unsqueeze(-1)
        upper, lower = (value + 0.5 - self.loc) / self.scale, (value - 0.5 - self.loc) / self.scale
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), stable everywhere; at
        # either end only one of the factors is left.
        highest, lowest = value >= self.levels - 1, value <= 0
        below = torch.where(highest, 0.0, F.logsigmoid(upper))
        above = torch.where(lowest, 0.0, F.logsigmoid(-lower))
        between = torch.where(highest | lowest, 0.0, torch.log(-torch.expm1(-1 / self.scale)))
        weights = self.logits.log_softmax(-1)
        return (weights + below + above + between).logsumexp(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.loc.shape
        with torch.no_grad():
            chosen = dist.OneHotCategorical(logits=self.logits).sample(torch.Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            uniform = uniform.clamp(
                torch.finfo(uniform.dtype).tiny, 1 - torch.finfo(uniform.dtype).eps
            )
            drawn = self.loc + self.scale * uniform.logit()
            return (chosen * drawn).sum(-1).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The mean level: the sum over k of the probability of at least k."""
        weights = self.logits.softmax(-1)
        total = torch.zeros_like(self.loc[..., 0])
        for k in range(1, self.levels):
            total = total + (weights * torch.sigmoid((self.loc - k + 0.5) / self.scale)).sum(-1)
        return total


class ZeroInflated(dist.ZeroInflatedDistribution):
    """Creates a variable that is zero for another reason, too, with a probability kept as a logit.

    Pyro's own goes by a rounded probability once its mean or a draw was asked for: then it is not
    finite where the logit is large, and cannot be expanded.

    Args:
        base_dist: The law of what is not zero for the other reason.
        gate_logits: Of the additional zeros.

    Example:
        >>> law = ZeroInflated(dist.Poisson(torch.tensor(1.0)), gate_logits=torch.tensor(80.0))
        >>> law.mean, law.expand((2,)).log_prob(torch.tensor(3.0))
        (tensor(0.), tensor([-82.7918, -82.7918]))
    """

    @property
    def gate(self) -> Tensor:
        """The probability of an additional zero."""
        return self.gate_logits.sigmoid()


class ColumnSupport(constraints.Constraint):
    """Where each column of a table lives.

    It is discrete only if all columns are: what is stored must hold any of them.

    Args:
        supports: One for each group of columns, of single entries.
        sizes: How many columns there are in each group.

    Example:
        >>> support = ColumnSupport([constraints.boolean, constraints.real], [1, 2])
        >>> support.check(torch.tensor([0.5, 0.5, -1.0]))
        tensor([False,  True,  True])
    """

    event_dim = 0

    def __init__(self, supports: Sequence[constraints.Constraint], sizes: Sequence[int]) -> None:
        self.supports, self.sizes = list(supports), list(sizes)
        self.is_discrete = all(support.is_discrete for support in supports)
        super().__init__()

    def __repr__(self) -> str:
        return f"ColumnSupport({', '.join(map(str, self.each()))})"

    def each(self) -> list[constraints.Constraint]:
        """Returns the support of each column."""
        pairs = zip(self.supports, self.sizes, strict=True)
        return [support for support, size in pairs for _ in range(size)]

    def check(self, value: Tensor) -> Tensor:
        """Says of each entry of a table ``(*, D)`` whether it is in its support."""
        parts = zip(self.supports, value.split(self.sizes, -1), strict=True)
        return torch.cat([support.check(part) for support, part in parts], -1)


class Columns(TorchDistribution):
    """Creates independent variables side by side, each group with a law of its own.

    Its last batch dimension are the columns, so that ``.to_event(1)`` makes rows of a table.

    Args:
        laws: Laws of single entries, batch shapes ``(*, D_k)``.

    Example:
        >>> table = Columns([dist.Normal(torch.zeros(2), 1.0), dist.Poisson(torch.ones(1))])
        >>> table.batch_shape, table.to_event(1).event_shape
        (torch.Size([3]), torch.Size([3]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, laws: Sequence[Any], validate_args: Any = None) -> None:
        batch = torch.broadcast_shapes(*(law.batch_shape[:-1] for law in laws))
        self.sizes = [law.batch_shape[-1] for law in laws]
        pairs = zip(laws, self.sizes, strict=True)
        self.laws = [law.expand(torch.Size((*batch, size))) for law, size in pairs]
        super().__init__(torch.Size((*batch, sum(self.sizes))), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Where each column lives."""
        return ColumnSupport([law.support for law in self.laws], self.sizes)

    @property
    def mean(self) -> Tensor:
        """The mean of each column."""
        return torch.cat([law.mean for law in self.laws], -1)

    @property
    def variance(self) -> Tensor:
        """The variance of each column."""
        return torch.cat([law.variance for law in self.laws], -1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columns:
        new = self._get_checked_instance(Columns, _instance)
        if torch.Size(batch_shape)[-1:] != self.batch_shape[-1:]:
            raise expected("batch_shape", f"{sum(self.sizes)} columns", torch.Size(batch_shape))
        new.sizes = self.sizes
        pairs = zip(self.laws, self.sizes, strict=True)
        new.laws = [law.expand(torch.Size((*batch_shape[:-1], size))) for law, size in pairs]
        super(Columns, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        pairs = zip(self.laws, value.split(self.sizes, -1), strict=True)
        return torch.cat([law.log_prob(part) for law, part in pairs], -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return torch.cat([law.sample(shape) for law in self.laws], -1)


class TotalSupport(constraints.Constraint):
    """Counts that add up to a given total.

    Args:
        total: The total.
        event_dim: Over how many dimensions they are added.

    Example:
        >>> TotalSupport(5, 1).check(torch.tensor([[2.0, 3.0], [2.0, 2.0]]))
        tensor([[ True,  True],
                [False, False]])
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, total: int, event_dim: int) -> None:
        self.lower_bound, self.upper_bound, self.dims = 0, total, event_dim
        super().__init__()

    def __repr__(self) -> str:
        return f"TotalSupport({self.upper_bound})"

    def check(self, value: Tensor) -> Tensor:
        """Says of each entry whether it is a count, and one of a datum with this total."""
        total = value.sum(list(range(-self.dims, 0)), keepdim=True)
        return (value >= 0) & (value % 1 == 0) & (total == self.upper_bound)


class TotalMultinomial(TorchDistribution):
    r"""Creates counts that share a random total.

    .. math:: p(x) = p(n) \, \frac{n!}{\prod_d x_d!} \prod_d \pi_d^{x_d}, \quad n = \sum_d x_d

    Args:
        total: The law of the total, batch shape ``()``; or a number, for a total that is known.
        logits: Of the probabilities, shape ``(*, *event_shape)``, normalised over the event.
        event_dim: Dimensions of the event.

    Example:
        >>> law = TotalMultinomial(10, torch.zeros(4), 1)
        >>> law.mean, law.sample().sum()
        (tensor([2.5000, 2.5000, 2.5000, 2.5000]), tensor(10.))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, total: Any, logits: Tensor, event_dim: int, validate_args: Any = None
    ) -> None:
        batch, event = logits.shape[:-event_dim], logits.shape[-event_dim:]
        self.total = total
        self.log_probs = logits.flatten(-event_dim).log_softmax(-1)
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Counts, of the known total if there is one."""
        known = isinstance(self.total, int)
        dims = len(self.event_shape)
        base = TotalSupport(self.total, dims) if known else constraints.nonnegative_integer
        return constraints.independent(base, dims)

    @property
    def mean(self) -> Tensor:
        """The mean counts."""
        total = self.total if isinstance(self.total, int) else self.total.mean
        return (total * self.log_probs.exp()).reshape(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TotalMultinomial:
        new = self._get_checked_instance(TotalMultinomial, _instance)
        new.total = self.total
        new.log_probs = self.log_probs.expand((*batch_shape, -1))
        shape = torch.Size(batch_shape), self.event_shape
        super(TotalMultinomial, new).__init__(*shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = value.flatten(value.ndim - len(self.event_shape))
        total = value.sum(-1)
        ways = (total + 1).lgamma() - (value + 1).lgamma().sum(-1)
        shared = ways + (value * self.log_probs).sum(-1)
        if isinstance(self.total, int):
            return torch.where(total == self.total, shared, -math.inf)
        return shared + self.total.log_prob(total)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            if isinstance(self.total, int):
                counts = self.log_probs.new_full((*shape, 1), self.total)
            else:
                counts = self.total.expand(shape).sample().to(self.log_probs)[..., None]
            # Halves of the entries share a total as a binomial law says, and so on down: as many
            # draws as entries, in few steps.
            size = self.log_probs.shape[-1]
            padding = (0, (1 << (size - 1).bit_length()) - size)
            levels = [F.pad(self.log_probs, padding, value=-math.inf)]
            while levels[-1].shape[-1] > 1:
                levels.append(levels[-1].unflatten(-1, (-1, 2)).logsumexp(-1))
            for halves in reversed(levels[:-1]):
                left, right = halves.unflatten(-1, (-1, 2)).unbind(-1)
                share = (left - right).sigmoid().nan_to_num(0.0).expand(counts.shape)
                first = torch.binomial(counts, share)
                counts = torch.stack([first, counts - first], -1).flatten(-2)
            return counts[..., :size].reshape(shape + self.event_shape)


class AutoregressiveLevels(TorchDistribution):
    r"""Creates levels 0 to K - 1 one after the other, each given those before it.

    .. math:: p(x) = \prod_t p(x_t \mid x_1, \dots, x_{t - 1})

    Density takes one pass of the network, a draw one step for each entry.

    Args:
        network: From levels ``(N, L)`` and a context ``(N, C)`` to the logits of all entries,
            ``(N, L, K)``; and, by ``network.unroll(context, choose)``, from a rule that chooses
            levels ``(N,)`` by logits ``(N, K)`` to levels ``(N, L)``.
        context: Shape ``(*, C)``.
        event_shape: Of one datum, whose L entries come in the order of its memory.
        levels: Number of levels, K.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        network: Any,
        context: Tensor,
        event_shape: Sequence[int],
        levels: int,
        validate_args: Any = None,
    ) -> None:
        self.network, self.context, self.levels = network, context, levels
        shape = context.shape[:-1], torch.Size(event_shape)
        super().__init__(*shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Levels 0 to K - 1."""
        levels = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(levels, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The greedy sequence, for the mean has no closed form: the likeliest level at each step.

        Levels of a sequence are names more often than numbers, of which there is no mean.
        """
        return self._unroll(torch.Size(), lambda logits: logits.argmax(-1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> AutoregressiveLevels:
        new = self._get_checked_instance(AutoregressiveLevels, _instance)
        new.network, new.levels = self.network, self.levels
        new.context = self.context.expand((*batch_shape, -1))
        shape = torch.Size(batch_shape), self.event_shape
        super(AutoregressiveLevels, new).__init__(*shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = value.flatten(value.ndim - len(self.event_shape)).long()
        batch = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        value = value.expand((*batch, -1))
        context = self.context.expand((*batch, -1))
        logits = self.network(
            value.reshape(-1, value.shape[-1]), context.reshape(-1, context.shape[-1])
        )
        chosen = logits.log_softmax(-1).gather(-1, value.reshape(*logits.shape[:-1], 1))
        return chosen.sum((-2, -1)).reshape(batch)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        def choose(logits: Tensor) -> Tensor:
            return torch.distributions.Categorical(logits=logits, validate_args=False).sample()

        return self._unroll(torch.Size(sample_shape), choose)

    @torch.no_grad()
    def _unroll(self, sample_shape: torch.Size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        shape = sample_shape + self.batch_shape
        context = self.context.expand((*shape, -1)).reshape(-1, self.context.shape[-1])
        return (
            self.network.unroll(context, choose).to(context.dtype).reshape(shape + self.event_shape)
        )


def closed_kl(q: Any, p: Any) -> Tensor | None:
    """Returns KL(q || p) in closed form, or None where none is known."""
    try:
        return torch.as_tensor(kl_divergence(q, p))
    except NotImplementedError:
        return None


@register_kl(torch.distributions.MultivariateNormal, Independent)
@register_kl(torch.distributions.LowRankMultivariateNormal, Independent)
def _kl_normal_independent(p: Any, q: Independent) -> Tensor:
    """The divergence of any normal law from independent normal variables, which torch lacks."""
    base = q.base_dist
    if not isinstance(base, torch.distributions.Normal) or q.event_shape != p.event_shape:
        raise NotImplementedError
    size = p.event_shape.numel()
    log_det = 2 * p.entropy() - size * (1 + math.log(2 * math.pi))
    squares = (p.variance + (p.mean - base.loc).square()) / base.variance
    return ((squares + base.variance.log()).sum(-1) - size - log_det) / 2


@register_kl(JointBernoulli, JointBernoulli)
def _kl_joint_bernoulli(p: JointBernoulli, q: JointBernoulli) -> Tensor:
    """The divergence of binary variables; torch's own wants batch shapes that are equal."""
    ours, theirs = p.base_dist.logits, q.base_dist.logits
    ones = ours.sigmoid() * (F.logsigmoid(ours) - F.logsigmoid(theirs))
    zeros = (-ours).sigmoid() * (F.logsigmoid(-ours) - F.logsigmoid(-theirs))
    return (ones + zeros).sum(-1)
