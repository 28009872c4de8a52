"""The contract of all parts."""

from __future__ import annotations

import copy
import json
import pickle

import torch
from torch import Tensor

from pyro_vae.part import Part
from pyro_vae.testing._assertions import require

__all__ = ["check_part"]


def check_part(part: Part) -> None:
    """Checks what all parts share: they can be described, copied, pickled, saved and printed.

    Raises:
        AssertionError: If the part breaks its contract.

    Example:
        >>> from pyro_vae import priors
        >>> check_part(priors.Categorical(2, 3))
    """
    spec = part.spec()
    require(json.loads(json.dumps(spec)) == spec, f"{part}: spec() changes on its way to JSON")
    require(
        spec["class"].split(".")[-1] == type(part).__name__, f"{part}: spec() names another class"
    )
    require(type(part).__name__ in repr(part), f"{part!r}: repr does not name the class")
    state = part.state_dict()
    for how, twin in (
        ("deepcopy", copy.deepcopy(part)),
        ("pickle", pickle.loads(pickle.dumps(part))),
    ):
        require(_same_state(twin.state_dict(), state), f"{part}: {how} changes the state")
        require(twin.spec() == spec, f"{part}: {how} loses the constructor arguments")
        shared = {t.data_ptr() for t in state.values() if t.numel()}
        require(
            not any(t.data_ptr() in shared for t in twin.state_dict().values()),
            f"{part}: {how} shares tensors with the original",
        )
    changed = copy.deepcopy(part)
    with torch.no_grad():
        for tensor in changed.state_dict().values():
            tensor.fill_(1)
    changed.load_state_dict(state)
    require(
        _same_state(changed.state_dict(), state), f"{part}: load_state_dict does not restore it"
    )


def _same_state(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
