"""A fit that several processes share: what they have to agree on, and how they begin alike."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both

from pyro_vae._errors import expected
from pyro_vae.data import Stream
from pyro_vae.engine.distributed import Sharing
from pyro_vae.engine.generators import random_state, set_random_state
from pyro_vae.engine.pace import behind
from pyro_vae.engine.processes import Processes, local_rank
from pyro_vae.objectives import Objective
from pyro_vae.programs import Amortized
from pyro_vae.training.averaging import copied
from pyro_vae.training.differences import differences
from pyro_vae.training.recipe import Recipe
from pyro_vae.training.splits import Splits

__all__ = [
    "begin_alike",
    "check_alike",
    "check_alone",
    "check_weights",
    "device_of",
    "draw_alike",
    "name_the_slow",
    "sharing_of",
]

log = logging.getLogger("pyro_vae")
_CPU = torch.device("cpu")


def sharing_of(
    vae: Amortized,
    objective: PyroELBO,
    recipe: Recipe,
    processes: Processes,
    start: Mapping[str, Any],
) -> Sharing | None:
    """Returns how steps are shared; None where one process takes them as a whole.

    Args:
        vae: The model.
        objective: What is minimised.
        recipe: How.
        processes: Who takes the steps.
        start: The state of the generators that the run began with.

    Raises:
        ValueError: If batches cannot be cut so, or the objective is none of shards.
    """
    shards, count = recipe.shards, processes.count
    if shards is None and count == 1:
        return None
    among = f"{count} processes"
    if shards is None and recipe.batch_size % count:
        raise expected("batch_size", f"a multiple of the {among}", recipe.batch_size)
    if shards is not None and shards % count:
        raise expected("shards", f"a multiple of the {among}", shards)
    if isinstance(objective, Objective) and (why := objective.needs_batch):
        argument = "objective" if shards is None else "shards"
        what = f"none with {type(objective).__name__}, of which {why} is of a whole batch"
        got: object = shards
        if shards is None:
            what, got = f"one that adds up over {among}", f"{why} of {type(objective).__name__}"
        raise expected(argument, what, got)
    rows = recipe.rows_a_step // (count if shards is None else shards)
    # Not drawn: how much has been since the start is another for a run that goes on.
    began = start["torch"].numpy().tobytes()
    seed = int.from_bytes(hashlib.blake2b(began, digest_size=8).digest(), "little")
    buffers = [buffer for module in vae.modules() for buffer in module.buffers(recurse=False)]
    moved = list({id(each): each for each in buffers if not each.is_complex()}.values())
    return Sharing(processes, shards, rows, seed, moved)


def device_of(where: torch.device, processes: Processes) -> torch.device:
    """Returns the device of this process: each has a CUDA device of its own."""
    if processes.count == 1 or where.type != "cuda" or where.index is not None:
        return where
    return torch.device("cuda", local_rank() % torch.cuda.device_count())


def draw_alike(processes: Processes) -> None:
    """Gives all processes the generators of the first one."""
    if processes.count > 1:
        set_random_state(processes.first_of(random_state(_CPU)), _CPU)


def check_alike(settings: Mapping[str, Any], processes: Processes) -> None:
    """Checks that all processes fit the same model to the same data in the same way.

    Raises:
        ValueError: If one does not; each has all data, and takes its share of each batch.
    """
    if processes.count == 1:
        return
    every = processes.gathered(dict(settings) | {"OMP_NUM_THREADS": torch.get_num_threads()})
    for rank, other in enumerate(every):
        if (changed := differences(every[0], other)) != "":
            what = "the same data and settings in all processes, which share each batch"
            raise ValueError(f"`data`: expected {what}; in process {rank}, {changed}")


def check_alone(splits: Splits, recipe: Recipe, processes: Processes) -> None:
    """Refuses to share steps of rows that are not in memory.

    Raises:
        ValueError: If that was asked for.
    """
    if recipe.shards is None and processes.count == 1:
        return
    for argument, rows in (("data", splits.train), ("validation", splits.held_out)):
        if isinstance(rows, Stream):
            by = "`shards`" if processes.count == 1 else f"{processes.count} processes"
            what = f"rows that are in memory (`max_memory`), as {by} cut batches of those alone"
            raise expected(argument, what, rows)


def begin_alike(vae: Amortized, processes: Processes) -> None:
    """Gives all processes the weights of the first one."""
    if processes.count > 1:
        vae.load_state_dict(processes.first_of(copied(vae)))


def check_weights(vae: Amortized, processes: Processes) -> None:
    """Checks that all processes have the same weights, as they take the same steps.

    Raises:
        RuntimeError: If one has others, which is never to pass unnoticed.
    """
    if processes.count == 1:
        return
    with torch.no_grad():
        sums = {name: repr(p.double().sum().item()) for name, p in vae.named_parameters()}
    for rank, other in enumerate(processes.gathered(sums)):
        if (changed := differences(sums, other)) != "":
            raise RuntimeError(
                f"process {rank} has other weights than process {processes.rank}: the sum of "
                f"{changed}; processors of one kind and one version of torch have the same"
            )


def name_the_slow(sharing: Sharing | None, device: torch.device, epoch: int) -> None:
    """Logs, once a process, which one all others have waited for in an epoch, if there is one."""
    if sharing is None or sharing.processes.count == 1 or device.type != "cpu":
        return
    found = behind(sharing.processes.gathered(sharing.watch.read()))
    if found is not None and found[0] not in sharing.named:
        sharing.named.add(found[0])
        log.warning("epoch %d: process %d falls behind: %s", epoch, *found)
