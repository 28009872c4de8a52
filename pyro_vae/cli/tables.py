"""What a person sees: a live line while something runs, a table of scores at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

__all__ = ["Monitor", "live", "scores_table"]


class Monitor:
    """Shows how far a fit or an evaluation is, and how good the model."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description:<15}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        self._line = Text()

    def __rich__(self) -> Group:
        return Group(self._bar, self._line) if self._line else Group(self._bar)

    def fitting(self, epochs: int, steps: int) -> Any:
        """Returns what takes in the history line by line.

        Args:
            epochs: Epochs to come.
            steps: Optimiser steps an epoch.
        """
        self._line = Text("preparing the first step (compiling takes up to a minute)", style="dim")
        task = self._bar.add_task("fit", total=epochs)

        def on_epoch(line: Mapping[str, float]) -> None:
            epoch = int(line["epoch"])
            self._bar.update(task, completed=epoch, description=f"epoch {epoch}/{epochs}")
            words = [
                f"{steps * epoch / max(line['seconds'], 1e-9):,.0f} step/s",
                f"ELBO {line['elbo']:.2f}",
                f"reconstruction {line['reconstruction']:.2f}",
                f"KL {line['kl']:.2f}",
            ]
            if "validation_elbo" in line:
                words.append(f"val. ELBO {line['validation_elbo']:.2f}")
            self._line = Text("  ".join(words))

        return on_epoch

    def evaluating(self) -> Any:
        """Returns what takes in the fraction of an evaluation that is done."""
        task = self._bar.add_task("evaluate", total=1.0)
        return lambda done: self._bar.update(task, completed=done)


@contextmanager
def live() -> Iterator[Monitor]:
    """Shows a monitor on standard error until the block ends; an error erases it."""
    monitor, console = Monitor(), Console(stderr=True)
    with Live(monitor, console=console, refresh_per_second=8) as shown:
        try:
            yield monitor
        except BaseException:
            shown.update("")
            shown.transient = True
            raise
    if not console.is_terminal:
        console.line()  # there, rich leaves the last line open


def scores_table(summary: Mapping[str, Any], size: int) -> Table:
    """A table of held-out scores.

    Args:
        summary: That of the scores.
        size: Number of data they are means of.
    """
    measure = summary["base_measure"]
    title = (
        f"{size:,} {measure['split']} data of {measure['data']}, binarize: {measure['binarize']}"
    )
    if measure["transform"] not in (None, "none"):
        title += f", {measure['transform']}"
    table = Table(title=title, caption="nats per datum; ± is one standard error", min_width=60)
    table.add_column("held-out score")
    table.add_column("mean", justify="right")
    table.add_column("± over data", justify="right")
    table.add_column("± Monte Carlo", justify="right")
    samples = f"{summary['num_samples']:,} importance samples"
    table.add_row(
        f"log p(x), {samples}",
        _number(summary["log_marginal"]),
        _number(summary["standard_error"]),
        _number(summary["mcse"], 3),
    )
    for key, name in (("elbo", "ELBO"), ("reconstruction", "reconstruction"), ("kl", "KL")):
        table.add_row(name, _number(summary[key]))
    table.add_section()
    if "bits_per_dim" in summary:
        table.add_row("bits per dimension", _number(summary["bits_per_dim"], 4))
    table.add_row("active latent units", str(summary["active_units"]))
    table.add_row("k-hat, median", _number(summary["k_hat_median"]))
    if summary["k_hat_above_threshold"] is not None:
        table.add_row("k-hat too high", f"{summary['k_hat_above_threshold']:.0%} of data")
    return table


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
