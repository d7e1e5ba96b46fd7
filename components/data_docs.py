"""The result pages of a validation: one of our own, and Great Expectations' behind it, both whole without a network.

Nothing on them tells the time, so that the same data give the same bytes.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

TITLES = {"rows": "Checks of every row", "dataset": "Checks of the accepted rows as a whole"}
SHOWN = 50  # rejected rows on the page; all of them are in quarantine
STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       overflow-wrap: break-word }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem } h5 { font-size: 1rem; margin: 2rem 0 .3rem }
h6 { font-size: .9rem; margin: 1rem 0 0 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #8884 }
.bad { color: #c0392b; font-weight: 600 } .good { color: #2e8b57 } small { color: #767676 }
@media (prefers-color-scheme: dark) { .bad { color: #ff7b6b } .good { color: #5fc98f } small { color: #999 } }
code { font-size: .9em } .long { overflow-wrap: anywhere } i { font-style: normal }
.badge { border: 1px solid #8886; border-radius: .3rem; padding: 0 .3rem }
td .fa-check-circle::before { content: "holds"; color: #2e8b57 }
td .fa-times::before { content: "fails"; color: #c0392b }
@media (max-width: 40rem) { body { font-size: 14px; margin-top: 1rem } table { display: block; overflow-x: auto } }
"""
DROPPED = r"<(script|style)\b.*?</\1>|<(link|img|input)\b[^>]*>"  # what needs a network, or leads nowhere
HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)


@dataclass(frozen=True)
class Summary:
    """What was checked and what came of it. `rejected` names the first `SHOWN` rejected rows with their reasons."""

    source: str
    version: str
    accepted: Mapping[str, int]  # rows by side
    rejected: Sequence[tuple[str, str]]
    faults: Mapping[str, int]  # rejected rows by their first fault
    problems: Sequence[str]  # why nothing may be trained on it; empty where it may
    excluded: Mapping[str, int] = field(default_factory=dict)  # rows that were left out before any check, by why


def write(results: Mapping[str, Any], directory: Path, summary: Summary) -> None:
    """`index.html`, with the summary and every check; Great Expectations' own page of each part beside it."""
    for name, result in results.items():
        (directory / f"{name}.html").write_text(_theirs(result, TITLES.get(name, name)), encoding="utf-8")
    parts = [*_head(summary), *(_part(name, result) for name, result in results.items()), *_rejected(summary)]
    (directory / "index.html").write_text("".join(parts) + "</html>\n", encoding="utf-8")


def _head(summary: Summary) -> list[str]:
    """What was checked, how it went, and the faults counted."""
    sides = ", ".join(f"{count:,} {side.replace('_', ' ')}" for side, count in sorted(summary.accepted.items()))
    kept, lost = sum(summary.accepted.values()), sum(summary.faults.values())
    verdict = (
        '<b class="bad">rejected</b>: nothing was trained on it' if summary.problems else '<b class="good">accepted</b>'
    )
    parts = [
        HEAD,
        f"<title>Data checks: {escape(summary.source)}</title><style>{STYLE}</style>",
        f"<h1>Data checks of <code>{escape(summary.source)}</code></h1><p>The dataset is {verdict}.</p>",
        "".join(f"<p>{escape(problem)}.</p>" for problem in summary.problems),
        f"<table><tr><th>version<td><code class=long>{escape(summary.version)}</code>",
        f"<tr><th>rows<td>{kept + lost:,}<tr><th>accepted<td>{kept:,}{f' ({escape(sides)})' if sides else ''}",
        f"<tr><th>in quarantine<td>{lost:,}</table>",
    ]
    if summary.faults:
        lines = "".join(f"<tr><td>{escape(fault)}<td>{count:,}" for fault, count in summary.faults.items())
        parts.append(f"<h2>Why rows are in quarantine</h2><table><tr><th>first fault<th>rows</tr>{lines}</table>")
    if summary.excluded:
        lines = "".join(f"<tr><td>{escape(why)}<td>{count:,}" for why, count in summary.excluded.items())
        told = "<p>They are in no side and were not checked: neither trained on nor measured with.</p>"
        parts.append(f"<h2>Excluded rows</h2>{told}<table><tr><th>why<th>rows</tr>{lines}</table>")
    return parts


def _part(name: str, result: Any) -> str:
    lines = "".join(_line(entry) for entry in result.results)
    return (
        f"<h2>{escape(TITLES.get(name, name))}</h2><table><tr><th>outcome<th>on<th>expectation<th>seen</tr>{lines}"
        f'</table><p><a href="{escape(name)}.html">Great Expectations\' own page</a></p>'
    )


def _rejected(summary: Summary) -> list[str]:
    if not summary.rejected:
        return []
    lines = "".join(f"<tr><td><code class=long>{escape(row)}</code><td>{escape(why)}" for row, why in summary.rejected)
    left = sum(summary.faults.values()) - len(summary.rejected)
    more = f"<p>and {left:,} more, all in quarantine</p>" if left > 0 else ""
    return [f"<h2>Rejected rows</h2><table><tr><th>id<th>why</tr>{lines}</table>{more}"]


def _theirs(result: Any, title: str) -> str:
    """Great Expectations' page without its frame, which needs style sheets and scripts from elsewhere."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    result = deepcopy(result)
    for entry in result.results:
        entry.result.pop("unexpected_index_query", None)  # the number of every failing row, once more
        entry.result.update({key: _escaped(value) for key, value in entry.result.items()})
    document = ValidationResultsPageRenderer().render(result)
    overview = document.sections[0]  # its last block tells when this ran and in which process
    overview.content_blocks = [block for block in overview.content_blocks if block.content_block_type != "collapse"]
    page = DefaultJinjaPageView().render(document)
    body = page[page.index('<div id="section-1"') : page.index("<footer>")]
    body = re.sub(DROPPED, "", body, flags=re.DOTALL)
    body = re.sub(r'<a href="[^"#][^>]*>(.*?)</a>', r"\1", body, flags=re.DOTALL)
    back = '<p><a href="index.html">All checks</a></p>'
    return f"{HEAD}<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{back}{body}"


def _line(entry: Any) -> str:
    config = entry.expectation_config
    arguments = {key: value for key, value in config.kwargs.items() if key not in ("column", "batch_id")}
    said = ", ".join(f"{key} {_shown(value)}" for key, value in arguments.items())
    words = config.type.removeprefix("expect_").replace("_", " ")
    failing, observed = entry.result.get("unexpected_count"), entry.result.get("observed_value")
    seen = f"{failing:,} failing" if failing is not None else "" if observed is None else _shown(observed)
    outcome = '<td class="good">holds' if entry.success else '<td class="bad">fails'
    fault = "" if entry.success else f'<br><span class="bad">{escape(str(config.meta.get("fault", "")))}</span>'
    return (
        f"<tr>{outcome}<td><code>{escape(str(config.kwargs.get('column', 'table')))}</code>"
        f"<td>{escape(words)}<br><small>{escape(said)}</small>{fault}<td>{escape(seen)}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _escaped(value: Any) -> Any:
    """The value with every text in it escaped, as their templates leave it to their caller."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Mapping):
        return {key: _escaped(entry) for key, entry in value.items()}
    return [_escaped(entry) for entry in value] if isinstance(value, list | tuple) else value
