"""The page of a run, on which a person looks, listens and decides: every candidate beside the champion and real rows.

One HTML file that needs nothing beside it, light and dark, for wide and narrow screens.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean

from components import curves, pages
from components.records import Check, Footprint, Scores, Shards, Trained, Verdict
from components.store import Store

STYLE = """
.of { display: none; }
@media (max-width: 640px) {
  #gates thead { display: none; } #gates tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  #gates td { display: block; max-width: none; padding: 0; border: 0; text-align: left; }
  #gates td:first-child { font-weight: 600; } #gates td + td { margin-top: .25rem; }
  #gates .of { display: inline-block; min-width: 5.5rem; color: var(--dim); }
}
"""
SAME = ("held_out", "given")  # sheets that are the same for all candidates
OF_COPIES = ("copied", "authenticity", "nearer_train")  # metrics that are told beside what looks like copies
TITLES = {"held_out": "real, held out", "given": "what was given"}
SECTIONS = (
    "samples",
    "gates",
    "copies",
    "unsafe",
    "curves",
    "metrics",
    "data",
    "lineage",
)  # one without a word is left out


@dataclass(frozen=True)
class Tried:
    """A candidate of a run: its training, its verdict, what serving it takes, and its run in MLflow."""

    trained: Trained
    verdict: Verdict
    footprint: Footprint
    run: str


def page(
    tried: Sequence[Tried],
    shards: Shards,
    *,
    winner: str | None,
    champion: Scores | None,
    recipe: str,
    store: Store,
) -> str:
    """The page as HTML.

    `winner` names the best candidate that passed, if one did; `champion` is the one that was there before, scored on
    the same rows; `recipe` is the recipe's digest.
    """
    model = escape(tried[0].verdict.model)
    parts = {
        "samples": _samples(tried, winner, champion, store),
        "gates": _gates(tried),
        "copies": _copies(tried, store),
        "unsafe": _unsafe(tried, store),
        "curves": _curves(tried, store),
        "metrics": _metrics(tried, champion),
        "data": _data(shards),
        "lineage": _lineage(tried, shards, recipe),
    }
    told = {name: parts[name] for name in SECTIONS if parts[name]}
    return pages.whole(f"{model}: candidates", model, _outcome(tried, winner), told, style=STYLE)


def _outcome(tried: Sequence[Tried], winner: str | None) -> str:
    """The run in a sentence."""
    count = len(tried)
    if winner is None:
        who = "No candidate passes" if count > 1 else "The candidate does not pass"
        return f'<span class="failed">{who} every gate: nothing is registered.</span>'
    best = f", the best of {count} candidates," if count > 1 else ""
    return f'<span class="passed">{escape(winner)}{best} passes every gate.</span>'


def _samples(tried: Sequence[Tried], winner: str | None, champion: Scores | None, store: Store) -> str:
    """A figure for the champion and each candidate; then one for each sheet that is the same for all."""
    scores = tried[0].verdict.scores
    figures = []
    if champion is not None and all(one.verdict.bundle != champion.bundle for one in tried):
        told = f'<p class="dim">as it is now, {escape(champion.bundle.digest[7:19])}</p>'
        figures.append(_figure(_sheets(champion, "generated", store), "champion", told))
    for one in tried:
        verdict, held = one.verdict, sum(check.passed for check in one.verdict.checks)
        word = "passed" if verdict.passed else "failed"
        told = f'<span class="{word}">{word}</span>, {held} of {len(verdict.checks)} gates hold'
        chosen = ", the best" if verdict.candidate == winner and len(tried) > 1 else ""
        itself = ", the champion itself" if champion is not None and champion.bundle == verdict.bundle else ""
        shown = _sheets(verdict.scores, "generated", store)
        figures.append(_figure(shown, verdict.candidate, told + chosen + itself + _cost(one)))
    for stem in SAME:
        if same := _sheets(scores, stem, store):
            figures.append(_figure(same, TITLES[stem], '<span class="dim">the same for all</span>'))
    rows = f"{scores.samples:,} samples of each of {len(scores.seeds)} seeds are measured"
    told = f'<p class="dim">{rows}; what stands at the same place of two sheets was drawn from the same seed.</p>'
    return f'{told}<div class="sheets">{"".join(figures)}</div>'


def _sheets(scores: Scores, stem: str, store: Store) -> list[Path]:
    return sorted(store.path(scores.pictures).glob(f"{stem}.*"))


def _figure(sheets: Sequence[Path], title: str, told: str) -> str:
    shown = "".join(_shown(sheet, title) for sheet in sheets)
    return f"<figure><h3>{escape(title)}</h3>{shown}<figcaption>{told}</figcaption></figure>"


def _shown(sheet: Path, title: str) -> str:
    """A picture, a text, a text with what it copies marked, or a player, whichever the sheet is."""
    if sheet.suffix == ".txt":
        return f'<pre tabindex="0">{escape(sheet.read_text(encoding="utf-8"))}</pre>'
    if sheet.suffix == ".json":
        rows = "\n\n----\n\n".join(_marked(**row) for row in json.loads(sheet.read_text(encoding="utf-8")))
        return f'<pre tabindex="0">{rows}</pre>' if rows else '<p class="passed">No text copies a long span.</p>'
    inside, named = b64encode(sheet.read_bytes()).decode(), escape(title, quote=True)
    if sheet.suffix == ".wav":
        return f'<audio controls aria-label="samples: {named}" src="data:audio/wav;base64,{inside}"></audio>'
    return f'<img alt="samples: {named}" src="data:image/png;base64,{inside}">'


def _marked(text: str, copied: Sequence[tuple[int, int]]) -> str:
    parts, at = [], 0
    for start, end in copied:
        parts += [escape(text[at:start]), "<mark>", escape(text[start:end]), "</mark>"]
        at = end
    return "".join([*parts, escape(text[at:])])


def _cost(one: Tried) -> str:
    """What a candidate is, what its training and a sample of it take, and what the training warned of."""
    trained, taken = one.trained, one.footprint
    early = ", its time limit" if trained.stopped == "time_limit" else ""
    memory = {"memory": trained.peak_memory, "GPU memory": trained.peak_gpu_memory}
    facts = {
        "family": trained.family,
        "steps": f"{trained.steps:,}",
        "seconds": f"{trained.seconds:,.0f}{early}",
        "rows/s": f"{trained.samples_per_second:,.0f}",
        **{name: f"{size / 2**20:,.0f} MiB at most" for name, size in memory.items() if size},
        **({} if trained.joules is None else {"energy": f"{trained.joules / 1e3:,.3g} kJ, all of the machine"}),
        "parameters": f"{trained.parameters:,}",
        "a sample": _milliseconds(fmean(taken.latency_ms)),
        "bundle": f"{taken.bytes / 1e6:.3g} MB",
        **({"went on from": trained.begun} if trained.begun else {}),
    }
    return pages.facts(facts) + "".join(f'<p class="warning">{escape(said)}</p>' for said in trained.warnings)


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:.3g} ms"


def _gates(tried: Sequence[Tried]) -> str:
    rows = [
        [escape(checks[0].gate), *(_named(one) + _answer(check) for one, check in zip(tried, checks, strict=True))]
        for checks in zip(*(one.verdict.checks for one in tried), strict=True)
    ]
    told = "Each with the interval that it lies in, and the reason where it does not hold; the interval decides."
    return f'<p class="dim">{told}</p>' + pages.table(["gate", *(one.verdict.candidate for one in tried)], rows)


def _named(one: Tried) -> str:
    """Whose answer it is, where a narrow page shows no columns."""
    return f'<span class="of">{escape(one.verdict.candidate)}</span>'


def _answer(check: Check) -> str:
    word = "passed" if check.passed else "failed"
    facts = [f"{check.low:.4g} to {check.high:.4g}"]
    facts += [] if check.champion is None else [f"champion {check.champion:.4g}"]
    facts += [escape(check.reason)] if check.reason else []
    shown = f"{'holds' if check.passed else 'fails'}: {check.value:.4g}"
    return f'<span class="{word}">{shown}</span><small>{"; ".join(facts)}</small>'


def _copies(tried: Sequence[Tried], store: Store) -> str:
    """What of the training side is in the samples, the worst first."""
    figures = []
    for one in tried:
        folder = store.path(one.verdict.scores.pictures)
        if sheets := sorted([*folder.glob("nearest.*"), *folder.glob("copied.*")]):
            figures.append(_figure(sheets, one.verdict.candidate, pages.facts(_copying(one.verdict.scores))))
    told = (
        "What looks most like a copy, of all that one seed drew. Pictures and sounds come in pairs: a sample, then the "
        "training row that it is nearest to. In texts, what stands in the training data word for word is marked."
    )
    return f'<p class="dim">{told}</p><div class="sheets">{"".join(figures)}</div>'


def _copying(scores: Scores) -> dict[str, str]:
    """How much of all samples is like single training rows, beside what real rows that were held out score."""
    real = {name: f", real rows {value:.4g}" for name, value in scores.floor.items()}
    known = [name for name in OF_COPIES if name in scores.values]
    return {name: f"{fmean(scores.values[name]):.4g}{real.get(name, '')}" for name in known}


def _unsafe(tried: Sequence[Tried], store: Store) -> str:
    """What shows something that the recipe's moderation names; nothing where no sample does."""
    found = [(one, _sheets(one.verdict.scores, "unsafe", store)) for one in tried]
    figures = [_figure(sheets, one.verdict.candidate, "") for one, sheets in found if sheets]
    if not figures:
        return ""
    told = "What the recipe's moderation would hold back or count when serving, of all that one seed drew."
    return f'<p class="dim">{told}</p><div class="sheets">{"".join(figures)}</div>'


def _curves(tried: Sequence[Tried], store: Store) -> str:
    parts = []
    for one in tried:
        readings = json.loads((store.path(one.trained.curves) / "curves.json").read_text())
        parts.append(f'<h3>{escape(one.verdict.candidate)}</h3><div class="curves">{curves.drawings(readings)}</div>')
    return "".join(parts)


def _metrics(tried: Sequence[Tried], champion: Scores | None) -> str:
    """Every metric that any candidate has; what was not measured of one stays empty."""
    scored = [one.verdict.scores for one in tried]
    names = dict.fromkeys(name for scores in scored for name in scores.values)
    before = [] if champion is None else [champion]
    rows = [
        [
            escape(name),
            *(_mean(scores.values.get(name, ())) for scores in (*before, *scored)),
            _number(scored[0].floor.get(name)),
        ]
        for name in names
    ]
    head = [*(["champion"] if before else []), *(one.verdict.candidate for one in tried)]
    return pages.table(["metric", *head, "real rows"], rows)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f"<small>{min(values):.4g} to {max(values):.4g}</small>" if max(values) > min(values) else ""
    return f"{fmean(values):.4g}{spread}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _data(shards: Shards) -> str:
    validated = shards.validated
    sides = {name.replace("_", " "): f"{count:,} rows" for name, count in validated.accepted.items()}
    kept_out = {reason: f"{count:,} rows" for reason, count in validated.rejected.items()}
    dataset = validated.dataset
    told = {"from": dataset.about["source"]} if "source" in dataset.about else {}
    said = {name: dataset.about[name] for name in ("title", "consent") if name in dataset.about}
    facts = {"source": dataset.source, **said, "licence": dataset.licence, **told, **sides}
    quarantine = pages.facts(kept_out) if kept_out else '<p class="dim">No row was put into quarantine.</p>'
    excluded = {why: f"{count:,} rows" for why, count in dataset.excluded.items()}
    left_out = f"<h3>Excluded</h3>{pages.facts(excluded)}" if excluded else ""
    return f"{pages.facts(facts)}<h3>Quarantine</h3>{quarantine}{left_out}"


def _lineage(tried: Sequence[Tried], shards: Shards, recipe: str) -> str:
    dataset = shards.validated.dataset
    facts = {
        "data": dataset.version,
        "commit": dataset.commit or "none",
        "recipe": recipe,
        "prepared": shards.shards.digest,
        "encoder": tried[0].verdict.scores.encoder or "none",
    }
    parts = [pages.facts(facts)]
    for one in tried:
        verdict = one.verdict
        own = {"bundle": verdict.bundle.digest, "verdict": verdict.fingerprint(), "MLflow run": one.run}
        parts.append(f"<h3>{escape(verdict.candidate)}</h3>{pages.facts(own)}")
    return "".join(parts)
