"""The page of a monitor: what moved since a version was promoted, by how much, and beside what."""

from collections.abc import Sequence
from html import escape

from components import pages
from components.drift import TITLES, Column, Drift, Feedback, Rate

STYLE = """
.bars { display: grid; grid-template-columns: minmax(4.5rem, max-content) 1fr; gap: .15rem .6rem; font-size: .8rem;
  font-variant-numeric: tabular-nums; margin-top: .5rem; }
.bars span { color: var(--dim); overflow-wrap: anywhere; } .bars div { align-self: center; }
.bars i { display: block; height: .4rem; min-width: 1px; background: var(--line); border-radius: 2px; }
.bars i + i { background: var(--ink); margin-top: 1px; } .moved .bars i + i { background: var(--bad); }
.moved { border-color: var(--bad); } 
.key i { display: inline-block; width: .8rem; height: .5rem; border-radius: 2px; }
"""
RATES = {
    "moderated": "requests that hold what moderation looks for",
    "failed": "requests that failed or were turned away (5xx, 429)",
    "slow": "answers that take over twice what the slowest twentieth took",
}
WORDS = {"steady": "steady", "drifted": "drifted", "too few": "too few to judge", "told": "told, not judged"}


def page(drift: Drift) -> str:
    """The page as HTML."""
    named = escape(f"{drift.model}@{drift.version}")
    word = "failed" if drift.alarms else "passed" if drift.judged else "dim"
    outcome = f'<span class="{word}">{escape(drift.outcome)}.</span>'
    columns = {kind: [one for one in drift.columns if one.name.startswith(f"{kind}.")] for kind in TITLES}
    sections = {
        "summary": _summary(drift),
        "rates": _rates(drift.rates) + _feedback(drift.feedback),
        **{kind: _columns(TITLES[kind], shown) for kind, shown in columns.items() if shown},
        "method": _method(drift),
    }
    return pages.whole(f"{named}: drift", named, outcome, sections, style=STYLE)


def _summary(drift: Drift) -> str:
    first = "goes on" if drift.first_window is None else " to ".join(map(_time, drift.first_window))
    up, down = drift.feedback.up, drift.feedback.down
    facts = {
        "window": f"{_time(drift.since)} to {_time(drift.until)}",
        "requests": f"{drift.requests:,}, of which {drift.looked_at:,} had an output looked at",
        "first window": first,
        "thumbs": f"{up:,} up, {down:,} down",
        **({"unreadable": f"{drift.unreadable:,} files"} if drift.unreadable else {}),
    }
    moved = [one for one in drift.columns if one.standing == "drifted"]
    shown = f'<div class="curves">{"".join(_figure(one, one.name) for one in moved)}</div>' if moved else ""
    return pages.facts(facts) + shown


def _rates(rates: Sequence[Rate]) -> str:
    if not rates:
        return (
            '<p class="dim">Shares of requests have nothing to be compared with before the first window is whole.</p>'
        )
    rows = [
        [
            f"{escape(one.name)}: {_word(one.standing)}<small>{RATES[one.name]}</small>",
            _share(one.before),
            _share(one.now),
            f"{_share(max(0.0, one.rise))}<small>bound {_share(one.bound)}</small>",
        ]
        for one in rates
    ]
    return pages.table(["share of requests", "before", "now", "surely risen by"], rows)


def _feedback(told: Feedback) -> str:
    if told.share is None:
        return '<p class="dim">Nobody gave a thumb in this window.</p>'
    bound = "" if told.bound is None else f", where the recipe asks for {_share(told.bound)}"
    words = f"{_share(told.share)} of {told.up + told.down:,} thumbs are up, at most {_share(told.high)}{bound}"
    low = '<span class="failed">too few</span>' if told.standing == "drifted" else _word(told.standing)
    return f"<p>{words}: {low}</p>"


def _columns(title: str, columns: Sequence[Column]) -> str:
    ordered = sorted(columns, key=lambda one: (one.standing != "drifted", one.standing == "told"))
    figures = "".join(_figure(one, one.name.partition(".")[2]) for one in ordered)
    key = '<i style="background:var(--line)"></i> before <i style="background:var(--ink)"></i> now'
    return f'<p class="dim key">{title}; {key}</p><div class="curves">{figures}</div>'


def _figure(column: Column, title: str) -> str:
    most = max([0.001, *(max(before, now) for _, before, now in column.groups)])
    bars = "".join(
        f'<span>{escape(name)}</span><div role="img" aria-label="{_share(before)} before, {_share(now)} now">'
        f'<i style="width:{before / most:.1%}"></i><i style="width:{now / most:.1%}"></i></div>'
        for name, before, now in column.groups
    )
    told = f"shift {column.shift:.3f}, {column.low:.3f} to {column.high:.3f}; {column.before:,} and {column.now:,} rows"
    parts = [
        f"{_named(share)} {before:.3g} → {now:.3g}"
        for share, (before, now) in column.quantiles.items()
        if share in ("0.5", "0.95")
    ]
    moved = " moved" if column.standing == "drifted" else ""
    caption = "<br>".join([told, *parts])
    return (
        f'<figure class="curve{moved}"><h3>{escape(title)}</h3>{_word(column.standing)}'
        f'<figcaption>{caption}</figcaption><div class="bars">{bars}</div></figure>'
    )


def _method(drift: Drift) -> str:
    facts = {
        "bundle": drift.bundle,
        **{f"reference: {name}": digest for name, digest in drift.references.items()},
        "bound": f"shift (PSI) above {drift.drift_above:g}, by the lower end of its interval",
    }
    if drift.false_alarms is not None:
        facts["false alarms"] = f"{drift.false_alarms:.1%} where the first window was compared with itself, by lot"
    told = (
        "A shift is the population stability index between shares of groups that hold about a tenth of the reference "
        "each: 0 where nothing moved. Its interval comes from leaving out each of 24 stretches of time in turn, wide "
        "enough for all that is judged here together to be wrong in one report of a hundred on unchanged data."
    )
    return f'<p class="dim">{told}</p>{pages.facts(facts)}'


def _word(standing: str) -> str:
    kind = {"steady": "passed", "drifted": "failed"}.get(standing, "dim")
    return f'<span class="{kind}">{WORDS[standing]}</span>'


def _named(share: str) -> str:
    return "median" if share == "0.5" else f"{float(share):.0%} under"


def _share(value: float) -> str:
    return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"


def _time(told: str) -> str:
    return f"{told[:16].replace('T', ' ')} UTC"
