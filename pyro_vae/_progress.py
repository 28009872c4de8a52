"""What a person sees while something runs: a bar, and the figures of the last epoch.

On a terminal it is drawn by rich. In a notebook it is one output, which is replaced as the work
goes on, so that the stored notebook has its last state, once: HTML that needs no widgets, and plain
text beside it.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from pyro_vae._console import Terminal
from pyro_vae._errors import plural
from pyro_vae._html import Html, tag

__all__ = ["Monitor", "displayed", "figures", "in_notebook", "live", "per_second"]

_SPACE = "\u00a0"  # at which no line breaks
_PAUSE = 0.2  # seconds between two updates of a notebook's output, which are messages to a browser
_WIDTH = 100  # columns of the plain text in a notebook


class Monitor:
    """Shows how far a fit or an evaluation is, and how good the model."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description:<15}", style="bold", markup=False),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
        )
        self._line = Text()
        self.changed: Callable[[], None] = _nothing

    def __rich__(self) -> Group:
        return Group(self._bar, self._line) if self._line else Group(self._bar)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """What a notebook stores: without colours, and without anything that needs a kernel."""
        text = io.StringIO()
        console = Terminal(file=text, width=_WIDTH, color_system=None)
        console.print(self)
        plain = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
        return {"text/plain": plain, "text/html": str(self._html())}

    def _html(self) -> Html:
        rows = []
        for task in self._bar.tasks:
            elapsed = int(task.elapsed or 0)
            words = [f"{task.percentage:.0f}%", f"{elapsed // 60}:{elapsed % 60:02d}"]
            if task.fields["speed"]:
                words.append(task.fields["speed"])
            total = task.total or 1
            bar = tag(
                "progress", value=f"{task.completed:g}", max=f"{total:g}", style="width: 16em"
            )
            name = tag("span", task.description, style="display: inline-block; min-width: 9em")
            rows.append(tag("div", name, bar, f" {' · '.join(words)}"))
        if self._line:
            # Browsers make one space of several.
            rows.append(tag("div", str(self._line).replace("  ", " · ")))
        return tag("div", *rows, style="font-variant-numeric: tabular-nums")

    def fitting(self, epochs: int, steps: int, *, bound: bool) -> Any:
        """Returns what takes in the history line by line.

        Args:
            epochs: Epochs to come.
            steps: Optimiser steps an epoch.
            bound: Whether minus the loss is a lower bound of log p(x).
        """
        self._line = Text("preparing the first step (compiling takes up to a minute)", style="dim")
        task = self._bar.add_task("fit", total=epochs, speed="")
        self.changed()

        def on_epoch(line: Mapping[str, float]) -> None:
            epoch = int(line["epoch"])
            speed = per_second(steps * epoch / max(line["seconds"], 1e-9))
            name = f"{epoch}/{epochs} epochs"  # that are behind: the next one is on its way
            self._bar.update(task, completed=epoch, description=name, speed=speed)
            words = figures(line)
            words[-1] += "" if bound else " (not a bound)"
            # 80 columns hold it; a narrower line breaks between two figures, not within one.
            self._line = Text("  ".join(word.replace(" ", _SPACE) for word in words))
            self.changed()

        return on_epoch

    def selecting(self) -> Any:
        """Returns what takes in the number of fits done, the number in all, and what is next."""
        task = self._bar.add_task("select", speed="")

        def on_fit(done: int, total: int, what: str) -> None:
            name = "select" if done == total else f"fit {done + 1}/{total}"
            self._bar.update(task, completed=done, total=total, description=name)
            self._line = Text(what)
            self.changed()

        return on_fit

    def evaluating(self, what: str = "evaluate") -> Any:
        """Returns what takes in the fraction of an evaluation that is done."""
        task = self._bar.add_task(what, total=1.0, speed="")

        def on_fraction(done: float) -> None:
            self._bar.update(task, completed=done)
            self.changed()

        return on_fraction


def per_second(steps: float) -> str:
    """Returns how many steps a second are taken.

    Example:
        >>> per_second(1234.5), per_second(1.2), per_second(0.25)
        ('1,234 steps/s', '1 step/s', '0.25 steps/s')
    """
    return f"{plural(round(steps), 'step')}/s" if steps >= 0.95 else f"{steps:.2g} steps/s"


def figures(line: Mapping[str, float]) -> list[str]:
    """Returns the figures of an epoch to be shown, in short, each with its name."""
    shown = {"ELBO": "elbo", "val.": "validation_elbo", "recon.": "reconstruction"}
    if "validation_bound" in line:  # that by which the epoch is chosen
        shown["val."] = "validation_bound"
    shown |= {"KL": "kl", "loss": "loss"}
    return [f"{name} {_brief(line[key])}" for name, key in shown.items() if key in line]


@contextmanager
def live() -> Iterator[Monitor]:
    """Shows a monitor on standard error until the block ends; an error erases it."""
    monitor, console = Monitor(), Terminal(stderr=True)
    # What is printed meanwhile goes above the bar, unless it goes to a file.
    printed = sys.stdout is not None and sys.stdout.isatty()
    with Live(monitor, console=console, refresh_per_second=8, redirect_stdout=printed) as shown:
        try:
            yield monitor
        except BaseException:
            shown.update("")
            shown.transient = True
            raise
    if not console.is_terminal:
        console.line()  # there, rich leaves the last line open


@contextmanager
def displayed(progress: bool | None) -> Iterator[Monitor | None]:
    """Shows a monitor in the notebook or on the terminal if there is one; yields None if not.

    Args:
        progress: Whether to show it, wherever output goes; None where somebody may be looking: in a
            notebook, or where standard error is a terminal, but not in tests that pytest runs.
    """
    if progress is None:
        progress = "PYTEST_CURRENT_TEST" not in os.environ and (in_notebook() or _on_terminal())
    if not progress:
        yield None
    elif in_notebook():
        with _in_output() as monitor:
            yield monitor
    else:
        with live() as monitor:
            yield monitor


def in_notebook() -> bool:
    """Returns whether a notebook shows what this process displays."""
    return Terminal(force_jupyter=None).is_jupyter


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def _in_output() -> Iterator[Monitor]:
    """Shows a monitor as one output of a notebook; its last state stays, after an error too."""
    from IPython.display import display

    monitor = Monitor()
    handle = display(monitor, display_id=True)
    last = time.monotonic()

    def update() -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _PAUSE:
            handle.update(monitor)
            last = now

    monitor.changed = update
    try:
        yield monitor
    finally:
        handle.update(monitor)


def _nothing() -> None:
    """Does nothing: a terminal is drawn from time to time, whatever has changed."""


def _brief(value: float) -> str:
    """Seven characters at most, for anything below a million."""
    return f"{value:.{2 if abs(value) < 999.9 else 1 if abs(value) < 9999.9 else 0}f}"
