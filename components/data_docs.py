"""The result pages of a validation: one of our own, and Great Expectations' behind it, both whole without a network.

Nothing on them tells the time, so that the same data give the same bytes.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

TITLES = {"rows": "Checks of every row", "dataset": "Checks of the accepted rows as a whole"}
SHOWN = 50  # rejected rows on the page; all of them are in quarantine
STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       overflow-wrap: break-word }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #8884 }
.bad { color: #c0392b; font-weight: 600 } .good { color: #2e8b57 } small { color: #888 }
code { font-size: .9em }
.badge { border: 1px solid #8886; border-radius: .3rem; padding: 0 .3rem }
.fa-check-circle::before { content: "holds"; color: #2e8b57 } .fa-times::before { content: "fails"; color: #c0392b }
"""
DROPPED = r"<(script|style|nav|footer)\b.*?</\1>|<(link|img|input)\b[^>]*>"  # what needs a network, or leads nowhere
HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'


def write(results: Mapping[str, Any], directory: Path, *, title: str, rejected: Sequence[tuple[str, str]]) -> None:
    """`index.html`, with every check and the first rejected rows (id, reason); Great Expectations' pages beside it."""
    for name, result in results.items():
        (directory / f"{name}.html").write_text(_theirs(result, TITLES.get(name, name)), encoding="utf-8")
    (directory / "index.html").write_text(_index(results, title, rejected), encoding="utf-8")


def _index(results: Mapping[str, Any], title: str, rejected: Sequence[tuple[str, str]]) -> str:
    parts = [HEAD, f"<title>Data checks</title><style>{STYLE}</style><h1>Data checks</h1><p>{escape(title)}</p>"]
    for name, result in results.items():
        lines = "".join(_line(entry) for entry in result.results)
        parts.append(
            f"<h2>{escape(TITLES.get(name, name))}</h2><table><tr><th>outcome<th>on<th>expectation<th>seen</tr>"
            f'{lines}</table><p><a href="{name}.html">Great Expectations\' own page</a></p>'
        )
    if rejected:
        lines = "".join(f"<tr><td><code>{escape(row)}</code><td>{escape(why)}" for row, why in rejected[:SHOWN])
        more = f"<p>and {len(rejected) - SHOWN:,} more, all in quarantine</p>" if len(rejected) > SHOWN else ""
        parts.append(f"<h2>Rejected rows</h2><table><tr><th>id<th>why</tr>{lines}</table>{more}")
    return "".join(parts)


def _theirs(result: Any, title: str) -> str:
    """Great Expectations' page without its frame, which needs style sheets and scripts from elsewhere."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    for entry in result.results:
        entry.result.pop("unexpected_index_query", None)  # the number of every failing row, once more
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
    return (
        f"<tr>{outcome}<td><code>{escape(str(config.kwargs.get('column', 'table')))}</code>"
        f"<td>{escape(words)}<br><small>{escape(said)}</small><td>{escape(seen)}"
    )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
