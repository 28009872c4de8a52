"""Columns keep their names, words, dates and units: in checks, advice, pictures, page and trees."""

from __future__ import annotations

import base64
import io
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

import pyro_vae as pv
from pyro_vae import report
from pyro_vae.cli.tables import checks_table
from pyro_vae.criticism import Statistic, calibrate, check, default_statistics, pit
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism.advice import advise
from pyro_vae.data.entries import Entry, figure
from pyro_vae.plots import _panels as panels
from pyro_vae.plots import _tables as tables
from pyro_vae.plots.pairs import associations, draw_pair
from pyro_vae.report.findings import Findings
from pyro_vae.report.sections import fitted, reconstructions, samples, scores, traversals

NAMES = ["joined", "income", "children", "city", "smoker", "health", "wind"]
TITLES = ["joined", "income [EUR]", "children", "city", "smoker", "health", "wind [degrees]"]
CITIES = ["Berlin", "Hamburg", "Köln"]
HEALTH = ["poor", "fair", "good"]


def _frame() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    size = 300
    city = rng.choice(CITIES, size, p=[0.6, 0.3, 0.1])
    table = {
        "joined": pd.Timestamp("2015-01-01") + pd.to_timedelta(rng.integers(0, 3000, size), "D"),
        "income": np.exp(rng.normal(10, 0.3, size) + (city == "Köln")).round(2),
        "children": rng.poisson(1.5, size),
        "city": city,
        "smoker": rng.random(size) < 0.3,
        "health": rng.choice(HEALTH, size),
        "wind": (rng.vonmises(0.0, 2.0, size) * 180 / np.pi % 360).round(1),
    }
    frame = pd.DataFrame(table)
    frame.loc[::7, "income"] = np.nan
    return frame


@pytest.fixture(scope="module")
def data() -> pv.data.Dataset:
    """A table of people."""
    kinds = {
        "income": {"kind": "positive", "unit": "EUR"},
        "wind": {"kind": "angle", "unit": "degrees"},
        "health": {"kind": "ordinal", "levels": HEALTH},
    }
    return pv.data.load(_frame(), schema=kinds, missing=True, test=0.3)


@pytest.fixture(scope="module")
def vae(data: pv.data.Dataset) -> pv.VAE:
    """A model of them that is at the start of its fit."""
    likelihood = pv.likelihoods.suggest(data).likelihood
    made = pv.likelihoods.Mixed((len(NAMES),), likelihood["columns"])
    model = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), made, seed=0)
    model.initialize(data.train, mask=data.mask["train"])
    return model


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that pictures are made of, which are not written."""
    kept: list[Figure] = []

    def keep(drawn: Figure, path: str | Path) -> Path:
        drawn.draw_without_rendering()
        kept.append(drawn)
        return Path(path)

    # A function of the same name hides the module.
    monkeypatch.setattr(import_module("pyro_vae.report.pictures"), "write", keep)
    return kept


def _ticks(axis: Any) -> list[str]:
    """The labels of the ticks that are seen."""
    low, high = sorted(axis.get_view_interval())
    pairs = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return [label.get_text() for place, label in pairs if low <= place <= high]


def test_an_entry_writes_values_as_the_table_has_them(data: pv.data.Dataset, vae: pv.VAE) -> None:
    """Fails when the offset of dates, radians or places of levels are left as they are."""
    entries = entries_of(vae, data.test)
    assert [each.title for each in entries] == TITLES
    kinds = ["date", "number", "count", "level", "level", "level", "angle"]
    assert [each.kind for each in entries] == kinds
    frame, x = data.schema.decode(data.test), data.test  # type: ignore[union-attr]
    row = next(i for i in range(len(x)) if not x[i].isnan().any())
    written = [each.write(float(x[row, each.index])) for each in entries]
    cells = frame.iloc[row]
    assert written[0] == str(cells["joined"].date())
    assert written[1] == f"{cells['income']:,.0f}"
    assert written[3:6] == [str(cells[name]) for name in ("city", "smoker", "health")]
    assert float(written[6]) == pytest.approx(cells["wind"], abs=0.05)


def test_a_year_is_not_grouped_and_no_number_is_rounded_away() -> None:
    schema = pv.data.Schema.infer(pd.DataFrame({"year": [1999, 2001, 2024] * 9, "b": [1.5] * 27}))
    year = Entry.of(schema["year"], 0)
    assert year.text(2024.0) == "2024"
    numbers = [16812.4, 0.12345, -2.0, 3.1e9, 5e-5, float(0)]
    assert [figure(each) for each in numbers] == ["16,812", "0.123", "-2", "3.1e+09", "5e-05", "0"]


def test_levels_that_are_numbers_stay_these_numbers() -> None:
    """Fails when a mean of ratings from 1 to 5 is that of their places, from 0 to 4."""
    rating = Entry.of(pv.data.schema.Field("r", "ordinal", levels=(1, 2, 3, 4, 5)), 0)
    assert not rating.words
    asked = Statistic("mean", torch.mean, ("r",), ((rating,),), ("value",))
    assert asked.in_units(0, [1.5]) == ([2.5], "", ("2.5",))
    tens = Entry.of(pv.data.schema.Field("r", "ordinal", levels=(10, 20, 30)), 0)
    spread = Statistic("spread", torch.std, ("r",), ((tens,),), ("spread",))
    assert spread.in_units(0, [0.5]) == ([5.0], "", ("5",))


def test_arrays_are_called_by_their_places() -> None:
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((3,)))
    assert [each.title for each in entries_of(vae, torch.zeros(4, 3))] == ["x[0]", "x[1]", "x[2]"]
    assert [each.title for each in entries_of(vae, ["a", "b", "c"])] == ["a", "b", "c"]
    moved = pv.data.load(pd.DataFrame(np.eye(3).repeat(9, 0), columns=list("abc"))).rows("train")
    assert [each.name for each in entries_of(vae, moved.to("cpu"))] == ["a", "b", "c"]


def test_statistics_of_words_are_shares(data: pv.data.Dataset, vae: pv.VAE) -> None:
    """Fails when the mean of the places of words is taken, whose order is that of the alphabet."""
    given = {"mask": data.mask["test"]}
    entries = entries_of(vae, data.test)
    asked = {each.name: each for each in default_statistics(vae, entries=entries, **given)}
    assert not {"neighbours", "totals"} & asked.keys(), "columns are in no order and of many units"
    mean = asked["mean"]
    names = ["joined", "income", "children", *(f"city = {c}" for c in CITIES), "smoker = True"]
    assert mean.columns == (*names, "health", "wind")
    titles = [mean.title(i) for i in range(len(mean.columns))]
    assert titles[1] == "mean of income"
    assert titles[3] == "share of city = Berlin"
    assert titles[7] == "mean of health (0 poor to 2 good)"
    x = data.test.nan_to_num()
    values = dict(zip(mean.columns, mean(x[None])[0].tolist(), strict=True))
    frame = data.schema.decode(data.test)  # type: ignore[union-attr]
    for city in CITIES:
        assert values[f"city = {city}"] == pytest.approx((frame["city"] == city).mean(), abs=1e-6)
    assert values["smoker = True"] == pytest.approx(frame["smoker"].mean(), abs=1e-6)
    assert asked["spread"].columns == ("joined", "income", "children", "health", "wind")
    assert asked["zeros"].columns == ("income", "children"), "no date or direction is nothing"
    pairs = asked["correlation"].columns
    assert "income and city = Köln" in pairs
    assert "city = Berlin and city = Köln" not in pairs
    assert any(re.fullmatch(r"joined <= 20\d\d-\d\d-\d\d", c) for c in asked["marginals"].columns)
    assert any(c == "health <= good" for c in asked["marginals"].columns)


def test_values_of_a_check_are_in_the_units_of_the_column(
    data: pv.data.Dataset, vae: pv.VAE
) -> None:
    asked = {e.name: e for e in default_statistics(vae, entries=entries_of(vae, data.test))}
    mean, spread = asked["mean"], asked["spread"]
    at = {name: i for i, name in enumerate(mean.columns)}
    _, unit, shown = mean.in_units(at["joined"], [0.0, 365.0])
    first, second = map(pd.Timestamp, shown)
    assert (unit, (second - first).days) == ("", 365)
    assert mean.in_units(at["income"], [2.5e4])[1:] == ("EUR", ("25,000",))
    numbers, unit, _ = mean.in_units(at["wind"], [-np.pi / 2])
    assert (unit, numbers) == ("degrees", [pytest.approx(-90)])
    assert mean.in_units(at["city = Köln"], [0.25]) == ([0.25], "", ())
    assert spread.in_units(0, [12.0])[1:] == ("days", ("12",))


@pytest.mark.long
def test_a_check_names_columns(data: pv.data.Dataset, vae: pv.VAE) -> None:
    """In its rows, its JSON and a terminal of 80 columns; fails where an index is left."""
    checks = check(vae, data.rows("test"), seed=1, max_data=30)
    summary = checks.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    about = [row for row in summary["rows"] if row["entries"]]
    assert len(about) > 8
    for row in summary["rows"]:
        assert set(row["entries"]) <= set(NAMES)
        assert "x[" not in row["title"] + row["where"] + row["advice"]
    ranks = calibrate(vae, num_simulations=50, seed=1)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(checks_table(checks, ranks, everything=True))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "x[" not in text
    assert any(f"of {name}" in text for name in NAMES)


def test_advice_is_about_the_column_and_its_likelihood(vae: pv.VAE, data: pv.data.Dataset) -> None:
    """Fails when it speaks of `Mixed`, which lets no mean have any variance."""
    entries = {each.name: each for each in entries_of(vae, data.test)}
    children = advise(vae, "spread", True, [entries["children"]])
    family = type(vae.likelihood.entry((2,))).__name__
    assert children.startswith(f"variance of children exceeds what {family} lets")
    assert children.endswith("for children")
    pair = [entries["income"], entries["wind"]]
    assert advise(vae, "correlation", True, pair).startswith("income and wind vary together more")
    field = pv.data.schema.Field("age", "real")
    real = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((2,)))
    skewed = advise(real, "skewness", True, [Entry.of(field, 0)])
    assert skewed.startswith("age is skewed: likelihoods.Gamma or likelihoods.LogNormal for age")
    assert "--kind age=positive" in skewed
    assert advise(real, "skewness", True).startswith("the data lean to one side")


def test_marginals_have_names_words_dates_and_units(
    data: pv.data.Dataset, vae: pv.VAE, figures: list[Figure]
) -> None:
    report.samples(vae, "a.png", num_samples=500, reference=data.test)
    all_axes = figures[0].axes[: len(NAMES)]
    shown = [{a.get_xlabel(), a.get_ylabel()} - {"share of rows"} for a in all_axes]
    assert shown == [{title} for title in TITLES]
    by_name = dict(zip(NAMES, all_axes, strict=True))
    assert all("2" in tick for tick in _ticks(by_name["joined"].xaxis)), "years"
    assert _ticks(by_name["wind"].xaxis) == ["0", "90", "180", "270", "360"]
    assert _ticks(by_name["smoker"].xaxis) == ["False", "True"]
    frame = data.schema.decode(data.test)  # type: ignore[union-attr]
    lying = by_name["city"].get_ylabel() == "city"
    bars = by_name["city"].patches[: len(CITIES)]
    lengths = [bar.get_width() if lying else bar.get_height() for bar in bars]
    shares = [(frame["city"] == city).mean() for city in CITIES]
    np.testing.assert_allclose(lengths, shares, atol=1e-6)
    assert _ticks(by_name["city"].yaxis if lying else by_name["city"].xaxis) == CITIES
    heights = by_name["income"].patches[0].get_data().values
    assert heights.sum() == pytest.approx(1)


@pytest.mark.parametrize("high", [0, 1, 4, 200])
def test_bins_of_counts_end_where_the_counts_do(high: int) -> None:
    """Fails when there are as many empty bins beyond as there may be bins."""
    axes = matplotlib.pyplot.figure().subplots()
    entry = Entry("x[0]", kind="count")
    tables.marginal(axes, entry, np.arange(high + 1.0).repeat(9), None)
    edges = axes.patches[0].get_data().edges
    assert edges[0] == -0.5
    assert edges[-2] < high + 0.5 <= edges[-1]
    matplotlib.pyplot.close()


def test_rare_words_share_a_bar_and_amounts_of_all_sizes_a_logarithmic_axis() -> None:
    levels = tuple(f"word {i}" for i in range(30))
    axes = matplotlib.pyplot.figure().subplots()
    places = np.minimum(np.arange(900.0) % 60, 29)  # the last is the commonest
    tables.marginal(axes, Entry("w", kind="level", levels=levels), places, places)
    assert len(_ticks(axes.yaxis)) == 10
    assert _ticks(axes.yaxis)[-2:] == ["word 29", "21 others"]
    assert sum(bar.get_width() for bar in axes.patches[:10]) == pytest.approx(1)
    axes = matplotlib.pyplot.figure().subplots()
    tables.marginal(axes, Entry("w"), np.geomspace(1, 1e6, 99), np.geomspace(1, 1e6, 99))
    assert axes.get_xscale() == "log"
    matplotlib.pyplot.close("all")


def test_a_reconstruction_is_a_dot_for_each_column(
    data: pv.data.Dataset, vae: pv.VAE, figures: list[Figure]
) -> None:
    """Fails when a line goes from one column to the next, or a hidden entry is drawn."""
    rows = data.rows("test")
    rows = rows[data.mask["test"][:, 1].long().argsort()]  # those without an income come first
    report.reconstructions(vae, rows, "a.png", columns=data.schema)
    (drawn,) = figures
    frame = data.schema.decode(rows.x)  # type: ignore[union-attr]
    assert frame["income"][:6].isna().any()
    for i, axes in enumerate(drawn.axes[:6]):
        assert _ticks(axes.yaxis) == TITLES
        assert all(len(set(line.get_ydata())) == 1 for line in axes.lines[:-1]), "along a column"
        texts = [each.get_text() for each in axes.texts]
        assert re.fullmatch(rf"{frame['city'][i]} → \w+ \(\d+%\)", texts[3])
        assert texts[0].split(" → ")[0] == str(frame["joined"][i].date())
        assert (texts[1].split(" → ")[0] == "missing") == frame["income"].isna()[i]


def test_angles_are_as_far_from_their_mean_as_they_are_on_the_circle() -> None:
    """Around north, 350 and 10 degrees lie side by side, on either side of the mean."""
    field = pv.data.schema.Field("wind", "angle", unit="degrees")
    x = torch.tensor([[170.0], [-170.0], [175.0], [-175.0]]).deg2rad()
    placed = tables.Scaled(x, [Entry.of(field, 0)]).places(x)[:, 0]
    assert placed.abs().max() < 2
    assert (placed[::2] * placed[1::2] < 0).all()


def test_the_pairs_are_the_most_associated(
    data: pv.data.Dataset, vae: pv.VAE, figures: list[Figure]
) -> None:
    entries = entries_of(vae, data.test)
    x = data.train
    found = associations(x, entries, 3)
    assert {each.name for each in found[0][:2]} == {"income", "city"}
    frame = data.schema.decode(x)  # type: ignore[union-attr]
    known = frame["income"].notna()
    income, koeln = frame["income"][known], frame["city"][known] == "Köln"
    strongest = abs(np.corrcoef(income, koeln)[0, 1])
    assert found[0][2] == pytest.approx(strongest, abs=1e-4)
    report.pairs(vae, data.test, "a.png")
    titles = {axis.get_label_text() for a in figures[0].axes for axis in (a.xaxis, a.yaxis)}
    assert titles - {""} <= set(TITLES)
    assert {"city", "income [EUR]"} <= titles
    by_name = {each.name: each for each in entries}
    drawn = Figure()
    draw_pair(drawn, by_name["city"], by_name["health"], x, x)
    both = [[each.get_text() for each in axes.texts] for axes in drawn.axes]
    assert both[0] == both[1]
    in_berlin = frame["health"][frame["city"] == "Berlin"]
    assert both[0][0] == f"{(in_berlin == 'poor').mean():.0%}"


@pytest.mark.long
def test_pictures_of_a_table_have_pairs(
    data: pv.data.Dataset, vae: pv.VAE, figures: list[Figure], tmp_path: Path
) -> None:
    history = {name: [1.0, 2.0] for name in ("epoch", "elbo", "reconstruction", "kl")}
    paths = report.pictures(vae, data, history, tmp_path)
    assert [path.name for path in paths][-1] == "pairs.png"
    assert len(figures) == len(paths)


def test_labels_have_the_names_of_their_classes(tmp_path: Path) -> None:
    """Those of folders of images, and words of a table; labels that are given bring none."""
    for name, shade in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("L", (4, 4), shade + i).save(tmp_path / name / f"{i}.png")
    data = pv.data.load(tmp_path)
    assert list(data.classes) == ["cat", "dog"]
    axes = matplotlib.pyplot.figure().subplots()
    means, labels = torch.randn(len(data.train), 2), data.labels["train"]
    panels.scatter(axes, means, labels, data.classes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cat", "dog"]
    panels.usage(axes, torch.rand(len(means), 1, 3), labels, data.classes)
    assert _ticks(axes.yaxis) == ["cat", "dog"]
    frame = pd.DataFrame({"a": np.arange(40.0) ** 1.5, "kind": ["ox", "ant"] * 20})
    assert list(pv.data.load(frame, label="kind").classes) == ["ant", "ox"]
    given = pv.data.load(frame[["a"]], labels=np.arange(40) % 2)
    assert list(given.classes) == []
    assert panels.class_name(-1, ["ant"]) == "none"
    assert panels.class_name(7, ["ant"]) == "7"
    matplotlib.pyplot.close("all")


@pytest.mark.long
def test_the_page_of_a_table_names_its_columns(data: pv.data.Dataset, vae: pv.VAE) -> None:
    found = Findings(vae, data, None, None, {}, "people", 20, None, 0, None)
    parts = (fitted, scores, samples, reconstructions, traversals)
    page = "".join(str(each.section(found)) for each in parts)
    drawn = "".join(
        base64.b64decode(each).decode()
        for each in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    )
    for title in TITLES:
        assert f">{title}<" in drawn
    for word in ("Berlin", "good", "True", "city = Köln"):
        assert word in drawn
    assert "entry of x" not in drawn + page
    assert "x[" not in drawn + re.sub(r"data:image[^\"]*", "", page)
    assert f"{len(NAMES)} columns: joined (time), income [EUR] (positive)" in page
    assert "mixed, counting in children, city, smoker, health" in page


def test_trees_of_draws_have_the_schema_and_the_names(data: pv.data.Dataset, vae: pv.VAE) -> None:
    rows = data.rows("test")
    tree = pv.to_datatree(vae, rows, num_draws=3)
    assert list(tree["observed_data"].coords["feature"].values) == NAMES
    schema = pv.data.Schema.from_spec(json.loads(tree.attrs["schema"]))
    x = torch.as_tensor(tree["posterior_predictive"]["x"].values[0, 0])
    assert set(schema.decode(x)["city"]) <= set(CITIES)
    placed = pit(vae, rows, num_draws=20)
    assert placed.entries == tuple(NAMES)
    assert list(placed.to_datatree()["pit"].coords["feature"].values) == NAMES
    assert placed.summary()["worst"]["entry"] in NAMES


def test_what_is_refused_or_reported_of_a_column_has_its_name() -> None:
    frame = pd.DataFrame({"age": np.arange(30.0) + 0.5, "size": -np.arange(30.0) - 0.5})
    data = pv.data.load(frame)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Gamma((2,)))
    with pytest.raises(ValueError, match=r"at index \[0, 1\] of size, "):
        vae.encode(data.train)
    frame["still"] = 3.0
    report_of = pv.data.inspect(pv.data.load(frame, schema="numbers"))
    assert "1 feature is constant in training: still" in str(report_of)
