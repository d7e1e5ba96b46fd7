"""The page of a run: what every candidate draws from the same seeds, side by side, what it cost, and how each did.

One HTML file that needs nothing beside it, light and dark, for wide and narrow screens.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import fmean

from components.records import Check, Trained, Verdict
from components.store import Store

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d8dce0, #3a3f45); --dim: light-dark(#5a6570, #9aa4ae);
  --good: light-dark(#12692b, #6fd08c); --bad: light-dark(#a4161a, #ff8d87); --warn: light-dark(#8a4b00, #f2b05e); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 1500px; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 0 0 .5rem; } p { color: var(--dim); }
.sheets { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); gap: 1.25rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .75rem; }
img { width: 100%; image-rendering: pixelated; display: block; border-radius: 4px; }
audio { width: 100%; margin-top: .5rem; }
pre { margin: 0; max-height: 30rem; overflow: auto; font-size: .8rem; white-space: pre-wrap; }
figcaption { margin-top: .5rem; font-size: .9rem; } .passed { color: var(--good); } .failed { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: .5rem 0 0; font-size: .9rem; }
dt { color: var(--dim); } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.warning { margin: .5rem 0 0; padding-left: .6rem; border-left: 3px solid; color: var(--warn); font-size: .9rem;
  overflow-wrap: anywhere; }
.table { overflow-x: auto; margin-top: 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .8rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; }
th { font-weight: 600; } td small { color: var(--dim); }
"""


def page(verdicts: Sequence[Verdict], trained: Sequence[Trained], *, winner: str | None, store: Store) -> str:
    """The page as HTML, for the candidates of one run, each with its training at the same place of `trained`.

    `winner` names the candidate that was registered, if one was.
    """
    model, scores = escape(verdicts[0].model), verdicts[0].scores
    sheets = "\n".join(_sheets(verdicts, trained, winner, store))
    count = f"{len(verdicts)} candidates" if len(verdicts) > 1 else "One candidate"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{model}: candidates</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>\n'
        f"<h1>{model}</h1>\n<p>{count}, {scores.samples:,} samples of each of {len(scores.seeds)} "
        "seeds; what stands at the same place of two sheets was drawn from the same seed.</p>\n"
        f'<div class="sheets">\n{sheets}\n</div>\n{_gates(verdicts)}\n{_metrics(verdicts)}\n</body></html>\n'
    )


def _sheets(verdicts: Sequence[Verdict], trained: Sequence[Trained], winner: str | None, store: Store) -> Iterator[str]:
    """A figure for each candidate; then one for each sheet that is the same for all, such as the real rows."""
    for verdict, training in zip(verdicts, trained, strict=True):
        word = "passed" if verdict.passed else "failed"
        held = sum(check.passed for check in verdict.checks)
        told = f'<span class="{word}">{word}</span>, {held} of {len(verdict.checks)} gates hold'
        chosen = ", registered" if verdict.candidate == winner else ""
        sheets = sorted(store.path(verdict.scores.pictures).glob("generated.*"))
        yield _figure(sheets, verdict.candidate, told + chosen + _cost(training))
    others = sorted(store.path(verdicts[0].scores.pictures).iterdir())
    for stem in dict.fromkeys(sheet.stem for sheet in others if sheet.stem != "generated"):
        same = [sheet for sheet in others if sheet.stem == stem]
        yield _figure(same, stem.replace("_", " "), "the same for all candidates")


def _figure(sheets: Sequence[Path], title: str, told: str) -> str:
    shown = "".join(_shown(sheet, title) for sheet in sheets)
    return f"<figure><h2>{escape(title)}</h2>{shown}<figcaption>{told}</figcaption></figure>"


def _shown(sheet: Path, title: str) -> str:
    """A picture, a text, or a player, whichever the sheet is."""
    if sheet.suffix == ".txt":
        return f"<pre>{escape(sheet.read_text(encoding='utf-8'))}</pre>"
    inside = b64encode(sheet.read_bytes()).decode()
    if sheet.suffix == ".wav":
        return f'<audio controls aria-label="samples: {escape(title)}" src="data:audio/wav;base64,{inside}"></audio>'
    return f'<img alt="samples: {escape(title)}" src="data:image/png;base64,{inside}">'


def _cost(trained: Trained) -> str:
    """What a candidate is and what its training took, and what the training warned of."""
    early = ", its time limit" if trained.stopped == "time_limit" else ""
    facts = {
        "family": trained.family,
        "steps": f"{trained.steps:,}",
        "seconds": f"{trained.seconds:,.0f}{early}",
        "rows/s": f"{trained.samples_per_second:,.0f}",
        "parameters": f"{trained.parameters:,}",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{rows}</dl>" + "".join(f'<p class="warning">{escape(said)}</p>' for said in trained.warnings)


def _gates(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [escape(checks[0].gate), *(_answer(check) for check in checks)]
        for checks in zip(*(verdict.checks for verdict in verdicts), strict=True)
    ]
    return _table(["gate", *(verdict.candidate for verdict in verdicts)], rows)


def _answer(check: Check) -> str:
    word = "passed" if check.passed else "failed"
    reason = f", {escape(check.reason)}" if check.reason else ""
    return f'<span class="{word}">{check.value:.4g}</span> <small>{check.low:.4g} to {check.high:.4g}{reason}</small>'


def _metrics(verdicts: Sequence[Verdict]) -> str:
    """Every metric that any candidate has; what was not measured of one stays empty."""
    names = dict.fromkeys(name for verdict in verdicts for name in verdict.scores.values)
    rows = []
    for name in names:
        means = [verdict.scores.values.get(name, ()) for verdict in verdicts]
        floor = verdicts[0].scores.floor.get(name)
        told = [f"{fmean(values):.4g}" if values else "" for values in means]
        rows.append([escape(name), *told, "" if floor is None else f"{floor:.4g}"])
    return _table(["metric", *(verdict.candidate for verdict in verdicts), "real data"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already, the head is text."""
    top = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
