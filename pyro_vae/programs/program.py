"""Any Pyro model and guide, fitted and judged as a VAE is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae._errors import check_seed, expected, positive_integer
from pyro_vae._untouched import evaluating, undisturbed
from pyro_vae.data.rows import (
    Conditions,
    ConditionsLike,
    Given,
    GivenLike,
    Numbers,
    Rows,
    RowsLike,
    given_of,
)
from pyro_vae.distributions import same_support
from pyro_vae.programs.accept import as_tensor, unlabelled
from pyro_vae.programs.family import Family
from pyro_vae.programs.owned import networks_of
from pyro_vae.programs.requirements import (
    check_independence,
    check_sizes,
    reads_itself,
    refuse_batch_norm,
)
from pyro_vae.programs.running import tiled
from pyro_vae.programs.sites import (
    log_probs,
)
from pyro_vae.programs.taker import Taker
from pyro_vae.programs.traced import Decoded, Encoded, Latent
from pyro_vae.programs.weigh import WeightedDraws

__all__ = ["Program"]


class Program(Taker):
    """Wraps any Pyro model and guide, so that they are fitted and judged as a VAE is.

    Both are called as ``model(x, **given)`` with what they take of ``cond``, ``mask``,
    ``covariates`` and ``labels`` (:class:`pyro_vae.data.Given`). Observations are one plate, in
    which every observed site is, and one latent site or more: vectors, discrete variables, those of
    plates within it, of time steps under masks. They must be independent of each other given what
    is outside the plate; that, and the sizes of all sites, is tested by running both on the first
    data that come. Nothing has to be simulated by the programs themselves: they are run on other
    observations with their sites drawn anew.

    With several observed sites, both are called with them by name, ``model(x=..., y=...)``, and the
    data are one array, the sites flattened side by side: see :meth:`joined`.

    Latent sites outside the plate are global: all observations share them. In a fit, a batch of B
    among N has B / N of their divergence. Verbs judge the program at draws of them, see
    :meth:`fixed`.

    Parameters belong to the pair, whatever their names are, and are saved with it. They are those
    of the modules that it reaches, and of ``pyro.param``.

    References:
        Pyro: Deep Universal Probabilistic Programming (Bingham et al., 2019),
        https://arxiv.org/abs/1810.09538

    Args:
        model: A Pyro program p(x, z).
        guide: A Pyro program q(z|x), which has every latent site of the model.
        observed: The observed site, or several.
        plate: The plate of the observations.

    Raises:
        ValueError: If one is no program.

    Example:
        >>> import pyro, pyro.distributions as dist, pyro_vae as pv
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z[:, None], 1.0).to_event(1), obs=x)
        >>> def guide(x):
        ...     scale = pyro.param("scale", torch.tensor(0.5), dist.constraints.positive)
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x.mean(-1), scale))
        >>> x = torch.zeros(5, 3)
        >>> pv.evaluate(Program(model, guide), x, num_samples=10).log_marginal.shape
        (5,)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        observed: str | Sequence[str] = "x",
        plate: str = "data",
    ) -> None:
        for name, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise expected(name, "a Pyro program", program)
        names = (observed,) if isinstance(observed, str) else tuple(observed)
        if not names or not all(isinstance(name, str) for name in names):
            raise expected("observed", "the name of a site, or several", observed)
        if not isinstance(plate, str):
            raise expected("plate", "the name of a plate", plate)
        super().__init__(model, guide, names, plate)

    @property
    def x_support(self) -> Constraint:
        """Where each entry of x lives: real numbers, if sites differ."""
        first, *others = (each.base_support for each in self.structure.observed.values())
        alike = all(same_support(first, other) for other in others)
        return first if alike and first.event_dim == 0 else constraints.real

    @property
    def base_measure(self) -> str:
        """What densities of x are taken against."""
        kinds = {
            "counting" if each.base_support.is_discrete else "lebesgue"
            for each in self.structure.observed.values()
        }
        return kinds.pop() if len(kinds) == 1 else "mixed"

    @property
    def is_ignorable(self) -> bool:
        """Whether there is no model of what is missing, which Program does not know of."""
        return True

    def initialize(self, x_train: Numbers, **given: Unpack[GivenLike]) -> None:
        """Tries both programs on ``x_train``, ``(N, *event_shape)``, with what is ``given`` for it.

        Raises:
            ValueError: As :meth:`accepts`.
        """
        rows = self.accepts(Rows(as_tensor(x_train, "x_train"), unlabelled(given)), "x_train")
        for half in (self.model, self.guide):
            half.num_data = len(rows)

    def train(self, mode: bool = True) -> Program:
        """Sets training mode.

        Raises:
            ValueError: If there is batch normalisation, by which rows would depend on each other.
        """
        if mode:
            refuse_batch_norm(self.own.networks)
        super().train(mode)
        return self

    def _learn(self, rows: Rows) -> None:
        """Learns the sites from the first data, or leaves everything as it was."""
        try:
            self._structure = structure = self.look(rows[:_FIRST])
            for half in (self.model, self.guide):
                half.max_plate_nesting = structure.nesting
            self._event_shape = rows.x.shape[1:]
            self._example = rows[:1]
            with undisturbed(self, 0, self.device), torch.no_grad():
                check_sizes(self, rows, structure)
                one = self.fixed(1)[0]
                check_independence(one, rows)
                self._reads_itself = reads_itself(one, rows)
        except BaseException as error:
            self._structure = None
            if isinstance(error, ValueError) and "Trace Shapes:" in str(error):
                raise ValueError(str(error).splitlines()[0]) from error  # which has the shapes
            raise

    def prior_at(self, given: Conditions) -> Latent:
        """Returns p(z), batch shape ``()``, or ``(N,)`` where something is ``given`` for N data."""
        sizes = [len(each) for each in Rows(torch.empty(0), cast(Given, given)).tensors().values()]
        return Latent(self, cast(Given, given), (sizes[0],) if sizes else ())

    def features(self, rows: Rows) -> Tensor:
        """Returns the unconstrained parameters of q(z|x), ``(B, P)``, of accepted rows.

        There are none, P = 0, where sites depend on each other's draws, are discrete or of a kind
        that its parameters do not make: what q(z|x) is made of is then known to the guide alone.
        """
        self.structure  # noqa: B018 - refuses a program without data
        if not self._family:
            return rows.x.new_empty(len(rows), 0)
        zeros = rows.x.new_zeros(len(rows), self.space.event_shape.numel())
        trace = self._trace(self.guide, rows.x, rows.given, self._known(zeros))
        return torch.cat([m.numbers(trace.nodes[m.local.name]["fn"]) for m in self._family], 1)

    def guide_at(self, features: Tensor, rows: Rows) -> Encoded | Family:
        """Returns q(z|x), batch shape ``(B,)``, from the ``features`` of rows, :meth:`features`."""
        if features.shape[-1] > 0:
            return Family(self._family, self.space, features)
        return Encoded(self, rows)

    def infer(self, rows: Rows) -> Encoded:
        """Returns q(z|x), batch shape ``(B,)``, of rows that the program accepted."""
        return Encoded(self, rows)

    def encode(self, x: RowsLike, **given: Unpack[GivenLike]) -> Encoded:
        """Returns q(z|x), ``(B,)``, of x, ``(B, *event_shape)``, and what is ``given`` for each."""
        rows = x if isinstance(x, Rows) else Rows(as_tensor(x), unlabelled(given))
        return self.infer(self.accepts(rows))

    def decode(self, z: Numbers, **given: Unpack[GivenLike]) -> Decoded:
        """Returns p(x|z), ``(*, B)``, of z, ``(*, B, D)``, and what is ``given`` for each of B."""
        return Decoded(self, as_tensor(z, "z"), unlabelled(given))

    def log_likelihood(self, z: Tensor, rows: Rows) -> Tensor:
        """Returns log p(x|z), ``(*, B)``, nats, of B rows, differentiable in z, ``(*, B, D)``."""
        return self.decode(z, **rows.given).log_prob(rows.x)

    def log_joint(self, z: Tensor, rows: Rows) -> Tensor:
        """Returns log p(x, z), ``(*, B)``, nats, of B rows, differentiable in z, ``(*, B, D)``."""
        size = z.shape[:-1].numel()
        x = rows.x.expand(*z.shape[:-1], *self._event_shape).reshape(size, *self._event_shape)
        known = self._known(z.reshape(size, -1))
        with evaluating(self):
            trace = self._trace(self.model, x, tiled(rows.given, size), known)
        names = (*self.structure.latent, *self.structure.observed)
        return log_probs(trace, names, size).reshape(z.shape[:-1])

    @torch.no_grad()
    def draw_weighted(self, rows: Rows, count: int) -> WeightedDraws:
        """Draws z ``count`` times for each of the rows, with what importance weights are made of.

        Raises:
            ValueError: If ``count`` is not a positive integer.
        """
        from pyro_vae.programs.weigh import draw_weighted

        with evaluating(self):
            return draw_weighted(self, rows, positive_integer("count", count))

    @torch.no_grad()
    def simulate(self, size: int | Given, count: int = 1) -> Rows:
        """Draws z from the prior and then x: ``count`` data sets, one after the other.

        Each has ``size`` observations, or as many as ``size`` goes with, of the shape that
        :class:`~pyro_vae.data.Given` has. Global latents are drawn from the guide, once for each.
        """
        if self.has_globals:
            seed = int(torch.randint(2**31, ()))
            each = [one.simulate(size) for one in self.fixed(count, seed)]
            x = torch.cat([rows.x for rows in each])
            return Rows(x, cast(Given, tiled(each[0].given, len(x))))
        given: Given = {} if isinstance(size, int) else size
        prior = self.prior_at(given)
        shape = (count, size) if isinstance(size, int) else (count, *prior.batch_shape)
        with evaluating(self):
            x = self.run_model(prior.sample(shape[: len(shape) - len(prior.batch_shape)]), given)
        return Rows(x.flatten(0, 1), cast(Given, tiled(given, len(x.flatten(0, 1)))))

    @torch.no_grad()
    def replicate(self, rows: Rows, count: int) -> Tensor:
        """Draws z from q(z|x) and then x, of accepted rows: shape ``(count, B, *event_shape)``."""
        with evaluating(self):
            return self.decode(self.infer(rows).sample((count,)), **rows.given).sample()

    def state_to_write(self) -> dict[str, Tensor]:
        """Returns all that a file must have: parameters, buffers, and one observation.

        The observation is simulated; what goes with it, if anything, is that of the first that
        came. Parameters of Pyro are made when programs first run, which they do on it.
        """
        self.structure  # noqa: B018 - refuses a program without data
        assert self._example is not None
        given = self._example.given
        with undisturbed(self, 0, self.device):
            example = Rows(self.simulate(given if given else 1).x, given)
        leaves = {"x": example.x.long() if self._integers else example.x} | example.tensors()
        state = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        return state | {f"{_EXAMPLE}{name}": tensor.clone() for name, tensor in leaves.items()}

    def ready_for(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the parameters of a file's ``state``, after a run on the observation in it."""
        known = {n.removeprefix(_EXAMPLE): t for n, t in state.items() if n.startswith(_EXAMPLE)}
        if self._structure is None and "x" in known:
            x = known.pop("x")
            names = [name for name in ("cond", "mask", "labels") if name in known]
            beside: dict[str, Any] = {name: known.pop(name) for name in names}
            given = given_of({**beside, "covariates": known})
            self.accepts(Rows(x, given))
        return {name: tensor for name, tensor in state.items() if not name.startswith(_EXAMPLE)}

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, **given: Unpack[ConditionsLike]) -> Tensor:
        """Draws z from the prior and then x: shape ``(n, *event_shape)``.

        Args:
            n: How many.
            seed: The same seed draws the same; None draws from torch's generators.
            **given: What goes with each (:class:`~pyro_vae.data.Conditions`), as
                :meth:`conditions` takes it.

        Raises:
            ValueError: If ``n`` is not a positive integer, ``seed`` none from 0 on, or what goes
                with the draws does not suit the program.
        """
        n = positive_integer("n", n)
        checked = self.conditions(given, n)
        with undisturbed(self, None if seed is None else check_seed("seed", seed), self.device):
            return self.simulate(checked or n).x

    @torch.no_grad()
    def reconstruct(self, x: RowsLike, **given: Unpack[GivenLike]) -> Tensor:
        """Returns E[x|z] at z = E[z|x], of the shape of ``x``, with what is ``given`` for each.

        Where p(x|z) has no mean in closed form it is that of 256 draws of x.

        Raises:
            ValueError: If p(x|z) has no mean, as that of a category, or of tails too heavy.
        """
        rows = x if isinstance(x, Rows) else Rows(as_tensor(x), unlabelled(given))
        rows = self.accepts(rows)
        with evaluating(self):
            decoded = self.decode(self.infer(rows).mean, **rows.given)
            try:
                return decoded.mean
            except NotImplementedError:
                pass
            if without := self.without_mean(decoded.z, decoded.given):
                what = f"a distribution of {without} that has a mean; `program.replicate` draws x"
                raise expected("program", what, self)
            return decoded.sample((_FOR_MEANS,)).mean(0)

    def spec(self) -> dict[str, Any]:
        """Returns what describes the pair: no file has its code, and none is run because of one."""
        return {
            "model": self.model.name,
            "guide": self.guide.name,
            "observed": list(self.observed),
            "plate": self.plate,
            "shapes": {name: list(shape) for name, shape in self._shapes.items()},
        }

    @property
    def can_be_copied(self) -> bool:
        """Whether a deep copy has all parameters for itself.

        It has where both programs are modules, or reach none: a function is not copied, nor are the
        networks that it reaches.
        """
        programs = (self.model.program, self.guide.program)
        return all(isinstance(each, nn.Module) or not networks_of(each) for each in programs)

    def take_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Takes over what :meth:`joined` learnt, the ``shapes`` of sites, from :meth:`spec`."""
        self._shapes = {name: torch.Size(shapes[name]) for name in self.observed if name in shapes}

    def __repr__(self) -> str:
        return f"Program({self.model.name}, {self.guide.name})"

    @property
    def has_globals(self) -> bool:
        """Whether there are latent variables that all observations share."""
        return bool(self.structure.globals)

    @property
    def params(self) -> dict[str, Tensor]:
        """The values of its ``pyro.param`` statements, by name; empty before it has run."""
        return self.model.params | self.guide.params

    @property
    def drawn(self) -> dict[str, Tensor]:
        """The draw of the global latents that it is at, by name; empty before :meth:`fixed`."""
        return dict(self._globals)

    def fixed(self, count: int, seed: int = 0) -> Sequence[Program]:
        """Returns one program for each draw of the global latents; itself where there are none.

        Args:
            count: Draws of the guide, S.
            seed: Of these.

        Returns:
            Programs of the same parameters, each at a draw. What verbs find of one is of that draw.

        Raises:
            ValueError: If ``seed`` is no integer from 0 on.
        """
        if not (names := self.structure.globals):
            return (self,)
        assert self._example is not None
        x, given, found = self._example.x, self._example.given, []
        with undisturbed(self, check_seed("seed", seed), self.device), torch.no_grad():
            for _ in range(positive_integer("count", count)):
                trace = self._trace(self.guide, x, given, {})
                one = copy.copy(self)  # with the same parameters
                one._globals = {name: trace.nodes[name]["value"].clone() for name in names}
                one._structure = replace(self.structure, globals=())
                found.append(one)
        return tuple(found)


_EXAMPLE = "example."  # of what is no parameter, in a file
_FOR_MEANS = 256  # draws
_FIRST = 16  # rows that the sites are learnt from
