"""Levels without an order are never taken for numbers: renaming them changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism import check, checks, default_statistics
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._of_tables import Expanded
from pyro_vae.criticism.checks import compare, values
from pyro_vae.criticism.latent import latent_entries
from pyro_vae.criticism.relations import relations
from pyro_vae.criticism.split import halve, residual_statistics
from pyro_vae.data.rows import Rows
from pyro_vae.data.schema import Field, Schema

_LEVELS, _MANY, _SIZE, _NUM_DRAWS = 4, 20, 40, 60


def _vae() -> pv.VAE:
    """Two columns of few classes, one of many, and a number."""
    few = {"class": "Categorical", "levels": _LEVELS}
    columns = [few, "Normal", {"class": "Categorical", "levels": _MANY}, few]
    likelihood = pv.likelihoods.Mixed((4,), columns)
    networks = pv.networks.MLP(()), pv.networks.MLP(())
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, *networks).eval()


def _renamed(x: Tensor, codes: dict[int, Tensor]) -> Tensor:
    columns = [codes[i][c.long()].float() if i in codes else c for i, c in enumerate(x.unbind(-1))]
    return torch.stack(columns, -1)


def _schema() -> Schema:
    """What calls the columns as a table does, each class by a word."""
    words = {i: tuple(f"w{k}" for k in range(n)) for i, n in ((0, 4), (2, _MANY), (3, 4))}
    fields = [
        Field(f"c{i}", "category", levels=words[i]) if i in words else Field(f"c{i}", "real")
        for i in range(4)
    ]
    return Schema(tuple(fields))


@pytest.mark.parametrize("schema", [None, _schema()], ids=["an array", "a table"])
@torch.no_grad()
def test_renaming_levels_changes_no_p_value(schema: Schema | None) -> None:
    """Of any statistic: the data, the replicates and what the model draws are renamed alike.

    Fails where one takes levels for numbers: their mean, their distance, their neighbours.
    """
    torch.manual_seed(0)
    vae = _vae()
    codes = {0: torch.randperm(_LEVELS), 2: torch.randperm(_MANY), 3: torch.randperm(_LEVELS)}
    renamed = _vae()
    reference, drawn = vae.sample(2000), vae.sample(_NUM_DRAWS * _SIZE)
    x, z = vae.sample(_SIZE), torch.randn(_NUM_DRAWS + 1, _SIZE, 2)
    x[:, 3] = torch.where(torch.rand(_SIZE) < 0.5, x[:, 0], x[:, 3])
    pool = torch.cat([x, drawn]).unflatten(0, (_NUM_DRAWS + 1, _SIZE))

    def p_values(vae: pv.VAE, rename: Any) -> dict[str, float]:
        # The reference draws that statistics start from are to be the renamed ones, too.
        entries = entries_of(vae, schema)
        rows = Rows(rename(x))
        with pytest.MonkeyPatch.context() as patch:
            for module in ("statistics", "relations", "split"):
                patch.setattr(
                    f"pyro_vae.criticism.{module}.simulate",
                    lambda *_, **__: rename(reference)[None],
                )
            of_x = default_statistics(vae, entries=entries)
            of_both = relations(vae, rows, torch.arange(_SIZE), entries)
            halves = halve(vae, entries, {})
        own = rename(pool)
        both = torch.cat([own, z], -1)
        residual = residual_statistics(halves)
        columns = halves.columns(own)
        columns = (columns - columns.mean((0, 1))) / columns.std((0, 1))
        tables = [*values(of_x, own), *values(of_both, both), *values(residual, columns)]
        found = {}
        for each, table in zip((*of_x, *of_both, *residual), tables, strict=True):
            torch.manual_seed(0)  # ties are broken alike
            found[each.name] = compare(table[0], table[1:])
        return found

    as_it_is = p_values(vae, lambda x: x)
    assert {"mean", "correlation", "interactions", "row order", "residual mean"} <= set(as_it_is)
    other = p_values(renamed, lambda x: _renamed(x, codes))
    assert other == pytest.approx(as_it_is, abs=1.5 / _NUM_DRAWS)  # rounding may turn a tie


def test_classes_are_levels_and_ordered_levels_and_grey_values_are_not() -> None:
    def shares(likelihood: pv.likelihoods.Likelihood) -> set[bool]:
        vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood)
        return {each.shares for each in entries_of(vae, None)}

    assert shares(pv.likelihoods.Categorical((3,), levels=3)) == {True}
    assert shares(pv.likelihoods.Categorical((3,), levels=40)) == {True}
    assert shares(pv.likelihoods.Categorical((2, 2), levels=["a", "b", "c"])) == {True}
    assert shares(pv.likelihoods.Categorical((2, 2), levels=3)) == {False}
    assert shares(pv.likelihoods.Ordinal((3,), levels=["low", "mid", "high"])) == {False}
    assert shares(pv.likelihoods.BetaBinomial((3,), levels=3)) == {False}
    assert shares(pv.likelihoods.Mixed((2,), ["Normal", "Poisson"])) == {False}


@pytest.mark.long
def test_a_classifier_is_shown_classes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where it is shown their codes."""
    seen: list[Tensor] = []
    classify = checks.classify

    def shown(x: Tensor, made: Tensor, **options: Any) -> Any:
        seen.extend([x, made])
        return classify(x, made, **options)

    monkeypatch.setattr(checks, "classify", shown)
    likelihood = pv.likelihoods.Categorical((3,), levels=4)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood)
    check(vae, vae.sample(30), statistics=[lambda x: x.mean((1, 2))])
    assert [each.shape[1] for each in seen] == [12, 12]
    assert all(set(each.unique().tolist()) == {0.0, 1.0} for each in seen)
    assert (seen[0].sum(1) == 3).all()


def test_classes_of_a_program_are_levels() -> None:
    """Those that it observes and those that it infers; fails where a site's family is not kept."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            logits = torch.eye(3)[k][:, None].expand(-1, 2, -1)
            pyro.sample("x", dist.Categorical(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(len(x), 3) / 3))

    x = torch.randint(3, (30, 2))
    program = pv.Program(model, guide)
    program.initialize(x)
    entries, (k,) = entries_of(program, None), latent_entries(program)
    assert [(each.shares, len(each.levels)) for each in (*entries, k)] == [(True, 3)] * 3
    found = check(program, x)
    assert found.num_failed == 0
    (where,) = {row.where for row in found.rows if row.statistic == "latent classes"}
    assert where in {f"{k.name} = {level}" for level in range(3)}


def test_expanded_columns_are_the_same_but_for_their_order() -> None:
    codes = torch.randperm(_MANY)
    x = torch.randint(_MANY, (500, 1)).float()
    entry = dataclasses.replace(
        entries_of(_vae(), None)[2], index=0, levels=tuple(map(str, range(_MANY)))
    )
    renamed = codes[x.long()].float()
    columns, others = Expanded(x, [entry])(x), Expanded(renamed, [entry])(renamed)
    assert columns.shape == (500, 12)
    np.testing.assert_array_equal(sorted(columns.sum(0)), sorted(others.sum(0)))
