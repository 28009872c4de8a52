"""The contract of networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.networks import Network
from pyro_vae.testing._assertions import close, require
from pyro_vae.testing._shared import check_gradients
from pyro_vae.testing.parts import check_part

__all__ = ["check_network"]


def check_network(network: Network, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
    """Checks that a network builds, starts at a given output, and uses all its parameters.

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
    inputs, differentiable = _some(network, in_shape)
    outputs = network(inputs)
    require(
        outputs.shape == (5, *out_shape) and outputs.dtype == torch.float64,
        f"{network}: outputs of shape {tuple(outputs.shape)} and dtype {outputs.dtype}, "
        f"expected {(5, *out_shape)} and torch.float64",
    )
    check_gradients(network, differentiable, lambda: network(inputs))
    # While it is trained, batch normalisation is by the rest of the batch.
    network.eval()
    alone = torch.cat([network(each) for each in inputs.split(1)])
    require(
        torch.allclose(network(inputs), alone, atol=1e-10),
        f"{network}: the output for an observation depends on the rest of its batch",
    )
    network.train()
    start = torch.randn(*out_shape, dtype=torch.float64)
    network.start_at(start)
    require(
        close(network(inputs).mean(0), start, 0.5),
        f"{network}: outputs are not near `start_at`",
    )
    check_gradients(network, differentiable, lambda: network(inputs))
    network.build(in_shape, out_shape)
    require(
        network.to(torch.float64)(inputs).shape == (5, *out_shape),
        f"{network}: cannot be built a second time",
    )


def _some(network: Network, in_shape: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Returns five inputs, and those of them that pass gradients: levels do not."""
    if network.levels is not None:
        return torch.randint(network.levels, (5, *in_shape)).double(), []
    inputs = torch.randn(5, *in_shape, dtype=torch.float64, requires_grad=True)
    return inputs, [inputs]
