"""What is asked of sequences that end: lengths, symbols, pairs that follow one another."""

from __future__ import annotations

import pyro
import torch

import pyro_vae as pv
from pyro_vae.criticism import check, default_statistics
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._of_sequences import Symbols
from pyro_vae.criticism.relations import relations
from pyro_vae.data.axes import Axes
from pyro_vae.data.rows import Rows


def some_vae(length: int = 6, levels: int = 4) -> pv.VAE:
    pyro.set_rng_seed(0)
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Autoregressive((length,), levels, 8, network="gru", end=0),
        pv.networks.SequenceEncoder(levels, 8, network="pooling", end=0),
        pv.networks.MLP(()),
    )


def test_symbols_and_pairs_are_counted_up_to_the_end() -> None:
    """Fails where what follows an end is counted, or the end itself."""
    x = torch.tensor([[1.0, 2, 1, 2, 0, 0], [2, 2, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    entries = entries_of(some_vae(), Axes(symbols=("", "a", "b", "c")))
    table = Symbols(x, 0, entries)
    names = ("length", "count of 'a'", "count of 'b'")
    pairs = ("'a' then 'b'", "'b' then 'a'", "'b' then 'b'")
    assert table.names == (*names, *(f"count of {each}" for each in pairs))
    assert table(x).tolist() == [[4, 2, 2, 2, 1, 0], [2, 0, 2, 0, 0, 1], [0, 0, 0, 0, 0, 0]]
    # A level that the reference lacks takes part in the length alone, and is no other pair.
    assert table(torch.tensor([[1.0, 3, 1, 0, 0, 0]])).tolist() == [[3, 2, 0, 0, 0, 0]]
    assert Symbols(x, 0, entries_of(some_vae(), None)).names[1] == "count of 1"


def test_of_long_texts_there_are_few_columns() -> None:
    """Fails where each level at each place is a column: 60 x 300, and their triples."""
    vae = some_vae(300, 60)
    x = vae.sample(30)
    asked = default_statistics(vae, size=200)
    asked += relations(vae, Rows(x), torch.arange(30), entries_of(vae, x))
    assert [each.name for each in asked][:4] == ["mean", "spread", "correlation", "distances"]
    assert all(len(each.columns) < 1000 for each in asked)


def test_a_check_finds_another_order_of_symbols() -> None:
    """Lines of the model pass, and sorted ones do not: lengths and symbols alone are the same."""
    vae = some_vae()
    with torch.no_grad():
        vae.likelihood.network.bias.zero_()  # type: ignore[union-attr]
        pyro.set_rng_seed(1)
        x = vae.sample(200)
    assert check(vae, x, num_draws=400).num_failed == 0
    ends = x == 0
    ordered = x.masked_fill(ends, 9.0).sort(1).values
    ordered = ordered.masked_fill(ordered == 9, 0.0)
    assert torch.equal((ordered > 0).sum(1), (~ends).sum(1))
    found = check(vae, ordered, num_draws=400)
    failed = {row.statistic: row.where for row in found.rows if row.failed}
    assert "then" in failed["mean"]
    assert "classifier" in failed
