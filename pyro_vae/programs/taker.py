"""What a Pyro pair takes: data and what goes with them, checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae._errors import expected, plural
from pyro_vae.data.rows import Given, Numbers, Rows, given_of
from pyro_vae.programs.accept import as_tensor, unlabelled
from pyro_vae.programs.running import Pair
from pyro_vae.programs.sites import COUNTLESS, log_probs

__all__ = ["Taker"]


class Taker(Pair):
    """A pair that checks the data that come, and learns its sites from the first of them.

    It lists the joint states of its discrete sites, too, where they can be.
    """

    @property
    def takes(self) -> frozenset[str]:
        """The names of :class:`pyro_vae.data.Given` that a program takes."""
        return self.model.takes | self.guide.takes

    def accepts(self, rows: Rows, argument: str = "x") -> Rows:
        """Returns data as the programs take them; the first that come are tried on both.

        Args:
            rows: Observations, shape ``(N, *event_shape)``, and what goes with them.
            argument: What to call the observations in an error.

        Raises:
            ValueError: If something is not what it should be, or has no use in this pair, a value
                is not finite or outside its support, or the pair is not one of independent rows.
        """
        x = rows.x
        if not isinstance(x, Tensor) or x.ndim == 0 or len(x) == 0 or x.is_complex() or x.is_meta:
            raise expected(argument, "a tensor of real numbers, one observation at least", x)
        if self._structure is not None and x.shape[1:] != self._event_shape:
            wanted = f"a tensor of shape (N{''.join(f', {n}' for n in self._event_shape)})"
            raise expected(argument, wanted, x)
        given = given_of(rows.given)
        for name, value in given.items():
            if name not in self.takes:
                raise expected(name, "None, as neither program takes it", value)
            for each in value.values() if isinstance(value, Mapping) else (value,):
                if not isinstance(each, Tensor) or each.ndim == 0 or len(each) != len(x):
                    raise expected(name, f"a row for each of {plural(len(x), 'observation')}", each)
        if (mask := given.get("mask")) is not None and mask.shape != x.shape:
            what = f"a mask of the shape of `{argument}`, {tuple(x.shape)}, by `expand` if need be"
            raise expected("mask", what, mask)
        if self._structure is None:
            self._integers = not x.is_floating_point() and len(self.observed) == 1
        moved = tree_map(lambda each: _to(each, self.device, self.dtype), dict(given))
        accepted = Rows(x.to(self.device, self.dtype), cast(Given, moved))
        self._check_values(accepted, argument)
        if accepted.mask is not None:  # neither program sees more of the data than of replicates
            accepted = Rows(self.hidden(accepted.x, accepted.given), accepted.given)
        if self._structure is None:
            self._learn(accepted)
        self._check_support(accepted, argument)
        return accepted

    def uses(self, rows: Rows) -> Rows:
        """Returns what the programs take of the rows of a data set."""
        unused = [name for name in rows.given if name not in self.takes]
        return rows.without(*unused).to(self.device)

    def joined(self, sites: Mapping[str, Numbers]) -> Tensor:
        """Returns the data of several observed sites as one array ``(N, D)``.

        Args:
            sites: An array ``(N, ...)`` for each, by name.

        Raises:
            ValueError: If they are not the sites, or differ in length.
        """
        if sites.keys() != set(self.observed):
            raise expected("sites", f"{', '.join(self.observed)}", sorted(sites))
        tensors = {name: as_tensor(sites[name], name) for name in self.observed}
        shapes = {name: tensor.shape[1:] for name, tensor in tensors.items()}
        if self._shapes and shapes != self._shapes:
            raise expected("sites", f"shapes {self._shapes}", shapes)
        if len({len(tensor) for tensor in tensors.values()}) > 1:
            raise expected("sites", "as many rows of each", [len(t) for t in tensors.values()])
        self._shapes = shapes
        return torch.cat([t.reshape(len(t), -1).to(self.dtype) for t in tensors.values()], 1)

    def conditions(self, given: Mapping[str, Any], size: int) -> Given:
        """Returns what goes with ``size`` observations that are to be simulated, checked."""
        checked = self.like(given)
        for name, value in Rows(torch.empty(0), checked).tensors().items():
            if len(value) != size:
                raise expected(name, f"a row for each of {plural(size, 'observation')}", value)
        return checked

    def like(self, given: Mapping[str, Any]) -> Given:
        """Returns what goes with data that are to be simulated like some observed ones."""
        checked = unlabelled(given)
        for name in checked.keys() - self.takes:
            raise expected(name, "None, as neither program takes it", checked.get(name))
        moved = tree_map(lambda each: _to(each, self.device, self.dtype), dict(checked))
        return cast(Given, moved)

    def hidden(self, x: Tensor, given: Given) -> Tensor:
        """Hides the entries of replicates that are hidden in the data."""
        mask = given.get("mask")
        return x if mask is None or mask.shape != x.shape[-mask.ndim :] else x.where(mask, 0.0)

    def _check_values(self, rows: Rows, argument: str) -> None:
        x = rows.x
        if rows.mask is not None and rows.mask.shape == x.shape:
            x = x.where(rows.mask, 0.0)
        if bad := int((~x.isfinite()).sum()):
            raise expected(argument, "finite numbers", f"{bad} that are not")

    def _check_support(self, rows: Rows, argument: str) -> None:
        if rows.mask is not None or len(self.observed) > 1:
            return  # what a mask hides may be anything
        (local,) = self.structure.observed.values()
        support = local.base_support
        if support.event_dim > 0 or getattr(support, "is_dependent", False):
            return
        try:
            flags = support.check(rows.x)
        except (RuntimeError, NotImplementedError):  # bounds that are of each row
            return
        if not bool(flags.all()):
            bad = rows.x[~flags.expand_as(rows.x)][0].item()
            raise expected(argument, f"values in the support of {local.name!r}, {support}", bad)

    @property
    def num_states(self) -> int:
        """Joint states of the discrete latent sites of an observation; very many if not known."""
        total = 1
        for known in self._states.values():
            if known is None:
                return COUNTLESS
            total = min(total * len(known[0]) ** known[1], COUNTLESS)
        return total

    @property
    def has_continuous(self) -> bool:
        """Whether any latent site of an observation is continuous."""
        return len(self._states) < len(self.structure.latent)

    def states(self) -> dict[str, Tensor]:
        """Returns the K joint states of the discrete latent sites, ``(K, *)`` each, by name."""
        entries = [
            values for known in self._states.values() if known for values in [known[0]] * known[1]
        ]
        index = torch.cartesian_prod(*(torch.arange(len(values)) for values in entries))
        columns = [
            values[i] for values, i in zip(entries, index.reshape(-1, len(entries)).T, strict=True)
        ]
        found, done = {}, 0
        for name, known in self._states.items():
            assert known is not None  # or there would be too many
            found[name] = torch.cat(columns[done : done + known[1]], 1)
            done += known[1]
        return found

    def run_states(self, rows: Rows, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draws the continuous sites at each joint state of the discrete ones.

        Args:
            rows: The observations.
            count: Draws at each state, S.

        Returns:
            log p(x|z), log p(z), and log q of the continuous and of the discrete sites, each of
            shape ``(K, S, B)``.
        """
        states = {name: each.to(rows.x.device) for name, each in self.states().items()}
        shape = torch.Size((self.num_states, count, len(rows)))
        size, latent = shape.numel(), self.structure.latent
        index = torch.arange(size, device=rows.x.device)
        many = rows[index % len(rows)]
        known = {
            name: latent[name].value(each[index // (count * len(rows))])
            for name, each in states.items()
        }
        guided = self._trace(self.guide, many.x, many.given, known)
        drawn = {name: guided.nodes[name]["value"] for name in latent}
        modelled = self._trace(self.model, many.x, many.given, drawn)
        others = [name for name in latent if name not in states]
        terms = (
            log_probs(modelled, self.structure.observed, size),
            log_probs(modelled, latent, size),
            log_probs(guided, others, size),
            log_probs(guided, states, size),
        )
        first, second, third, fourth = (each.reshape(shape) for each in terms)
        return first, second, third, fourth

    def _learn(self, rows: Rows) -> None:
        """Learns the sites from the first data, or leaves everything as it was."""
        raise NotImplementedError


def _to(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)
