"""Validate: row facts once into a file, Great Expectations over them chunk by chunk, failing rows into quarantine."""

import ctypes
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import data_docs, facts, quarantine, suite
from components.errors import DataRejected
from components.expectations import ACROSS_ROWS, Answer, Questions
from components.facts import Facts
from components.recipe import Validate
from components.records import Artifact, Dataset, Validated
from components.store import Store
from components.suite import Expectation

SHOWN = 5  # rows that a message names
NOTHING_BESIDE = pa.table({})


@dataclass
class Fates:
    """What became of the rows, counted; of the rejected ones the first, with their reasons."""

    accepted: Counter[str] = field(default_factory=Counter)  # rows by side
    rejected: Counter[str] = field(default_factory=Counter)  # rows by their first fault
    faults: Counter[str] = field(default_factory=Counter)  # every fault of every row
    first: list[tuple[str, str]] = field(default_factory=list)  # id and reasons


@contextmanager
def _quiet() -> Iterator[None]:
    """What Great Expectations logs below a warning is kept off the console."""
    logger = logging.getLogger("great_expectations")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def validate(dataset: Dataset, checks: Validate, *, modality: str, reject_at_most: float, store: Store) -> Validated:
    """The dataset with every row's facts, split and fate; `DataRejected` where it must not be trained on.

    Rows that fail go to quarantine, all of them, each with its reasons. More of them than the share `reject_at_most`,
    or a failure of the rows that are left as a whole, stops the run: the message names rows, reasons and where to look.
    Memory is bounded by a chunk of rows, and by what the checks of the dataset as a whole name of each row.
    """
    validated, problems = examine(dataset, checks, modality=modality, reject_at_most=reject_at_most, store=store)
    if problems:
        quarantined, docs = store.path(validated.quarantine), store.path(validated.docs)
        raise _refusal(dataset.source, problems, quarantine=quarantined, docs=docs)
    return validated


@_quiet()
def examine(
    dataset: Dataset, checks: Validate, *, modality: str, reject_at_most: float, store: Store
) -> tuple[Validated, list[str]]:
    """What `validate` tells, and why the dataset must not be trained on, empty where it may be."""
    asked = suite.load(checks, modality=modality, classes=len(dataset.classes))
    if dataset.count == 0:
        raise DataRejected(f"{dataset.source} was rejected: it has no rows.")
    with store.writing("facts") as draft:
        table = facts.gather(store.path(dataset.rows), modality, draft.directory / "alone.parquet")
        of_rows, beside = _ask_of_rows(table, asked)
        failing = of_rows.answers()
        alive = _alive(len(table), failing)
        of_all = _ask_of_all(table, alive, asked)
        fates = _settle(table, failing, beside, draft.directory / "facts.parquet")
        _give_back()
        problems = _problems(table, fates, of_all.answers() if of_all else (), reject_at_most)
        quarantined = quarantine.write(dataset.rows, draft.directory / "facts.parquet", fates.faults, store)
        asked_of = {"rows": of_rows} | ({"dataset": of_all} if of_all else {})
        pages = {scope: questions.page(lambda rows: _ids(table, rows)) for scope, questions in asked_of.items()}
        docs = _publish(pages, fates, problems, dataset, store)
        table.path.unlink()
    validated = Validated(
        dataset=dataset,
        facts=draft.artifact,
        quarantine=quarantined,
        docs=docs,
        accepted=dict(sorted(fates.accepted.items())),
        rejected=dict(sorted(fates.rejected.items())),
    )
    return validated, problems


def _ask_of_rows(table: Facts, asked: Sequence[Expectation]) -> tuple[Questions, pa.Table]:
    """What is asked of each row, answered, and what each row is beside the others.

    A row that fails by itself is nobody's twin: what compares the rows is asked last, of what the others then say.
    """
    asked = [expectation for expectation in asked if expectation.scope == "rows"]
    questions = Questions("rows", asked, table.known)
    last = [expectation for expectation in asked if _named(expectation, facts.COMPARED)]
    _ask(questions, [expectation for expectation in asked if expectation not in last], table, NOTHING_BESIDE)
    beside = table.compared(_alive(len(table), questions.answers()))
    _ask(questions, last, table, beside)
    return questions, beside


def _ask(questions: Questions, asked: Sequence[Expectation], table: Facts, beside: pa.Table) -> None:
    """Chunk by chunk, but the whole of its columns at once where an expectation compares values across rows."""
    across = [expectation for expectation in asked if expectation.type in ACROSS_ROWS]
    alone = [expectation for expectation in asked if expectation not in across]
    if alone:
        columns = {"id"}.union(*(_columns(expectation, table) for expectation in alone))
        for chunk in table.chunks(beside, columns):
            questions.ask(alone, facts.frame(chunk))
    for expectation in across:
        here = table.whole(beside, _columns(expectation, table), np.ones(len(table), bool))
        questions.ask([expectation], facts.frame(here))


def _ask_of_all(table: Facts, alive: np.ndarray, asked: Sequence[Expectation]) -> Questions | None:
    """What is asked of the accepted rows as a whole; None where every row was rejected: none is left to speak of."""
    asked = [expectation for expectation in asked if expectation.scope == "dataset"]
    weighing = {"label_weight": {"label", "split"}, **{facts.SHARE_OF + name: {name} for name in table.known}}
    questions = Questions("dataset", asked, [*table.known, *weighing])
    if not alive.any():
        return None
    beside = table.compared(alive)
    for expectation in asked:  # each with its own columns only, which bounds the memory
        _give_back()
        weighed = _named(expectation, list(weighing))
        needed = _columns(expectation, table).union(*(weighing[name] for name in weighed))
        here = facts.frame(table.whole(beside, needed, alive))
        questions.ask([expectation], here.assign(**{name: facts.weighed(here, name) for name in weighed}))
    return questions


def _give_back() -> None:
    """Memory that is free goes back to the system: else what comes next, with its workers, lies on top of it."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


def _columns(expectation: Expectation, table: Facts) -> set[str]:
    """The facts that are needed to ask, with the number that names a row."""
    if expectation.type.startswith("expect_table_column"):
        return set(table.known)
    return {"row", *_named(expectation, table.known)}


def _named(expectation: Expectation, known: Sequence[str]) -> set[str]:
    """Those of the facts that occur as words in the arguments, wherever: as a column, or inside a `row_condition`."""
    return set(re.findall(r"\w+", json.dumps(expectation.arguments))) & set(known)


def _alive(count: int, answers: Sequence[Answer]) -> np.ndarray:
    """Which rows no answer names."""
    alive = np.ones(count, bool)
    for answer in answers:
        alive[answer.rows] = False
    return alive


def _settle(table: Facts, failing: Sequence[Answer], beside: pa.Table, path: Path) -> Fates:
    """Write every row's facts with its reasons, null where it is accepted; what became of them."""
    fates, start = Fates(), 0
    writer = None
    try:
        for chunk in table.chunks(beside):
            faults = _faults(chunk, start, failing)
            start += len(chunk)
            reasons = [_reasons(faults[row]) if row in faults else None for row in range(len(chunk))]
            settled = chunk.append_column("rejected", pa.array(reasons, pa.string()))
            _count(fates, settled, faults)
            writer = writer or pq.ParquetWriter(path, settled.schema)
            writer.write_table(settled)
    finally:
        if writer:
            writer.close()
    return fates


def _faults(chunk: pa.Table, start: int, failing: Sequence[Answer]) -> Mapping[int, Sequence[tuple[str, str]]]:
    """Of each failing row, by its place in the chunk: each fault with its reason, in the order of the suite."""
    found: dict[int, list[tuple[str, str]]] = {}
    for answer in failing:
        low, high = np.searchsorted(answer.rows, [start, start + len(chunk)])
        here = answer.rows[low:high] - start
        for place, line in zip(here.tolist(), chunk.take(pa.array(here)).to_pylist(), strict=True):
            known = {name: None if value != value else value for name, value in line.items()}  # NaN is unknown
            found.setdefault(place, []).append((answer.expectation.fault, answer.expectation.told(known)))
    return found


def _count(fates: Fates, settled: pa.Table, faults: Mapping[int, Sequence[tuple[str, str]]]) -> None:
    accepted = settled["split"].filter(settled["rejected"].is_null())
    fates.accepted.update(str(side) for side in accepted.to_pylist())
    for found in faults.values():
        fates.rejected[found[0][0]] += 1
        fates.faults.update(fault for fault, _ in found)
    room = data_docs.SHOWN - len(fates.first)
    lost = settled.select(["id", "rejected"]).filter(settled["rejected"].is_valid()).slice(0, room)
    fates.first += [(str(line["id"]), str(line["rejected"])) for line in lost.to_pylist()]


def _problems(table: Facts, fates: Fates, answers: Sequence[Answer], at_most: float) -> list[str]:
    """Why the dataset as a whole must not be trained on; empty where it may be."""
    lost, count = fates.rejected.total(), len(table)
    problems = []
    if lost > at_most * count or lost == count:
        shown = _some([f"{name} {why}" for name, why in fates.first[:SHOWN]], lost)
        kinds = ", ".join(f"{fault}: {times}" for fault, times in fates.rejected.most_common(SHOWN))
        share = f"{lost} of {count} rows fail, {lost / count:.1%}"
        problems.append(f"{share}, over the {at_most:.1%} allowed ({kinds}): {shown}")
    for answer in answers:
        if not answer.holds:
            ids = _ids(table, answer.rows[:SHOWN])
            seen = f" ({len(answer.rows)}: {_some(ids, len(answer.rows))})" if ids else ""
            seen = f" ({answer.observed})" if answer.observed is not None else seen
            problems.append(f"{answer.expectation.fault}{seen}")
    return problems


def _ids(table: Facts, rows: Sequence[int] | np.ndarray) -> list[str]:
    """The ids of these rows, in the order of the table."""
    kept = np.zeros(len(table), bool)
    kept[rows] = True
    return [str(name) for name in table.whole(NOTHING_BESIDE, ["id"], kept)["id"].to_pylist()]


def _refusal(source: str, problems: Sequence[str], *, quarantine: Path, docs: Path) -> DataRejected:
    return DataRejected(
        f"{source} was rejected, and nothing was trained on it: {'. '.join(problems)}. Rejected rows, with their "
        f"reasons, are in {quarantine}; every check is on {docs / 'index.html'}. Mend the data, or change "
        "data.reject_at_most or the recipe's checks if they ask too much."
    )


def _some(shown: Sequence[str], count: int) -> str:
    return "; ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


def _reasons(found: Sequence[tuple[str, str]]) -> str:
    return "; ".join(reason for _, reason in found)


def _publish(
    pages: Mapping[str, Any], fates: Fates, problems: Sequence[str], dataset: Dataset, store: Store
) -> Artifact:
    with store.writing("docs") as draft:
        summary = data_docs.Summary(
            source=dataset.source,
            version=dataset.version,
            accepted=dict(sorted(fates.accepted.items())),
            rejected=fates.first,
            faults=dict(fates.rejected.most_common()),
            problems=problems,
            excluded=dataset.excluded,
        )
        data_docs.write(pages, draft.directory, summary)
    return draft.artifact
