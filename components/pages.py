"""What pages for a person share: one HTML file that needs nothing beside it, light and dark, wide and narrow."""

from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d8dce0, #3a3f45); --dim: light-dark(#5a6570, #9aa4ae);
  --good: light-dark(#12692b, #6fd08c); --bad: light-dark(#a4161a, #ff8d87); --warn: light-dark(#8a4b00, #f2b05e);
  --mark: light-dark(#ffe08a, #6b5200); --ink: light-dark(#2457a6, #8ab4f8); }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 1500px; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; } p { margin: .25rem 0; } .dim, small { color: var(--dim); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .75rem 0; } a { color: var(--ink); }
.sheets { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); gap: 1.25rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .75rem; }
.sheets figure, .curve { min-width: 0; max-width: 640px; }
img { width: 100%; image-rendering: pixelated; display: block; border-radius: 4px; }
audio { width: 100%; margin-top: .5rem; }
pre { margin: 0; max-height: 30rem; overflow: auto; font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
mark { background: var(--mark); color: inherit; }
figcaption { margin-top: .5rem; font-size: .9rem; } .passed { color: var(--good); } .failed { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: .5rem 0 0; font-size: .9rem; }
dt { color: var(--dim); } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.warning { margin: .5rem 0 0; padding-left: .6rem; border-left: 3px solid; color: var(--warn); font-size: .9rem;
  overflow-wrap: anywhere; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(220px, 100%), 1fr)); gap: .75rem; }
.curve { padding: .5rem; } .curve svg { width: 100%; display: block; }
.curve polyline { fill: none; stroke: var(--ink); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td { max-width: 22rem; } td small { display: block; }
th:first-child, td:first-child { text-align: left; min-width: 9rem; padding-left: 0; }
th { font-weight: 600; white-space: nowrap; }
dl + h3, .curves + h3, dl + .curves { margin-top: 1rem; }
"""


def whole(title: str, heading: str, outcome: str, sections: Mapping[str, str], *, style: str = "") -> str:
    """A page of sections, each with its link at the top; all but the sections' names are HTML already.

    `style` is what the page has beyond the others.
    """
    inside = "\n".join(
        f'<section id="{name}"><h2>{name.title()}</h2>\n{body}</section>' for name, body in sections.items()
    )
    links = "".join(f'<a href="#{name}">{name}</a>' for name in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>\n'
        f"<body>\n<h1>{heading}</h1>\n<p>{outcome}</p>\n<nav>{links}</nav>\n{inside}\n</body></html>\n"
    )


def facts(told: Mapping[str, str]) -> str:
    """What is known of something, as names and values; both are text."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in told.items())}</dl>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already, the head is text."""
    top = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
