"""report.html: the report as one self-contained page, for a wide window and for a phone."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping

STYLE = """
:root { --ink: #1a1a1a; --soft: #555; --line: #ddd; --shade: #f5f5f5; --link: #0072B2; }
* { box-sizing: border-box; }
body { font: 15px/1.5 "DejaVu Sans", Verdana, sans-serif; color: var(--ink); background: #fff;
  margin: 0 auto; padding: 1rem; max-width: 76rem; overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 0.5rem; padding-top: 0.75rem; border-top: 2px solid var(--ink); }
a { color: var(--link); }
ul { padding-left: 1.2rem; }
nav { background: var(--shade); padding: 0.6rem 1rem; font-size: 13px; }
nav ul { margin: 0; padding: 0; list-style: none; columns: 20rem; }
code, pre { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 0.85em; }
code { background: var(--shade); padding: 0 3px; }
pre { background: var(--shade); padding: 0.6rem; white-space: pre-wrap; }
pre code { padding: 0; }
.box { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); }
.long { overflow-y: auto; max-height: 85vh; }
.box table { border-collapse: separate; border-spacing: 0; font-size: 12px; line-height: 1.35; min-width: 100%; }
th, td { padding: 4px 8px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; z-index: 1; background: var(--shade); vertical-align: bottom; }
th, .name { white-space: normal; overflow-wrap: break-word; max-width: 18rem; }
.name:first-child { min-width: 13rem; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; border-right: 1px solid var(--line); }
th:first-child { z-index: 2; background: var(--shade); }
tbody tr:hover td { background: #eaf3f9; }
th button { font: inherit; font-weight: bold; color: inherit; background: none; border: 0; padding: 0; text-align: left;
  cursor: pointer; }
th button::after { content: " \\2195"; color: #999; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--link); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--link); }
.figure { overflow-x: auto; margin: 1rem 0; }
.figure img { display: block; max-width: 100%; height: auto; }
@media (max-width: 700px) {
  body { font-size: 14px; padding: 0.75rem; }
  .name { max-width: 9rem; }
  .name:first-child { min-width: 9rem; }
  .long { overflow-y: auto; max-height: 85vh; }
.box table { font-size: 11px; }
  th, td { padding: 4px 6px; }
  .figure img { max-width: none; width: max(100%, var(--least)); }
}
@media print { .box { max-height: none; overflow: visible; } th, td { position: static !important; white-space: normal; } }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = row => i => row.cells[i].textContent.trim();
  const number = text => /^[+-]?[0-9]/.test(text) ? parseFloat(text.replaceAll(",", "")) : NaN;
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const texts = [...body.rows].map(row => key(row)(i)).filter(Boolean);
      const numeric = texts.length > 0 && texts.every(text => !Number.isNaN(number(text)));
      const before = head.getAttribute("aria-sort");
      const up = before ? before === "descending" : !numeric;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (a, b) => numeric ? number(a) - number(b) : a.localeCompare(b);
      const rows = [...body.rows].map(row => [key(row)(i), row]);
      rows.sort(([a], [b]) => !a || !b ? !a - !b : up ? compare(a, b) : compare(b, a));
      body.append(...rows.map(([, row]) => row));
    };
  });
}
"""
"""a click on a column's head sorts by it: numbers from the largest, names from A, again the other way; empty cells last"""
BREAKS = r"(?<=[_/\[])(?=\w)"
LONG = 80
"""rows beyond which a table scrolls up and down as well, under its head"""
POINTS_PER_PIXEL = 2 / 3
"""of a figure on a phone: as small as its text can still be read; it scrolls in its own box"""


def _boxed(match: re.Match[str]) -> str:
    """A table in a box of its own, in which it scrolls if it is wide or long; its names may break where words in them end."""
    table = re.sub(r"<td>(?=[^<\d+-])", '<td class="name">', match[0])
    table = re.sub(r"(?<=<th>)[^<]+|(?<=<td class=\"name\">)[^<]+", lambda m: re.sub(BREAKS, "<wbr>", m[0]), table)
    kind = "box long" if table.count("<tr>") > LONG else "box"
    return f'<div class="{kind}" tabindex="0">{table}</div>'


def page(markdown: str, figures: Mapping[str, bytes]) -> str:
    """The Markdown of a report (headings, tables, lists, figures) as HTML with every figure inside.

    Raises ValueError for a figure that the text names and that was not drawn.

    Args:
        figures: PNGs by name.
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)

    def inline(match: re.Match[str]) -> str:
        name = html.unescape(match[1]).removesuffix(".png")
        if name not in figures:
            raise ValueError(f"the report names a figure {name!r} that was not drawn")
        image = figures[name]
        least = round(int.from_bytes(image[16:20], "big") * POINTS_PER_PIXEL)  # a PNG says its width there
        data = base64.b64encode(image).decode()
        return (
            f'<div class="figure" style="--least: {least}px"><img src="data:image/png;base64,{data}" '
            f'alt="figure: {html.escape(name)}"></div>'
        )

    body = re.sub(r'<p><img src="([^"]+)"[^>]*></p>', inline, body)
    body = re.sub(r"<table>.*?</table>", _boxed, body, flags=re.DOTALL)
    sections = list(re.finditer(r"<h2>(.*?)</h2>", body))
    links = "".join(f'<li><a href="#s{i}">{match[1]}</a></li>' for i, match in enumerate(sections))
    for i, match in enumerate(sections):
        body = body.replace(match[0], f'<h2 id="s{i}">{match[1]}</h2>', 1)
    body = body.replace("</h1>", f"</h1>\n<nav><ul>{links}</ul></nav>" if links else "</h1>", 1)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Evaluation report</title>'
        f"<style>{STYLE}</style></head><body>\n{body}<script>{SCRIPT}</script></body></html>\n"
    )
