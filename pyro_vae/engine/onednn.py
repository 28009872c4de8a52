"""Matrix products by oneDNN, where MKL is slow."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["mkl_is_slow", "use_onednn"]

# MKL takes its slow path on processors that are not Intel's: 85 GFLOP/s where oneDNN, which comes
# with torch too, has 210 (AMD EPYC, AVX-512, one thread). Small products are quicker in MKL.
_WORTH = 2**22  # multiplications


@functools.cache
def mkl_is_slow() -> bool:
    """Tells whether large products are better done by oneDNN."""
    try:
        vendor = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        vendor = False
    return vendor and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


@torch.library.custom_op("pyro_vae::onednn_mm", mutates_args=(), device_types="cpu")
def _onednn_mm(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


@_onednn_mm.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


@torch.library.register_vmap(_onednn_mm)
def _(info: Any, dims: tuple[int | None, ...], a: Tensor, b: Tensor) -> tuple[Tensor, int]:
    # One large product after another: oneDNN has no faster way for several of them.
    each = [
        [x if dim is None else x.select(dim, i) for x, dim in zip((a, b), dims, strict=True)]
        for i in range(info.batch_size)
    ]
    return torch.stack([_onednn_mm(*pair) for pair in each]), 0


def use_onednn(graph: torch.fx.Graph) -> None:
    """Has the large matrix products of a graph done by oneDNN, in the same precision."""
    aten, onednn = torch.ops.aten, torch.ops.pyro_vae.onednn_mm.default
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, a, b = node.args
        left, right = a.meta["val"], b.meta["val"]
        size = left.shape[0] * left.shape[1] * right.shape[1]
        if left.dtype != torch.float32 or left.device.type != "cpu" or size < _WORTH:
            continue
        with graph.inserting_before(node):
            product = graph.call_function(onednn, (a, b))
            if bias:
                product = graph.call_function(aten.add.Tensor, (product, bias[0]))
        node.replace_all_uses_with(product)
        graph.erase_node(node)
