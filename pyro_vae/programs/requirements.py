"""What a Pyro pair must be to be judged row by row, tested by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.rows import Rows
from pyro_vae.programs.sites import Local, frame_of, local_of, samples

if TYPE_CHECKING:
    from pyro_vae.programs.program import Program

__all__ = [
    "Structure",
    "Whole",
    "check_independence",
    "check_sizes",
    "reads_itself",
    "refuse_batch_norm",
    "structure_of",
]

_LOOKED_AT = 8  # rows that a pair is tried with
_ALONE = 4  # of them by themselves, which what depends on data differs for
_TOLERANCE = {torch.float64: 1e-6}
_ROUNDED = 1e-5  # of densities in less than double precision, whose sums depend on the batch


@dataclass(frozen=True)
class Structure:
    """What sites a pair has.

    Attributes:
        latent: Those in the plate of the observations, in the order of the model.
        observed: Those that are observed, in the order in which they were named.
        globals: Names of latent sites outside the plate.
        nesting: Dimensions that plates take.
    """

    latent: Mapping[str, Local]
    observed: Mapping[str, Local]
    globals: tuple[str, ...]
    nesting: int


def structure_of(
    model: poutine.Trace, guide: poutine.Trace, observed: Sequence[str], plate: str, size: int
) -> Structure:
    """Returns the sites of a run of both programs on ``size`` rows.

    Raises:
        ValueError: If the pair is not what can be judged row by row; it names the site.
    """
    for role, trace in (("model", model), ("guide", guide)):
        _check_plates(role, trace, plate, size)
    latent, seen, outside = {}, {}, []
    for site in samples(model):
        name = site["name"]
        if isinstance(site["fn"], dist.Unit):
            raise expected("model", "sites that can be simulated", f"a factor, {name!r}")
        if site["is_observed"]:
            if name not in observed:
                what = f"`observed` to name every observed site, here {', '.join(observed)}"
                raise expected("model", what, f"{name!r}, too")
            if frame_of(site) is None:
                raise expected("model", f"{name!r} in the plate {plate!r}", "it outside")
            seen[name] = local_of(site)
        elif frame_of(site) is None:
            outside.append(name)
        else:
            latent[name] = local_of(site)
    for name in observed:
        if name not in seen:
            raise unknown_name("observed", name, seen or latent)
    if not latent:
        raise expected("model", f"a latent site in the plate {plate!r}", sorted(outside) or None)
    for name in (*latent, *outside):
        site = guide.nodes.get(name)
        if site is None:
            raise expected("guide", "every latent site of the model", f"none of {name!r}")
        if name in latent and frame_of(site) is None:
            raise expected("guide", f"{name!r} in the plate {plate!r}", "it outside")
    for site in samples(guide):
        name = site["name"]
        if name not in latent and name not in outside and frame_of(site) is not None:
            raise expected("guide", "sites of the model in its plate", f"{name!r}, too")
    dims = [
        -f.dim for t in (model, guide) for s in samples(t) for f in s["cond_indep_stack"] if f.dim
    ]
    ordered = {name: seen[name] for name in observed}
    return Structure(latent, ordered, tuple(outside), max(dims, default=1))


class Whole(Messenger):
    """Refuses plates of which a program runs but a part.

    Args:
        role: Of the program: ``model`` or ``guide``.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.full_size is not None and frame.full_size != frame.size:
                what = f"the plate of {msg['name']!r} without `subsample`"
                raise expected(self._role, what, f"{frame.size} of {frame.full_size}")


def _check_plates(role: str, trace: poutine.Trace, plate: str, size: int) -> None:
    for site in samples(trace):
        frame = frame_of(site)
        if frame is not None and frame.size != size:
            what = f"as many in the plate {plate!r} as there are rows, {size}, at {site['name']!r}"
            raise expected(role, what, frame.size)
        if frame is not None:
            shape = site["fn"].batch_shape
            if len(shape) < -frame.dim or shape[frame.dim] != size:
                what = f"{size} in the batch of {site['name']!r} along its plate"
                raise expected(role, what, tuple(shape))


def refuse_batch_norm(modules: nn.ModuleDict) -> None:
    """Refuses batch normalisation that is to be fitted: rows would depend on each other.

    Raises:
        ValueError: If there is some; it names the module.
    """
    for role, module in modules.items():
        for name, each in module.named_modules():
            if isinstance(each, nn.modules.batchnorm._BatchNorm):
                what = "no batch normalisation in training mode, by which rows depend on each other"
                raise expected(role, what, name or type(each).__name__)


def check_sizes(program: Program, rows: Rows, structure: Structure) -> None:
    """Runs a pair on twice as many rows, and on others: sites and shapes must be the same.

    Raises:
        ValueError: If they are not; it names the site.
    """
    few = rows[torch.arange(min(len(rows), _LOOKED_AT))]
    twice = few[torch.arange(2 * len(few)) % len(few)]
    for tried in (few, twice, *few[:_ALONE].batches(1)):
        found = program.look(tried)
        both = ((structure.latent, found.latent), (structure.observed, found.observed))
        for ours, theirs in both:
            odd = sorted(ours.keys() ^ theirs.keys())
            if odd:
                what = "the same sites whatever the data are"
                raise expected("model", what, f"{odd[0]!r} for some of them only")
            for name, local in ours.items():
                if local.shape != theirs[name].shape:
                    what = f"{name!r} of one shape an observation"
                    got = f"{tuple(local.shape)} and {tuple(theirs[name].shape)}"
                    raise expected("model", what, got)


def check_independence(program: Program, rows: Rows) -> None:
    """Reorders rows and changes others: the densities of a row must stay as they are.

    Raises:
        ValueError: If they do not.
    """
    index = torch.arange(2 * _LOOKED_AT) % min(len(rows), _LOOKED_AT)
    some, half = rows[index], _LOOKED_AT
    guide = program.infer(some)
    z = guide.sample()
    others = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    # The first half stays, the others become other rows, and other draws.
    changed = torch.cat([torch.arange(half), others[half:].roll(1)])
    for role in ("model", "guide"):
        before = _densities(program, role, some, z)
        reordered = _densities(program, role, some[others], z[others])
        _compare(role, before[others], reordered, "in another order")
        after = _densities(program, role, some[changed], z[changed])
        _compare(role, before[:half], after[:half], "beside other rows")
        alone = _densities(program, role, some[:1], z[:1])
        _compare(role, before[:1], alone, "alone")


def reads_itself(program: Program, rows: Rows) -> str:
    """Returns the name of an observed site whose distribution depends on the x that it is given.

    So does that of each step of a sequence that is predicted from the steps before. Such a model
    has a density, and is not simulated by one run.

    Raises:
        ValueError: If that of a latent site does, which is then no p(z).
    """
    some = rows[torch.arange(min(len(rows), _LOOKED_AT))]
    z = program.infer(some).sample()
    other = Rows(some.x.roll(1, 0), some.given)
    first, second = (program.run_at(z, each) for each in (some, other))
    for name in (*program.structure.latent, *program.structure.observed):
        value = first.nodes[name]["value"]
        before, after = (trace.nodes[name]["fn"].log_prob(value) for trace in (first, second))
        if torch.allclose(before, after, rtol=_ROUNDED, atol=_ROUNDED, equal_nan=True):
            continue
        if name in program.structure.observed:
            return name
        raise expected("model", f"a distribution of {name!r} that does not read x", "one that does")
    return ""


def _densities(program: Program, role: str, rows: Rows, z: Tensor) -> Tensor:
    if role == "model":
        return program.log_joint(z, rows)
    found: Tensor = program.run_guide((), rows, z)[1]
    return found


def _compare(role: str, before: Tensor, after: Tensor, how: str) -> None:
    allowed = _TOLERANCE.get(before.dtype, _ROUNDED)
    off = (before - after).abs() / before.abs().clamp_min(1)
    same = (off <= allowed) | (before == after) | (before.isnan() & after.isnan())
    if not bool(same.all()):
        row: Any = int((~same).nonzero()[0])
        what = f"rows that are independent: the density of row {row} to be the same {how}"
        raise expected(role, what, f"{before[row].item():.6g} and {after[row].item():.6g}")
