"""Where tables are printed: text is text, whatever is in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from pyro_vae._terminal import shown_lines

__all__ = ["Terminal"]


class Terminal(Console):
    """Creates a console without markup, so that ``[/x]`` or ``:x:`` in a name is what it says.

    What a terminal would take for commands is written out, see :mod:`pyro_vae._terminal`.

    Args:
        stderr: Whether to print to standard error.
        options: Others of rich's console, such as ``width``.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        options = {"force_jupyter": False} | options
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """Makes a text of a string, with the width that it is shown with."""
        return super().render_str(shown_lines(text), **kwargs)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Makes segments of anything: texts that were put together elsewhere come here too."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else shown_lines(text), style, control)
