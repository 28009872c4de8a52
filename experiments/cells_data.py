"""Simulated single-cell counts, by a mechanism that neither of two negative binomial models has.

Cell types are the leaves of a tree, whose every edge changes the expression of some genes; cells
of a type differ by a phase of the cell cycle and by how far they have come along a common
activation. A gene is transcribed in bursts: the share of time that it is on is a beta variable of
each cell and gene (the stationary two-state model), and molecules are counted by a Poisson variable
(beta-Poisson, Vu et al., 2016, https://doi.org/10.1093/bioinformatics/btw202). The two batches
differ in a factor of each gene, in depth and in which types they hold. Expression is absolute:
types differ in how much RNA they have, so that shares of a cell's total are nothing that the
simulation knows of. No neural network, no normal latent, no negative binomial and no additional
zeros are in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CELLS, GENES, BATCHES = 5000, 1000, 2
BRANCHES = (3, 2, 2)  # 3 lineages, 6 classes, 12 types
CHANGED, FOLD = (0.2, 0.1, 0.06), (0.9, 0.8, 0.7)  # of genes at an edge, by how much in logarithms
DEPTH, DEPTH_SPREAD, DEPTH_OF_BATCH = 1500.0, 0.5, (1.0, 0.6)  # counts a cell
BATCH_SPREAD = 0.35  # of a gene's logarithm
CYCLE, ACTIVATION = 60, 80  # genes that take part
SPLIT = {"train": 3500, "validation": 500, "test": 1000}


@dataclass(frozen=True)
class Cells:
    """Simulated cells.

    Attributes:
        counts: Shape ``(N, genes)``.
        batch: Of each cell, 0 or 1.
        types: Of each cell, the index of a leaf of the tree.
        rows: For each split which cells are in it.
    """

    counts: np.ndarray
    batch: np.ndarray
    types: np.ndarray
    rows: dict[str, np.ndarray]

    @property
    def size(self) -> np.ndarray:
        """Counts of each cell divided by the mean over training cells."""
        total = self.counts.sum(1)
        return total / total[self.rows["train"]].mean()


def _tree(random: np.random.Generator, genes: int) -> np.ndarray:
    """Log expression of each type, shape ``(types, genes)``: what the edges above it add up to."""
    level = random.normal(-1.0, 1.3, (1, genes))
    for branches, share, fold in zip(BRANCHES, CHANGED, FOLD, strict=True):
        level = level.repeat(branches, 0)
        level = level + (random.random(level.shape) < share) * random.normal(0, fold, level.shape)
    return level


def _states(random: np.random.Generator, cells: int, genes: int) -> np.ndarray:
    """What the cell cycle and an activation add to the log expression, ``(cells, genes)``."""
    added = np.zeros((cells, genes))
    cycle, active = np.split(random.permutation(genes)[: CYCLE + ACTIVATION], [CYCLE])
    phase, peak = random.uniform(0, 2 * np.pi, (cells, 1)), random.uniform(0, 2 * np.pi, CYCLE)
    added[:, cycle] = 0.7 * np.cos(phase - peak)
    time, onset = random.random((cells, 1)), random.random(ACTIVATION)
    sign = random.choice([-1.2, 1.2], ACTIVATION)
    added[:, active] = sign / (1 + np.exp(-12 * (time - onset)))
    return added


def simulate(seed: int = 0, cells: int = CELLS, genes: int = GENES) -> Cells:
    """Returns cells in random order, split into training, validation and test cells."""
    random = np.random.default_rng(seed)
    level = _tree(random, genes)
    weight = random.dirichlet(np.full(len(level), 4.0), BATCHES)  # of types, by batch
    batch = random.integers(BATCHES, size=cells)
    types = np.array([random.choice(len(level), p=weight[each]) for each in batch])
    log_rate = level[types] + _states(random, cells, genes)
    log_rate += random.normal(0, BATCH_SPREAD, (BATCHES, genes))[batch]
    rate = np.exp(log_rate)
    capture = np.exp(random.normal(0, DEPTH_SPREAD, cells)) * np.array(DEPTH_OF_BATCH)[batch]
    on, off = np.exp(random.uniform(np.log([[0.3], [0.5]]), np.log([[3.0], [10.0]]), (2, genes)))
    burst = random.beta(on, off, (cells, genes)) * (on + off) / on
    mean = DEPTH / rate.sum(1).mean() * capture[:, None] * rate * burst
    counts = random.poisson(mean).astype(np.float32)
    share = np.array(list(SPLIT.values())) / sum(SPLIT.values())
    cuts = np.split(np.arange(cells), np.cumsum(np.rint(share * cells).astype(int))[:-1])
    return Cells(counts, batch, types, dict(zip(SPLIT, cuts, strict=True)))
