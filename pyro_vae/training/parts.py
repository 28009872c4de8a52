"""What a fit starts from, and which parts of it move: warm starts, frozen parts, rates by part."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import checkpoint
from pyro_vae._errors import as_path, expected, unknown_name
from pyro_vae.likelihoods.in_units import work_as_before
from pyro_vae.programs import VAE, Amortized, Program

__all__ = [
    "adamw",
    "check_parts",
    "check_precision",
    "fingerprint",
    "of_one_fit",
    "only",
    "rest",
    "start_from",
    "weights_of",
]

_RATE = 1e-3  # of parts that have none of their own
# Of a VAE and of a program of functions, whose parts are known without.
_HALVES = ("model.", "guide.", "own.networks.", "own.own.")


def check_parts(argument: str, vae: Amortized, parts: Iterable[str]) -> None:
    """Checks that the model has the parts that an argument names.

    Raises:
        ValueError: If one has no parameters; with the nearest that has.
    """
    names = [_short(name) for name, _ in vae.named_parameters()]
    known = dict.fromkeys(name.partition(".")[0] for name in names)
    for part in parts:
        if not any(_is_of(name, part) for name in names):
            raise unknown_name(argument, part, known)


def check_precision(vae: Amortized) -> None:
    """Refuses parameters that steps of Adam are too small for."""
    for name, parameter in vae.named_parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            what = "a model of float32 or float64 (`vae.float()`)"
            raise expected("vae", what, f"{str(parameter.dtype).removeprefix('torch.')} in {name}")


def of_one_fit(objective: Any, vae: VAE) -> Any:
    """Returns a copy of an objective, which counts its steps: a warm-up of each fit begins anew.

    What it has of the model, it has of that very model.
    """
    of_model = [*vae.modules(), *vae.parameters(), *vae.buffers()]
    return copy.deepcopy(objective, {id(each): each for each in of_model})


@contextmanager
def only(vae: Amortized, parts: Sequence[str] | None) -> Iterator[None]:
    """Inside it the parameters of other parts are not trained."""
    if parts is None:
        yield
        return
    frozen = [
        parameter
        for name, parameter in vae.named_parameters()
        if parameter.requires_grad and not any(_is_of(_short(name), part) for part in parts)
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def rest(vae: Amortized, parts: Sequence[str] | None) -> None:
    """Puts modules all of whose parameters are frozen into evaluation mode.

    Dropout is off in these, and statistics of batches stay: what is frozen is what it was.
    """
    if parts is None:
        return
    for module in vae.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def adamw(
    params: Iterable[Tensor], vae: Amortized, lr: float | Mapping[str, float], decay: float
) -> torch.optim.Optimizer:
    """Returns AdamW, with a group for each rate, and for matrices and others.

    Args:
        params: Of the model.
        vae: The model.
        lr: Learning rate, or that of each part.
        decay: Weight decay of matrices.
    """
    names = {id(parameter): _short(name) for name, parameter in vae.named_parameters()}
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for param in params:
        rate = lr if isinstance(lr, int | float) else _rate_of(names.get(id(param), ""), lr)
        groups.setdefault((rate, param.ndim < 2), []).append(param)
    made = [
        {"params": group, "lr": rate, "weight_decay": 0.0 if is_small else decay}
        for (rate, is_small), group in sorted(groups.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(made, lr=lr if isinstance(lr, int | float) else _RATE)


def _rate_of(name: str, rates: Mapping[str, float]) -> float:
    """Returns the rate of the longest part that a parameter is of."""
    parts = [part for part in rates if _is_of(name, part)]
    return float(rates[max(parts, key=len)]) if parts else _RATE


def _is_of(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{_short(part)}.")


def _short(name: str) -> str:
    for half in _HALVES:
        name = name.removeprefix(half)
    return name


def weights_of(init: Any) -> dict[str, Tensor]:
    """Returns the weights that a fit is to start from, by name.

    Args:
        init: A run folder, a run, a model, or a state.

    Raises:
        ValueError: If it is none of these, or the folder is damaged or holds no finished run.
    """
    init = getattr(init, "vae", init)  # of a run
    if isinstance(init, str | os.PathLike):
        folder = as_path("init", init)
        if not (folder / "model.json").exists():
            raise expected("init", "the folder of a finished run", str(folder))
        digest = checkpoint.read_json(folder / "model.json").get("sha256")
        path = folder / "model.safetensors"
        return checkpoint.tensors_of(path, checkpoint.read_bytes(path, digest))[0]
    if isinstance(init, Program):
        return {name: tensor.detach().clone() for name, tensor in init.state_to_write().items()}
    state = init.state_dict() if isinstance(init, nn.Module) else init
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise expected("init", "a run folder, a run, a model, or tensors by name", init)
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Returns what a state is known again by, whatever the order of its names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def start_from(vae: Amortized, weights: Mapping[str, Tensor], *, whole: bool) -> None:
    """Puts weights into a model that has been started at the data.

    Args:
        vae: The model.
        weights: By name.
        whole: Whether they are to be all; or those of some parts, with what the others have.

    Raises:
        ValueError: If the model has no such weights, has them in another shape, or has others.
    """
    if isinstance(vae, Program):
        weights = vae.ready_for(weights)
    if isinstance(vae, VAE):
        work_as_before(vae, weights)
    own = vae.state_dict()
    for name, tensor in weights.items():
        if name not in own:
            near = unknown_name("init", name, own)
            hint = str(near).rpartition(", got ")[2]
            raise ValueError(f"`init`: expected weights of this model, got {hint}")
        if own[name].shape != tensor.shape:
            what = f"{name} of shape {tuple(own[name].shape)}, as this model has it"
            raise expected("init", what, tuple(tensor.shape))
    missing = [name for name in own if name not in weights]
    if whole and missing:
        what = "all weights of this model, or a mapping with those of some parts"
        raise expected("init", what, f"none of {missing[0]}")
    vae.load_state_dict({**own, **weights})
