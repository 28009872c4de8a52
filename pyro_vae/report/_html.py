"""Elements of HTML. What is no markup already is escaped, so that nothing need remember to."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["Html", "join", "table", "tag"]

_VOID = ("img", "meta", "link", "br")


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
        text: How many columns hold text; those after them hold numbers, and are aligned.
        attributes: Of the table.
    """
    kinds = [None if i < text else "number" for i in range(len(head))]
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
