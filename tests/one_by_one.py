"""Densities of sequences by another hand: NumPy, one entry after the other, from the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from pyro_vae.likelihoods.causal import CausalGRU, CausalNetwork, CausalTransformer

__all__ = ["one_by_one"]

Weights = dict[str, np.ndarray]
Step = Callable[[int, np.ndarray], np.ndarray]


def one_by_one(network: Any, context: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Returns the product of conditionals, shape ``(N,)``.

    Args:
        network: Of a likelihood.
        context: Shape ``(N, hidden)``.
        x: Levels, shape ``(N, L)``.
    """
    steps = {
        CausalNetwork: _convolutions,
        CausalGRU: _recurrent,
        CausalTransformer: _transformer,
    }
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    step, total = steps[type(network)](weights, context), np.zeros(len(x))
    for t in range(x.shape[1]):
        seen = weights["embedding.weight"][x[:, t - 1].astype(int)]
        h = step(t, seen if t else np.tile(weights["start"], (len(x), 1)))
        logits = h @ weights["last.weight"].T + weights["bias"][t]
        log_pi = scipy.special.log_softmax(logits, axis=1)
        total += log_pi[np.arange(len(x)), x[:, t].astype(int)]
    return total


def _linear(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def _convolutions(weights: Weights, context: np.ndarray) -> Step:
    layers = sum(name.startswith("layers.") and name.endswith("bias") for name in weights)
    history: list[list[np.ndarray]] = [[] for _ in range(layers)]

    def step(t: int, h: np.ndarray) -> np.ndarray:
        for i in range(layers):
            history[i].append(h)
            past = history[i][t - 2**i] if t >= 2**i else np.zeros_like(h)
            inner = _linear(weights, f"layers.{i}", np.concatenate([h, past, context], 1))
            h = h + inner * scipy.special.expit(inner)
        return h

    return step


def _recurrent(weights: Weights, context: np.ndarray) -> Step:
    state = [np.tanh(_linear(weights, "first", context))]

    def step(t: int, h: np.ndarray) -> np.ndarray:
        inputs = np.concatenate([h, context], 1)
        r, z, n = np.split(_linear(weights, "gru.of_input", inputs), 3, 1)
        r_of, z_of, n_of = np.split(_linear(weights, "gru.of_state", state[-1]), 3, 1)
        reset, kept = scipy.special.expit(r + r_of), scipy.special.expit(z + z_of)
        new = np.tanh(n + reset * n_of)
        state.append(kept * state[-1] + (1 - kept) * new)
        return state[-1]

    return step


def _normal(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _transformer(weights: Weights, context: np.ndarray) -> Step:
    """Of two blocks, of four heads."""
    before: list[list[np.ndarray]] = [[], []]  # normalised inputs of each block

    def attended(block: str, seen: np.ndarray) -> np.ndarray:
        """What the last of ``(N, T, hidden)`` takes from all of them."""
        query = np.split(_linear(weights, f"{block}.query", seen[:, -1]), 4, -1)
        key = np.split(_linear(weights, f"{block}.key", seen), 4, -1)
        value = np.split(_linear(weights, f"{block}.value", seen), 4, -1)
        heads = []
        for q, k, v in zip(query, key, value, strict=True):
            scores = (k @ q[..., None])[..., 0] / np.sqrt(q.shape[-1])
            heads.append((scipy.special.softmax(scores, axis=1)[..., None] * v).sum(1))
        return _linear(weights, f"{block}.out", np.concatenate(heads, -1))

    def step(t: int, h: np.ndarray) -> np.ndarray:
        h = h + weights["place"][t] + _linear(weights, "of_context", context)
        for i, inputs in enumerate(before):
            block = f"blocks.{i}"
            inputs.append(_normal(weights, f"{block}.norms.0", h))
            h = h + attended(block, np.stack(inputs, 1))
            wide = _linear(weights, f"{block}.widened", _normal(weights, f"{block}.norms.1", h))
            gelu = wide * 0.5 * (1 + scipy.special.erf(wide / np.sqrt(2)))
            h = h + _linear(weights, f"{block}.narrowed", gelu)
        return _normal(weights, "norm", h)

    return step
