"""Great Expectations' own result pages, made to read well without a network: its links to style sheets replaced."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TITLES = {"rows": "Row checks", "dataset": "Dataset checks"}
STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .35rem .8rem .35rem 0 }
td { vertical-align: top }
tr + tr td { border-top: 1px solid #8884 } .bad { color: #c0392b; font-weight: 600 } .good { color: #2e8b57 }
iframe { width: 100%; height: 70vh; border: 1px solid #8884 } code { font-size: .9em }
"""


def write(results: Mapping[str, Any], directory: Path) -> None:
    """`index.html`, one line per expectation, and below it Great Expectations' page of each part, `<part>.html`."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    for name, result in results.items():
        page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
        (directory / f"{name}.html").write_text(_self_contained(page), encoding="utf-8")
    (directory / "index.html").write_text(_index(results), encoding="utf-8")


def _index(results: Mapping[str, Any]) -> str:
    parts = [f"<title>Data checks</title><style>{STYLE}</style><h1>Data checks</h1>"]
    for name, result in results.items():
        lines = "".join(_line(entry) for entry in result.results)
        parts.append(
            f"<h2>{TITLES.get(name, name)}</h2><table><tr><th>outcome<th>expectation<th>on<th>failing rows</tr>{lines}"
            f'</table><p><a href="{name}.html">Great Expectations\' own page</a></p>'
        )
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return head + "".join(parts)


def _line(entry: Any) -> str:
    config = entry.expectation_config
    values = {k: v for k, v in config.kwargs.items() if k not in ("column", "batch_id")}
    said = ", ".join(f"{key} {value}" for key, value in values.items())
    word = "<td class=good>holds" if entry.success else "<td class=bad>fails"
    title = config.type.removeprefix("expect_").replace("_", " ")
    failing = entry.result.get("unexpected_count", entry.result.get("observed_value", ""))
    column = config.kwargs.get("column", "table")
    said, failing = _escaped(said), _escaped(str(failing))
    return f"<tr>{word}<td>{title}<br><small>{said}</small><td><code>{column}</code><td>{failing}"


def _self_contained(page: str) -> str:
    """The page without what it would load from elsewhere."""
    page = re.sub(r"<script[^>]*\bsrc=[^>]*>\s*</script>", "", page)
    page = re.sub(r"<link[^>]*>", "", page)
    page = re.sub(r"<img[^>]*\bsrc=\"http[^>]*>", "", page)
    return page.replace("</head>", f"<style>{STYLE}</style></head>", 1)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
