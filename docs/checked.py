"""A Sphinx extension that looks at the pages once they are written, without a network.

A link or a picture that leads nowhere is a warning, and so are a cell that is to draw a picture and
does not, a picture that has no words for those who do not see it, and an output that a reader would
take for a fault. Of what cells write to standard error, and of cells that fail, MyST-NB warns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from docutils import nodes
from sphinx.util import logging

_LOG = logging.getLogger(__name__)
_FAULTS = re.compile(
    r"Traceback \(most recent call last\)|\b\w*Warning: |<[\w.]+ (?:object )?at 0x\w+>|<Axes: "
)
_EMPTY = ("img", "br", "hr", "meta", "link", "input", "source", "wbr")


class _Page(HTMLParser):
    """The ids of a page, what it links to, the words of its pictures, and what cells put out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.wordless: list[str] = []
        self.output = ""
        self._depth = 0  # of elements within an output
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.add(found.get("id", ""))
        link = found.get("href") if tag in ("a", "link") else found.get("src")
        if link:
            self.links.append(link)
        if tag == "img" and _is_empty(found.get("alt", "")):
            self.wordless.append(found.get("src", ""))
        if tag not in _EMPTY and (self._depth or "cell_output" in found.get("class", "").split()):
            self._depth += 1

    def handle_endtag(self, tag: str) -> None:
        if self._depth and tag not in _EMPTY:
            self._depth -= 1

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.output += data


def _is_empty(alt: str) -> bool:
    """Whether there are no words, or the path of the picture, which docutils writes then."""
    return not alt.strip() or re.fullmatch(r"\S+\.(?:png|svg|jpe?g)", alt) is not None


def _ids(page: _Page | None) -> set[str]:
    return set() if page is None else page.ids


def faults(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with the HTML pages of a folder: the page, and a sentence."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    for path, page in sorted(pages.items()):
        name = str(path.relative_to(folder))
        for link in page.links:
            there = urlsplit(link)
            if there.scheme or there.netloc:
                continue
            target = (path.parent / unquote(there.path)).resolve() if there.path else path
            if not target.exists():
                yield name, f"a link leads nowhere: {link}"
            elif there.fragment and unquote(there.fragment) not in _ids(pages.get(target)):
                yield name, f"a link leads to no place of its page: {link}"
        for picture in page.wordless:
            yield name, f"a picture has no words: {picture}"
        for found in _FAULTS.finditer(page.output):
            yield name, f"an output shows {found.group()!r}"


def _drawn(app: Any, doctree: nodes.document) -> None:
    """Warns of cells whose picture has words, but which draw none."""
    for cell in doctree.findall(nodes.container):
        asked = cell.get("cell_metadata", {}).get("mystnb", {})
        if "image" in asked and next(cell.findall(nodes.image), None) is None:
            _LOG.warning("a cell draws no picture: %s", asked["image"], location=cell)


def _look(app: Any, failure: Exception | None) -> None:
    if failure is None and app.builder.format == "html":
        for page, what in faults(Path(app.outdir).resolve()):
            _LOG.warning("%s", what, location=page.removesuffix(".html"))


def setup(app: Any) -> dict[str, bool]:
    """Connects what is above."""
    app.connect("doctree-read", _drawn)
    app.connect("build-finished", _look)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
