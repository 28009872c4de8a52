"""Elements of HTML. What is no markup already is escaped, so that nothing need remember to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["Html", "join", "shown", "table", "tag"]

_NO_NUMBER = ("missing", "nan", "inf", "none")
_VOID = ("img", "meta", "link", "br")
# Of a notebook: its own colours, light or dark, and lines that show on both.
_LINE = "1px solid rgba(128, 128, 128, 0.4)"
_CELL = f"padding: 0.2em 0.7em; border: 0; border-bottom: {_LINE}; vertical-align: top; "
_TABLE = "border-collapse: collapse; border: 0; background: none; color: inherit; margin: 0.3em 0"


class Html(str):
    """Markup that is safe as it stands."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element; text within it and in its attributes is escaped.

    Args:
        name: Of the element.
        children: Markup, or anything else by its text.
        attributes: By name; ``class_`` is ``class``, and what is None is left out.

    Example:
        >>> tag("p", "x < 1, ", tag("b", "z"), class_="note")
        '<p class="note">x &lt; 1, <b>z</b></p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>" + ("" if name in _VOID else f"{join(*children)}</{name}>"))


def join(*children: object) -> Html:
    """Markup and text, one after the other."""
    return Html("".join(each if isinstance(each, Html) else escape(str(each)) for each in children))


def table(
    head: Sequence[object], rows: Sequence[Sequence[object]], *, text: int = 1, **attributes: object
) -> Html:
    """A table that scrolls in a box of its own where it is too wide.

    Args:
        head: Of the columns.
        rows: Of cells.
        text: How many columns hold text; of those after them numbers are aligned, words are not.
        attributes: Of the table.
    """
    kinds = [
        None if i < text or _are_words(row[i] for row in rows) else "number"
        for i in range(len(head))
    ]
    top = tag(
        "tr", *(tag("th", h, scope="col", class_=k) for h, k in zip(head, kinds, strict=True))
    )
    body = [
        tag("tr", *(tag("td", cell, class_=k) for cell, k in zip(row, kinds, strict=True)))
        for row in rows
    ]
    inside = tag("table", tag("thead", top), tag("tbody", *body), **attributes)
    # A box that scrolls can be reached by the keyboard.
    return tag("div", inside, class_="scroll", tabindex=0, role="group")


def _are_words(cells: Iterable[object]) -> bool:
    """Whether some cells of a column begin with a letter; what is not known stands for a number."""
    texts = (re.sub("<[^>]*>", "", str(cell)).strip() for cell in cells)
    return any(text[:1].isalpha() and text.split()[0] not in _NO_NUMBER for text in texts)


def shown(
    title: object,
    head: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    notes: Sequence[object] = (),
    text: int = 1,
    first: int | None = None,
) -> Html:
    """A table that a notebook shows in place of an object; it needs nothing beside itself.

    Args:
        title: Above the table.
        head: Of the columns.
        rows: Of cells.
        notes: Sentences below the table, a line each.
        text: How many columns hold text; of those after them numbers are aligned, words are not.
        first: How many rows are shown at once; those after them are folded. All if not given.
    """
    aligned = [
        "left" if i < text or _are_words(row[i] for row in rows) else "right"
        for i in range(len(head))
    ]

    def line(name: str, cells: Sequence[object], weight: str) -> Html:
        styles = [f"{_CELL}text-align: {side}; font-weight: {weight}" for side in aligned]
        return tag("tr", *(tag(name, cell, style=s) for cell, s in zip(cells, styles, strict=True)))

    body = [line("td", row, "normal") for row in rows]
    top = tag("thead", line("th", head, "bold"))
    inside = [tag("table", top, tag("tbody", *body[:first]), style=_TABLE)]
    if folded := [] if first is None else body[first:]:
        what = "1 more row" if len(folded) == 1 else f"{len(folded):,} more rows"
        more = tag("summary", what, style="cursor: pointer")
        inside.append(tag("details", more, tag("table", top, tag("tbody", *folded), style=_TABLE)))
    below = [tag("div", note, style="opacity: 0.8") for note in notes]
    heading = tag("div", title, style="font-weight: bold")
    return tag("div", heading, *inside, *below, style="overflow-x: auto")
