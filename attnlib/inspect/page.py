"""One self-contained offline HTML page that shows what attention did: maps, lines, texts, writing, figures of heads."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from attnlib.errors import UsageError
from attnlib.inspect.exhibit import Exhibit, exhibit_data
from attnlib.inspect.files import write_whole
from attnlib.inspect.maps import AttentionMap, visible
from attnlib.inspect.packing import digest, script_json

__all__ = ["AttentionMap", "Page", "attention_page", "write_attention_page"]

_SCRIPTS = (
    "data.js", "rows.js", "grid.js", "head.js", "draw.js", "lens.js", "words.js", "text.js", "lines.js", "matrix.js",
    "cross.js", "writing.js", "report.js", "compare.js", "views.js", "app.js",
)  # fmt: skip
_HEIGHT = 720  # of the frame in a notebook, in CSS pixels


@dataclass(frozen=True, eq=False)
class Page:
    """A page of one exhibit, or of two side by side: another model on the same text, or another text.

    html:  its text. `write(path)` puts it into a file, whole or not at all. In a notebook the page shows itself.
    """

    exhibits: tuple[Exhibit, ...]
    title: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.exhibits) <= 2:
            raise UsageError("attention page", f"has {len(self.exhibits)} exhibits", "wanted one, or two to compare")
        if not all(one.maps for one in self.exhibits):
            raise UsageError("attention page", "there are no maps", "wanted at least one")

    def beside(self, other: Page) -> Page:
        """Both exhibits on one page."""
        return Page((*self.exhibits, *other.exhibits), self.title)

    @cached_property
    def html(self) -> str:
        """The page as text: no request, no style and no script but its own, which its content security policy names."""
        web = resources.files("attnlib.inspect") / "web"
        style = (web / "page.css").read_text(encoding="utf-8")
        body = "\n".join((web / name).read_text(encoding="utf-8") for name in _SCRIPTS)
        script = f'"use strict";\n(() => {{\n{body}}})();\n'
        name = visible(self.title, spaces=False).strip() or "Attention"
        data = {"title": name, "exhibits": [exhibit_data(one, len(self.exhibits)) for one in self.exhibits]}
        parts = {
            "policy": f"default-src 'none'; img-src data:; style-src {digest(style)}; script-src {digest(script)}; "
            "base-uri 'none'; form-action 'none'",
            "title": html.escape(name),
            "style": style,
            "script": script,
            "data": script_json(data),
        }
        template = (web / "page.html").read_text(encoding="utf-8")
        return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)  # one pass: no text is read twice

    def write(self, path: str | Path) -> None:
        """Raises UsageError when the file cannot be written."""
        write_whole(path, self.html.encode("utf-8"))

    def _repr_html_(self) -> str:
        """The same page in a frame of its own, which may run its script and nothing else."""
        inside = self.html.replace("&", "&amp;").replace("'", "&#39;")
        frame = f"width:100%;height:{_HEIGHT}px;border:1px solid #8884;border-radius:8px"
        return f"<iframe sandbox='allow-scripts' title='Attention' style='{frame}' srcdoc='{inside}'></iframe>"


def attention_page(maps: Sequence[AttentionMap], *, title: str) -> str:
    """HTML text of a page of maps alone, with no network: a grid of layers x heads, each head in full, and the rest.

    Short texts carry their weights as float16. Above 2 million cells in all they travel as bytes,
    `peak * (b / 255)**2`; above 4 million as such bytes of the mean of tiles, at most 256 a side, and the page says so.
    Raises UsageError when there is no map.
    """
    return Page((Exhibit(tuple(maps)),), title).html


def write_attention_page(maps: Sequence[AttentionMap], path: str | Path, *, title: str) -> None:
    """Write `attention_page` to `path`, whole or not at all. Raises UsageError when the file cannot be written."""
    Page((Exhibit(tuple(maps)),), title).write(path)
