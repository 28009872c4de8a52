"""What a person sees at the end of a command: tables of scores, checks and comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pyro_vae._errors import plural
from pyro_vae.evaluation import Comparison
from pyro_vae.evaluation.comparison import RankedModel, RankedRun
from pyro_vae.evaluation.scores import EXACT
from pyro_vae.selection import Candidate, Selection

if TYPE_CHECKING:  # SciPy and xarray, which a process of many fits needs not
    from pyro_vae.criticism import Calibration, Checks, Row

__all__ = [
    "checks_table",
    "comparison_tables",
    "failures_table",
    "scores_table",
    "selection_table",
]

# Of tables with many numbers, so that 80 columns hold them, and names beside them.
_NARROW: dict[str, Any] = {
    "box": box.SIMPLE_HEAD,
    "show_edge": False,
    "pad_edge": False,
    "collapse_padding": True,
}
_MOST_RANKS = 10  # of the guide that failed, shown one by one


def scores_table(summary: Mapping[str, Any], size: int) -> Table:
    """A table of held-out scores.

    Args:
        summary: That of the scores.
        size: Number of data they are means of.
    """
    title = _title(summary["base_measure"], size)
    table = Table(
        title=title, caption="nats per observation; ± is one standard error", min_width=60
    )
    table.add_column("held-out score")
    table.add_column("mean", justify="right")
    table.add_column("± over data", justify="right")
    table.add_column("± Monte Carlo", justify="right")
    samples = f"{plural(summary['num_samples'], 'importance sample')}"
    if summary["estimator"] == EXACT:
        samples = f"summed over {summary['num_samples']:,} states"
    table.add_row(
        f"log p(x), {samples}",
        _number(summary["log_marginal"]),
        _number(summary["standard_error"]),
        _number(summary["mcse"], 3),
    )
    if "ais" in summary:
        annealed = summary["ais"]
        table.add_row(
            f"log p(x), annealed, {plural(annealed['num_chains'], 'chain')}",
            _number(annealed["log_marginal"]),
            _number(annealed["standard_error"]),
            _number(annealed["mcse"], 3),
        )
    for key, name in (("elbo", "ELBO"), ("reconstruction", "reconstruction"), ("kl", "KL")):
        table.add_row(name, _number(summary[key]))
    for key in ("approximation", "amortisation") if "gaps" in summary else ():
        values = [summary["gaps"][f"{key}{kind}"] for kind in ("", "_standard_error", "_mcse")]
        table.add_row(f"{key} gap", _number(values[0]), _number(values[1]), _number(values[2], 3))
    table.add_section()
    if "bits_per_dim" in summary:
        table.add_row("bits per dimension", _number(summary["bits_per_dim"], 4))
    if "accuracy" in summary:
        right, error = (f"{summary[f'accuracy{of}']:.1%}" for of in ("", "_standard_error"))
        table.add_row("accuracy of q(y|x)", right, error)
    table.add_row("active latent units", str(summary["active_units"]))
    table.add_row("k-hat, median", _number(summary["k_hat_median"]))
    if summary["k_hat_above_threshold"] is not None:
        table.add_row("k-hat too high", f"{summary['k_hat_above_threshold']:.0%} of data")
    return table


def failures_table(checks: Mapping[str, Checks]) -> Table:
    """A table of what each run does not reproduce, which needs no common scale."""
    table = Table(title="checks against data that each run simulates", min_width=60)
    table.add_column("run", overflow="fold")
    table.add_column("failed", justify="right", no_wrap=True)
    table.add_column("which", overflow="fold")
    for name, found in checks.items():
        failed = [row.title for row in found.rows if row.failed]
        tried = sum(row.calibrated for row in found.rows)
        table.add_row(name, f"{found.num_failed} of {tried}", "; ".join(failed))
    return table


def checks_table(checks: Checks, calibration: Calibration, *, everything: bool = False) -> Group:
    """What checks of a model and of its guide come to, and what to swap for each that failed.

    Args:
        checks: Those of the model.
        calibration: That of its guide.
        everything: Whether checks that passed, and those that are not judged, have a row too.
    """
    ranks = calibration.rows()
    lines: list[Text | Table] = [
        *_verdicts(checks, calibration),
        Text(f"{checks.headline[0].upper()}{checks.headline[1:]}.", style="bold"),
        _size_of(checks),
    ]
    rows = [row for row in checks.rows if everything or row.failed]
    of_guide = sorted((row for row in ranks if everything or row.failed), key=lambda r: r.p_value)
    if rows or of_guide:
        table = _table_of(rows, of_guide, 1 / (checks.num_draws + 1), everything=everything)
        lines += [Text(), table, Text()]
    for row in checks.rows:
        if row.failed:
            what = row.advice or "the model does not reproduce it"
            lines.append(Text.assemble((f"✗ {row.named}", "bold"), f": {what}"))
    lines += [
        Text.assemble(("✗ guide", "bold"), f": {sentence}") for sentence in calibration.advice
    ]
    collapsed = checks.latent["collapsed"]
    if collapsed:
        lines.append(
            Text(f"collapsed units, the same for every observation: {', '.join(collapsed)}")
        )
    unjudged = checks.unjudged.items()
    lines += [Text(f"{what}: not in the verdict, {why}") for what, why in unjudged]
    if everything and any(not row.calibrated and not row.note for row in checks.rows):
        lines.append(Text("z ~ q(z|x) has seen the data: conservative, and not in the verdict"))
    lines += [Text(f"not checked: {what}: {why}") for what, why in checks.skipped.items()]
    if not everything:
        lines += [Text(line, style="dim") for line in _hidden([*checks.rows, *ranks])]
    return Group(*lines)


def _hidden(rows: Sequence[Row]) -> Iterator[str]:
    """What is said of rows that are not shown, as they did not fail or are not judged."""
    passed = sum(row.calibrated and not row.failed for row in rows)
    unjudged = sum(not row.calibrated for row in rows)
    counts = {"passed": passed, "not judged": unjudged}
    if found := [f"{count} {what}" for what, count in counts.items() if count]:
        yield f"not shown: {', '.join(found)}; --all shows them"


def _verdicts(checks: Checks, calibration: Calibration) -> Iterator[Text]:
    """Whether the model and its guide pass, and of what fails the cause, where it is known."""
    tried = sum(row.calibrated for row in checks.rows)
    yield _verdict("model", checks.num_failed, tried, checks.level)
    if checks.refits and checks.num_failed:
        share = f"{checks.num_family} of {checks.num_failed} failures of the model"
        short = "the family is wrong" if checks.num_family else "the fit alone may explain them"
        yield Text(f"{share} are beyond what {checks.refits} refits err: {short}.")
    yield _verdict("guide", calibration.num_failed, len(calibration.rows()), calibration.level)
    if calibration.num_failed and not checks.num_failed:
        yield Text("The fault is in q(z|x), and nothing is held against the model.")


def _verdict(what: str, failed: int, tried: int, level: float) -> Text:
    words = (
        f": {failed} of {tried} checks failed at {level:g}, Holm's correction over these {tried}"
    )
    return Text.assemble((f"{'✗' if failed else '✓'} {what}", "bold"), words)


def _size_of(checks: Checks) -> Text:
    """Which data were compared with how many others."""
    measure = checks.base_measure
    data = f"{checks.num_data:,} {measure['split'] or 'held-out'} observations of "
    return Text(
        f"{data}{measure['data'] or 'an array'}, {checks.num_draws:,} simulated data sets of as "
        "many."
    )


def _table_of(
    rows: Sequence[Row], of_guide: Sequence[Row], least: float, *, everything: bool
) -> Table:
    """A table of checks of the model and of the ranks of its guide.

    Args:
        rows: Those of the model, in the order of their effects.
        of_guide: Those of the guide, in the order of their p-values.
        least: The smallest p-value that one of the model could have.
        everything: Whether some of them did not fail: then each has its verdict, and stands under
            what its z was drawn from.
    """
    caption = "effect: in sd; p: before Holm's correction; replicates: their central 95%"
    if any(row.columns > 1 for row in rows):
        caption += "; of N: the one farthest out of N entries, and p is that of the most extreme"
    table = Table(
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    # What matters comes first, and is never cut; what is long may take several lines.
    for name in ("verdict", "size") if everything else ("size",):
        table.add_column(name, no_wrap=True)
    for name in ("effect", "p"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("what", overflow="fold")
    table.add_column("data", no_wrap=True, justify="right")
    table.add_column("replicates", overflow="fold", justify="right")

    def add(row: Row, least: float) -> None:
        verdict = Text("failed", "bold") if row.failed else "passed" if row.calibrated else "-"
        cells: list[str | Text] = [row.severity, f"{row.effect:+.2f}" if row.severity else ""]
        several = f" (of {row.columns:,})" if row.columns > 1 else ""
        cells += [_p_value(row.p_value, least), f"{row.title}{several}", *row.texts]
        table.add_row(*[verdict] * everything, *cells)

    before = [""] * (3 + everything)  # the columns left of what titles stand in
    given = dict.fromkeys(row.conditioned_on for row in rows) if everything else {}
    for conditioned_on in given:
        table.add_section()
        table.add_row(*before, Text(conditioned_on, style="bold"))
        for row in (each for each in rows if each.conditioned_on == conditioned_on):
            add(row, least)
    for row in () if everything else rows:
        add(row, least)
    if of_guide:
        table.add_section()
        table.add_row(*before, Text("guide: ranks of true z", style="bold"))
    shown = of_guide if everything else of_guide[:_MOST_RANKS]
    for row in shown:
        add(row, 0.0)
    if len(of_guide) > len(shown):
        table.add_row(*before, f"{len(of_guide) - len(shown)} more failed")
    return table


def _p_value(value: float, least: float) -> str:
    """Seven characters at most."""
    if value < 0.0005 and value != least:
        return "<.001"
    return f"≤{value:.4f}" if value == least else f"{value:.3f}"


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """Tables of a comparison: of its runs, and of models that were fitted more than once."""
    table = Table(
        title=_title(comparison.base_measure, comparison.size),
        caption="nats per observation; a difference is to the best; ± is one standard error; "
        "interval: of the difference, 95% for all pairs together, with the bias of importance "
        "weighting; runs of one rank cannot be told apart",
        **_NARROW,
    )
    table.add_column("run", overflow="fold")
    for name in ("log p(x)", "difference", "± data", "interval", "k-hat\nhigh"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in comparison.runs:
        share = run.k_hat_above_threshold
        table.add_row(
            f"{run.rank}. {run.name}",
            _number(run.log_marginal),
            *_difference(run, best=run is comparison.runs[0]),
            _interval(run) if run is not comparison.runs[0] else "-",
            "-" if share is None else f"{share:.0%}",
        )
    yield table
    if not comparison.models:
        return
    table = Table(
        title="Fits that differ in their seed alone, together",
        caption="nats per observation",
        **_NARROW,
    )
    table.add_column("model", overflow="fold")
    for name in ("fits", "log p(x)", "sd of\nfits", "difference", "± data", "± seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    for model in comparison.models:
        table.add_row(
            f"{model.rank}. {model.name}",
            str(len(model.runs)),
            _number(model.log_marginal),
            _number(model.spread),
            *_difference(model, best=model is comparison.models[0]),
            _number(model.difference_spread if model is not comparison.models[0] else None),
        )
    yield table


def selection_table(selection: Selection) -> Group:
    """A table of a selection, and what it comes to."""
    several = selection.log_marginal.shape[1] > 1
    measure, folds = selection.base_measure, int(selection.fold.max()) + 1
    table = Table(
        title=_title(measure, len(selection.fold), f"in {folds} folds"),
        caption="held-out nats per observation; ± is one standard error; size: parameters",
        **_NARROW,
    )
    table.add_column("setting", overflow="fold")
    columns = ["size", "log p(x)", "difference", "± data", "± folds"]
    for name in [*columns, "sd,\nseeds"] if several else columns:
        table.add_column(name, justify="right", no_wrap=True)
    shown = selection.candidates
    if selection.trials is not None:  # which are many, and in no order of a grid
        shown = tuple(sorted(shown, key=lambda each: each.rank))
    for each in shown:
        cells = [
            f"{each.num_parameters:,}",
            _number(each.log_marginal),
            *_difference(each, best=each.rank == 1),
        ]
        cells.append("-" if each.rank == 1 else _number(each.difference_fold_error))
        style = "bold" if each is selection.chosen else None
        if several:
            cells.append(_number(each.spread))
        table.add_row(each.label, *cells, style=style)
    for failed in selection.failed:
        table.add_row(failed.label, "", "failed")
    best, chosen = selection.best, selection.chosen
    verdict = f"Best: {best.label}."
    if selection.trials is not None:
        tried = plural(len(selection.candidates) + len(selection.failed), "setting")
        verdict = f"{tried} in {plural(selection.trials, 'trial')}. {verdict}"
    if chosen is not best:
        verdict += f" The smallest model within one standard error of it: {chosen.label}."
    reasons = [Text(f"Failed: {each.label}: {each.reason}.") for each in selection.failed]
    return Group(table, *reasons, Text(verdict))


def _difference(row: RankedRun | RankedModel | Candidate, *, best: bool) -> tuple[str, str]:
    if best:
        return "-", "-"
    return _number(row.difference), _number(row.difference_standard_error)


def _interval(row: RankedRun) -> str:
    return f"{_number(row.difference_low)} to {_number(row.difference_high)}"


def _title(measure: Mapping[str, Any], size: int, folds: str = "") -> str:
    split = "" if folds else f"{measure['split']} "
    title = f"{size:,} {split}observations of {measure['data']}{folds and f' {folds}'}"
    if measure["binarize"] != "none":  # of images, whose grey values may be made binary
        title += f", binarize: {measure['binarize']}"
    if measure["transform"] not in (None, "none"):
        title += f", {measure['transform']}"
    return title


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
