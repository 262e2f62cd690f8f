"""report.html: the report as one self-contained page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 12px; display: block; overflow-x: auto; }
th, td { padding: 3px 8px; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
img { max-width: 100%; height: auto; }
code { background: #f3f3f3; padding: 0 3px; }
"""


def page(markdown: str, figures: Mapping[str, bytes]) -> str:
    """The Markdown of a report (headings, tables, lists, figures) as HTML with every figure inside.

    Raises ValueError for a figure that the text names and that was not drawn.
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)

    def inline(match: re.Match[str]) -> str:
        name = html.unescape(match[1]).removesuffix(".png")
        if name not in figures:
            raise ValueError(f"the report names a figure {name!r} that was not drawn")
        data = base64.b64encode(figures[name]).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^"]+)"', inline, body)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Evaluation report</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}</body></html>\n"
    )
