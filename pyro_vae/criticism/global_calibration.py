"""Is the posterior of what all observations share calibrated? Simulated, refitted, ranked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from pyro_vae._errors import check_seed, expected, positive_integer
from pyro_vae._jobs import each
from pyro_vae._untouched import own_store, seeded, undisturbed
from pyro_vae.criticism.calibration import Calibration, of_ranks
from pyro_vae.data.rows import Given, GivenLike, Rows
from pyro_vae.programs import Amortized, Program, Refit

__all__ = ["calibrate_globals"]

FITS = "a function (rows, seed) -> fitted Program"


@torch.no_grad()
def calibrate_globals(
    program: Amortized,
    refit: Refit,
    *,
    num_data: int | None = None,
    num_simulations: int = 100,
    num_draws: int = 99,
    level: float = 0.05,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[GivenLike],
) -> Calibration:
    r"""Asks whether fits find the posterior of the latents that all observations share.

    .. math:: w \sim p(w), \quad x_i \sim p(x \mid w), \quad w_1, \dots, w_L \sim q(w \mid x)

    Each data set is simulated at a draw of these latents from their prior, and a program is fitted
    to it anew: the draw is ranked among those of the guide, entry by entry, and the ranks are
    uniform where the guide is the posterior. That is of model, guide and fit together. Entries that
    may be exchanged for each other, as the weights of two hidden units may, have a posterior of
    many equivalent modes, and a guide of one of them fails: ask this of what the data identify.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration
        (Talts et al., 2018), https://arxiv.org/abs/1804.06788

    Fits are shared by the processes that joblib is configured to have
    (``joblib.parallel_config``), with the same result.

    Args:
        program: A :class:`pyro_vae.Program` with global latents; its other parameters are those of
            the simulations, and stay as they are.
        refit: Fits a program like it, with parameters of its own, to rows, by a seed.
        num_data: Observations in each data set; as many as ``given`` has, which it has to agree
            with.
        num_simulations: Data sets, N, each of which is fitted.
        num_draws: Draws of each fit, L.
        level: Probability of any false alarm, at most.
        seed: Of simulations, fits and draws.
        progress: Called with the fraction that is done.
        **given: What goes with the observations of each data set (:class:`~pyro_vae.data.Given`).

    Returns:
        Ranks, their p-values, coverage, and advice.

    Raises:
        ValueError: If the program has no global latents, the size of a data set is not known, or a
            fit is not what it should be.
    """
    seed = check_seed("seed", seed)
    if not isinstance(program, Program) or not program.has_globals:
        raise expected("program", "a Program with latents that all observations share", program)
    if not callable(refit):
        raise expected("refit", FITS, refit)
    num_simulations = positive_integer("num_simulations", num_simulations)
    num_draws = positive_integer("num_draws", num_draws)
    if not isinstance(level, float) or not 0 < level < 1:
        raise expected("level", "a number between 0 and 1", level)
    beside = program.like(given)
    sizes = {len(each) for each in Rows(torch.empty(0), beside).tensors().values()}
    if num_data is None and not sizes:
        raise expected("num_data", "how many observations each simulated data set has", None)
    size = sizes.pop() if num_data is None else positive_integer("num_data", num_data)
    if sizes - {size}:
        raise expected("num_data", f"{max(sizes)}, as what goes with them has", num_data)
    with undisturbed(program, seed, program.device):
        tasks, truths, ties = list[tuple[Tensor, int]](), list[Tensor](), list[Tensor]()
        for _ in range(num_simulations):
            truth, x = program.run_whole(size, beside)
            truths.append(_flat(truth))
            tasks.append((x, int(torch.randint(2**31, ()))))
            ties.append(torch.rand(truths[-1].shape, dtype=torch.float64))
        ranks: dict[int, Tensor] = {}
        with closing(each(_Fits(program, refit, beside, num_draws), tasks, "refit")) as found:
            for i, drawn in found:
                true = truths[i]
                if drawn.shape[1:] != true.shape:
                    raise expected(
                        "refit", f"global latents of {len(true)} entries", drawn.shape[1]
                    )
                equal = (drawn == true).sum(0)
                ranks[i] = (drawn < true).sum(0) + (ties[i] * (equal + 1)).floor().long()
                if progress is not None:
                    progress(len(ranks) / num_simulations)
        return of_ranks(
            torch.stack([ranks[i] for i in range(num_simulations)]),
            num_draws,
            names=tuple(f"{name}[{i}]" for name, own in truth.items() for i in range(own.numel())),
            draws="the fits",
            level=level,
            discrete=False,
            richer="fit longer, or take a richer guide of what is shared",
        )


@dataclass(frozen=True)
class _Fits:
    """Fits a program to a simulated data set, and draws its global latents."""

    program: Program
    refit: Refit
    beside: Given
    num_draws: int

    @own_store()
    def __call__(self, task: tuple[Tensor, int]) -> Tensor:
        """Returns draws of all entries, shape ``(L, entries)``, given observations and a seed."""
        x, seed = task
        with seeded(seed), torch.enable_grad():
            fitted = self.refit(Rows(x, self.beside), seed)
        with torch.no_grad():
            draws = _draws(self.program, fitted, self.num_draws, seed)
            return torch.stack([_flat(each) for each in draws])


def _draws(
    program: Program, fitted: object, num_draws: int, seed: int
) -> list[Mapping[str, Tensor]]:
    if not isinstance(fitted, Program):
        raise expected("refit", FITS, fitted)
    if fitted is program or any(a is b for a in fitted.parameters() for b in program.parameters()):
        what = "a program with parameters of its own, as this one's are those of the simulations"
        raise expected("refit", what, "one that shares some")
    if fitted.structure.globals != program.structure.globals:
        raise expected("refit", f"latents {program.structure.globals}", fitted.structure.globals)
    return [one.at_globals for one in fitted.fixed(num_draws, seed)]


def _flat(values: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([each.detach().flatten().cpu().double() for each in values.values()])
