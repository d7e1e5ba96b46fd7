"""Whether what is asked of a version, and what it answers, is still as it was when it was promoted.

Two references are made once for each version: the numbers of samples that its bundle draws from fixed seeds, and the
requests of its first window. A later window is counted into the groups of a reference, batch by batch, and compared by
an index of shift (PSI) with an interval; the end of the interval decides, as for gates. All intervals of a report
together are wrong about unchanged data at most at the share `FALSE_ALARMS`.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import stdtrit as student_quantile

from components import histograms, loading, sampling
from components.drift import Column, Feedback, Rate, Standing
from components.errors import AtelierError
from components.estimates import Estimate
from components.histograms import Groups, Numbers, Words
from components.recipe import Monitor
from components.records import Artifact
from components.store import Store

BLOCKS = 24  # stretches of a window, in which chance is measured
FALSE_ALARMS = 0.01  # of reports on unchanged data
FEEDBACK_CONFIDENCE = 0.95
RISE = 0.01  # of a share of requests, from which on a rise counts
SLOWER = 2.0  # times the slowest twentieth of the reference, and a request is slow
SAMPLES = 480  # that a bundle is asked for
SAMPLING_SECONDS = 120.0  # and how long at most
SPLITS = 200  # of a reference in halves, to count false alarms on its own data
FILE = "reference.json"
PLAIN = "plain"  # the column that says whether a request asked for nothing but the defaults
LATENCIES = ("seconds", "queued", "first")
QUANTILES = (0.05, 0.5, 0.95, 0.99)
RATES = ("moderated", "failed", "slow")
JUDGED = ("controls", "outputs", "bundle", "requests.route", "requests.count")  # the others are told


class Observations(Protocol):
    """Requests of one version in a stretch of time."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def count(self) -> int: ...
    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]: ...


@dataclass
class Side:
    """A window as it was counted: each column by block and group, each rate by block as hits and rows."""

    rows: int = 0
    looked_at: int = 0  # rows that tell of an output
    groups: dict[str, Groups] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    quantiles: dict[str, dict[str, float]] = field(default_factory=dict)
    rates: dict[str, np.ndarray] = field(default_factory=dict)
    slow_above: float = math.inf  # seconds

    def as_json(self) -> dict[str, Any]:
        """What `side_of` takes."""
        return {
            "rows": self.rows,
            "columns": {
                name: {"groups": groups.as_json(), "counts": self.counts[name].tolist()}
                for name, groups in self.groups.items()
            },
            "quantiles": self.quantiles,
            "rates": {name: counts.tolist() for name, counts in self.rates.items()},
            "slow_above": self.slow_above if math.isfinite(self.slow_above) else None,
        }


def side_of(told: Mapping[str, Any]) -> Side:
    """A side as its JSON told it."""
    return Side(
        rows=told["rows"],
        groups={name: Groups.from_json(column["groups"]) for name, column in told["columns"].items()},
        counts={name: np.array(column["counts"], np.int64) for name, column in told["columns"].items()},
        quantiles=told["quantiles"],
        rates={name: np.array(counts, np.int64) for name, counts in told["rates"].items()},
        slow_above=math.inf if told["slow_above"] is None else told["slow_above"],
    )


def keep(side: Side, about: Mapping[str, Any], store: Store) -> Artifact:
    """A reference in the store, with what it is about."""
    with store.writing("reference") as draft:
        told = json.dumps({"schema": 1, **about, **side.as_json()}, sort_keys=True)
        (draft.directory / FILE).write_text(told + "\n", encoding="utf-8")
    return draft.artifact


def kept(reference: Artifact, store: Store) -> tuple[Side, dict[str, Any]]:
    """A reference of the store, and what it is about; an `AtelierError` where it is damaged."""
    try:
        told = json.loads((store.path(reference) / FILE).read_bytes())
        return side_of(told), told
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AtelierError(
            f"the reference {reference.digest} of a monitor cannot be read: {' '.join(str(error).split())}. Remove it "
            "from the store, and it is made anew."
        ) from None


def drawn(directory: Path, *, digest: str) -> Side | None:
    """What a bundle draws without controls, from seeds that are always the same; None for one that needs a row given.

    It stops after two minutes with what it has.
    """
    endpoint = sampling.load(directory, digest=digest)
    if endpoint.edits:
        return None
    rows: list[dict[str, float]] = []
    began = time.monotonic()
    while len(rows) < SAMPLES and time.monotonic() - began < SAMPLING_SECONDS:
        seeds = [loading.seed_of(0, "monitor", len(rows) + place) for place in range(endpoint.rows)]
        rows += [endpoint.features(sample) for sample in endpoint.generate(seeds)]
    side, blocks = Side(rows=len(rows)), _blocks(len(rows), 0, len(rows))
    for feature in rows[0]:
        name, numbers = f"bundle.{feature}", Numbers()
        bins = histograms.bins_of(np.array([row[feature] for row in rows]))
        numbers.add(bins)
        side.groups[name], side.quantiles[name] = (groups := Groups.of_numbers(numbers)), _quantiles(numbers)
        side.counts[name] = histograms.in_blocks(groups.of(bins), blocks, (BLOCKS, groups.count))
    return side


def first_window(observed: Observations) -> Side:
    """The reference that requests themselves give: twice through them, once to find groups and once to count."""
    names, numbers, words = _names(observed.names), dict[str, Numbers](), dict[str, Words]()
    for batch in observed.batches(_needed(names)):
        for name, bins, asked in _numbers(batch, names):
            numbers.setdefault(name, Numbers()).add(bins[asked])
        for name, codes, told, asked in _words(batch, names):
            times = np.bincount(codes[asked], minlength=len(told))
            words.setdefault(name, Words()).add({word: int(n) for word, n in zip(told, times, strict=True) if n})
    groups = {
        name: Groups.of_numbers(counted, lacks=name.startswith("controls.") and counted.lacking > 0)
        for name, counted in numbers.items()
        if counted.count and not name.startswith("bundle.")
    }
    groups |= {name: Groups.of_words(counted) for name, counted in words.items() if counted.counts}
    slow = SLOWER * numbers["latency.seconds"].quantile(0.95) if "latency.seconds" in groups else math.inf
    return counted_in(observed, groups, slow_above=slow)


def counted_in(observed: Observations, groups: Mapping[str, Groups], *, slow_above: float = math.inf) -> Side:
    """Requests counted into the groups of a reference, once through them."""
    names, numbers = _names(observed.names), dict[str, Numbers]()
    side = Side(groups=dict(groups), slow_above=slow_above)
    side.counts = {name: np.zeros((BLOCKS, group.count), np.int64) for name, group in groups.items()}
    side.rates = {name: np.zeros((BLOCKS, 2), np.int64) for name in RATES}
    for batch in observed.batches(_needed(names)):
        blocks = _blocks(observed.count, side.rows, len(batch))
        side.rows += len(batch)
        for name, bins, asked in _numbers(batch, names):
            numbers.setdefault(name, Numbers()).add(bins[asked])
            if name in groups:
                _count(side, name, groups[name].of(bins[asked]), blocks[asked])
        told_of = (len(batch) - batch[name].null_count for name in names.values() if name.startswith("output."))
        side.looked_at += max(told_of, default=0)
        for name, codes, told, asked in _words(batch, names):
            if name in groups:
                _count(side, name, np.array([groups[name].of_word(word) for word in told])[codes[asked]], blocks[asked])
        for name, hits, asked in _rates(batch, slow_above):
            side.rates[name] += np.stack(
                [np.bincount(blocks[rows], minlength=BLOCKS) for rows in (hits, asked)], axis=1
            )
    side.quantiles = {name: _quantiles(counted) for name, counted in numbers.items() if counted.count}
    return side


def _count(side: Side, name: str, groups: np.ndarray, blocks: np.ndarray) -> None:
    side.counts[name] += histograms.in_blocks(groups, blocks, side.counts[name].shape)


def compare(
    window: Side,
    *,
    mix: Side | None,
    bundle: Side | None,
    thumbs: tuple[int, int],
    settings: Monitor,
    feedback_below: float | None,
) -> tuple[tuple[Column, ...], tuple[Rate, ...], Feedback]:
    """Each column and each rate of a window beside its reference, and its thumbs, up and down, beside their bound."""
    sides = {name: side for side in (mix, bundle) if side is not None for name in side.groups}
    judged = sum(_is_judged(name) for name in sides) + len(RATES)
    reach = float(student_quantile(BLOCKS - 1, 1 - FALSE_ALARMS / judged))
    columns = tuple(
        _column(name, side, window, settings, reach) for name, side in sides.items() if name in window.counts
    )
    rates = () if mix is None else tuple(_rate(name, mix, window, settings, reach) for name in RATES)
    return columns, rates, _feedback(*thumbs, feedback_below)


def resampled(reference: Side, settings: Monitor, *, seed: int = 0) -> float:
    """The share of false alarms on the data themselves: its stretches dealt by lot into a reference and a window.

    More than `FALSE_ALARMS` says that the requests of its own window differ so much that an alarm means little.
    """
    lots, alarms = np.random.default_rng(seed), 0
    for _ in range(SPLITS):
        dealt = lots.permutation(BLOCKS)
        before, now = _part(reference, dealt[: BLOCKS // 2]), _part(reference, dealt[BLOCKS // 2 :])
        columns, rates, _ = compare(now, mix=before, bundle=None, thumbs=(0, 0), settings=settings, feedback_below=None)
        alarms += "drifted" in {one.standing for one in columns} | {one.standing for one in rates}
    return alarms / SPLITS


def _part(side: Side, blocks: np.ndarray) -> Side:
    """Some stretches of a side alone."""
    return replace(
        side,
        quantiles={},
        counts={name: counts[blocks] for name, counts in side.counts.items()},
        rates={name: counts[blocks] for name, counts in side.rates.items()},
    )


def _column(name: str, reference: Side, window: Side, settings: Monitor, reach: float) -> Column:
    before, now = reference.counts[name], window.counts[name]
    moved = histograms.shifted(before, now, reach=reach)
    rows = int(before.sum()), int(now.sum())
    shares = [counts.sum(axis=0) / max(total, 1) for counts, total in zip((before, now), rows, strict=True)]
    names = reference.groups[name].names()
    if not _is_judged(name):
        standing: Standing = "told"
    elif min(rows) < settings.at_least:
        standing = "too few"
    else:
        standing = "drifted" if moved.low > settings.drift_above else "steady"
    return Column(
        name=name, shift=moved.value, low=moved.low, high=moved.high, before=rows[0], now=rows[1], standing=standing,
        groups=tuple((names[at], float(shares[0][at]), float(shares[1][at])) for at in histograms.largest(*shares)),
        quantiles={
            share: (value, window.quantiles[name][share])
            for share, value in reference.quantiles.get(name, {}).items()
            if name in window.quantiles
        },
    )  # fmt: skip


def _rate(name: str, reference: Side, window: Side, settings: Monitor, reach: float) -> Rate:
    """A share that rose: by over a hundredth of all requests, and by more than `drift_above` of what it was."""
    (before, before_error), (now, now_error) = _share(reference.rates[name]), _share(window.rates[name])
    rise = now - before - reach * math.hypot(before_error, now_error)
    bound = max(RISE, settings.drift_above * before)
    if name == "slow":  # with a twentieth of all requests the slowest twentieth has slowed down by that factor
        rise, bound = now - reach * now_error, 0.05
    few = min(reference.rates[name][:, 1].sum(), window.rates[name][:, 1].sum()) < settings.at_least
    standing: Standing = "too few" if few else "drifted" if rise > bound else "steady"
    return Rate(name=name, before=before, now=now, rise=rise, bound=bound, standing=standing)


def _share(counts: np.ndarray) -> tuple[float, float]:
    """The share of hits and its standard error: as of a binomial, or as it varies among blocks where that is more."""
    hits, rows = counts.sum(axis=0)
    if not rows:
        return 0.0, 0.0
    share, centre = float(hits / rows), float((hits + 2) / (rows + 4))  # Agresti and Coull (1998)
    filled = counts[counts[:, 1] > 0]
    spread = np.square(filled[:, 0] - share * filled[:, 1]).sum() / rows**2 * len(filled) / max(len(filled) - 1, 1)
    return share, math.sqrt(max(centre * (1 - centre) / (rows + 4), float(spread)))


def _feedback(up: int, down: int, bound: float | None) -> Feedback:
    count = up + down
    high = Estimate.of_shares([up / count], count).limits(FEEDBACK_CONFIDENCE)[1] if count else 1.0
    standing: Standing = (
        "told" if bound is None else "too few" if not count else "drifted" if high < bound else "steady"
    )
    return Feedback(up=up, down=down, share=up / count if count else None, high=high, bound=bound, standing=standing)


def _is_judged(name: str) -> bool:
    return name.startswith(JUDGED)


def _names(there: Sequence[str]) -> dict[str, str]:
    """The columns of the files that are compared, by the name that they have here."""
    fixed = {"requests.route": "route", "requests.team": "team", "requests.status": "status", "requests.count": "count"}
    fixed |= {f"latency.{name}": name for name in LATENCIES}
    told = {name: column for name, column in fixed.items() if column in there}
    for column in sorted(there):
        kind, _, rest = column.partition(".")
        if kind in ("control", "choice"):
            told[f"controls.{rest}"] = column
        elif kind == "output":
            told |= {f"outputs.{rest}": column, f"bundle.{rest}": column}
    return told


def _needed(names: Mapping[str, str]) -> list[str]:
    return sorted({*names.values(), "status", "flagged", "count", "seconds", PLAIN})


def _numbers(batch: pa.RecordBatch, names: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each column of numbers by its bins, and the rows that count: of answered requests, of plain ones for bundles."""
    answered, plain = _answered(batch), pc.fill_null(batch[PLAIN], False).to_numpy(zero_copy_only=False)
    known: dict[str, np.ndarray] = {}
    for name, column in names.items():
        if not pa.types.is_string(batch[column].type) and column != "status":
            if column not in known:
                values = pc.cast(batch[column], pa.float64()).to_numpy(zero_copy_only=False)
                known[column] = histograms.bins_of(values)
            yield name, known[column], answered & plain if name.startswith("bundle.") else answered


def _words(batch: pa.RecordBatch, names: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray, list[str], np.ndarray]]:
    """Each column of words as codes, what these mean, and the rows that count."""
    answered, every = _answered(batch), np.ones(len(batch), bool)
    for name, column in names.items():
        if pa.types.is_string(batch[column].type):
            coded = pc.dictionary_encode(pc.fill_null(batch[column], histograms.NONE))
            asked = answered if name.startswith("controls.") else every
            yield name, coded.indices.to_numpy(), coded.dictionary.to_pylist(), asked
        elif column == "status":
            coded = pc.dictionary_encode(batch[column])
            yield name, coded.indices.to_numpy(), [str(status) for status in coded.dictionary.to_pylist()], every


def _rates(batch: pa.RecordBatch, slow_above: float) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """For each rate the rows that it is about and that are so, and all that it is about."""
    status = batch["status"].to_numpy(zero_copy_only=False)
    asked, answered = np.ones(len(batch), bool), status < 400
    yield "moderated", batch["flagged"].to_numpy(zero_copy_only=False) > 0, asked
    yield "failed", (status >= 500) | (status == 429), asked
    yield "slow", answered & (batch["seconds"].to_numpy(zero_copy_only=False) > slow_above), answered


def _answered(batch: pa.RecordBatch) -> np.ndarray:
    answered: np.ndarray = pc.less(batch["status"], 400).to_numpy(zero_copy_only=False)
    return answered


def _blocks(total: int, start: int, count: int) -> np.ndarray:
    """The block of each of some rows, of which `start` came before, if all are `total`."""
    return np.minimum(np.arange(start, start + count) * BLOCKS // max(total, 1), BLOCKS - 1)


def _quantiles(numbers: Numbers) -> dict[str, float]:
    return {f"{share:g}": numbers.quantile(share) for share in QUANTILES}
