"""Validate: row facts once into a table, Great Expectations over that table, failing rows into quarantine.

The only door to great_expectations, which takes seconds to import and is imported when it is used.
"""

import difflib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components import data_docs, facts, quarantine, suite
from components.errors import AtelierError, DataRejected
from components.recipe import Validate
from components.records import Artifact, Dataset, Validated
from components.spelling import unknown
from components.store import Store
from components.suite import Expectation

SHOWN = 5  # rows that a message names

Faults = Mapping[int, Sequence[tuple[str, str]]]  # of a row, by its number: each fault with its reason


@dataclass(frozen=True)
class Answer:
    """What Great Expectations said of one expectation."""

    expectation: Expectation
    holds: bool
    rows: tuple[int, ...]  # the numbers of the failing rows, where it asks of rows
    observed: Any


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


@_quiet()
def validate(dataset: Dataset, checks: Validate, *, modality: str, reject_at_most: float, store: Store) -> Validated:
    """The dataset with every row's facts, split and fate; `DataRejected` where it must not be trained on.

    Rows that fail go to quarantine, all of them, each with its reasons. More of them than the share `reject_at_most`,
    or a failure of the rows that are left as a whole, stops the run: the message names rows, reasons and where to look.
    """
    asked = suite.load(checks, modality=modality, classes=len(dataset.classes))
    if dataset.count == 0:
        raise DataRejected(f"{dataset.source} was rejected: it has no rows.")
    table = facts.gather(store.path(dataset.rows), modality)
    answers, pages = _ask(table, asked)
    faults = _faults(table, [answer for answer in answers if answer.expectation.scope == "rows"])
    rejected = Counter(found[0][0] for found in faults.values())
    reasons = [_reasons(faults[row]) if row in faults else None for row in table["row"]]
    table["rejected"] = pd.array(reasons, dtype="str")
    problems = _problems(table, answers, rejected, reject_at_most)
    every = (fault for found in faults.values() for fault, _ in found)
    quarantined = quarantine.write(dataset.rows, table["rejected"], every, store)
    docs = _publish(pages, table, rejected, problems, dataset, store)
    if problems:
        raise _refusal(dataset.source, problems, quarantine=store.path(quarantined), docs=store.path(docs))
    with store.writing("facts") as draft:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), draft.directory / "facts.parquet")
    return Validated(
        dataset=dataset,
        facts=draft.artifact,
        quarantine=quarantined,
        docs=docs,
        accepted=_sides(table),
        rejected=dict(sorted(rejected.items())),
    )


def _ask(table: pd.DataFrame, asked: Sequence[Expectation]) -> tuple[list[Answer], dict[str, Any]]:
    """Every answer, with Great Expectations' own results by scope: of all rows, then of the accepted ones."""
    import great_expectations as gx

    context = _context()
    source = context.data_sources.add_pandas("facts")
    batch = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    results: dict[str, Any] = {}
    answers: list[Answer] = []
    for scope in ("rows", "dataset"):
        here = table[~table["row"].isin({row for answer in answers for row in answer.rows})]
        if here.empty:
            break  # every row was rejected: none is left to speak of
        if scope == "dataset":
            here = facts.compared(here).assign(label_weight=facts.label_weight(here))  # a rejected row is nobody's twin
        expectations = [expectation for expectation in asked if expectation.scope == scope]
        built = [_built(expectation, here, number) for number, expectation in enumerate(expectations)]
        suite_of_scope = context.suites.add(gx.ExpectationSuite(name=scope, expectations=built))
        definition = gx.ValidationDefinition(name=scope, data=batch, suite=suite_of_scope)
        results[scope] = context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": here},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row", "id"]},
        )
        # the results come in an order of their own
        said = {result.expectation_config.meta["number"]: result for result in results[scope].results}
        answers += [_answer(expectation, said[number]) for number, expectation in enumerate(expectations)]
    return answers, results


def _context() -> Any:
    """A context in memory, without bars, telemetry, or a site of its own."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    return gx.get_context(project_config=config, mode="ephemeral")


def _built(expectation: Expectation, table: pd.DataFrame, number: int) -> Any:
    """The expectation as Great Expectations' own; an `AtelierError` names the nearest known word for a wrong one."""
    from great_expectations.expectations import expectation as kinds
    from great_expectations.expectations import registry

    known = registry.list_registered_expectation_implementations()
    if expectation.type not in known:
        near = difflib.get_close_matches(expectation.type, known, n=5, cutoff=0.5)  # all of them are a page
        raise AtelierError(f"validate.expect: {unknown('expectation', expectation.type, near or known)}")
    kind = registry.get_expectation_impl(expectation.type)
    by_row = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    if expectation.scope == "rows" and not issubclass(kind, by_row):
        raise AtelierError(
            f"validate.expect: {expectation.type} tells of no single row which one fails; give it scope: dataset"
        )
    if expectation.scope == "rows" and "mostly" in expectation.arguments:
        raise AtelierError(
            f"validate.expect: {expectation.type} has `mostly`, but every row that fails goes to quarantine and "
            "data.reject_at_most bounds their share; leave it out, or give it scope: dataset"
        )
    known_facts = [str(name) for name in table.columns]
    for column in _columns(expectation):
        if column not in known_facts:
            raise AtelierError(f"validate.expect: {unknown('fact', column, known_facts)}")
    try:
        return kind(**expectation.arguments, meta={"number": number, "fault": expectation.fault})
    except ValueError as error:  # pydantic's, of the first version
        raise AtelierError(f"validate.expect: {expectation.type}: {_mistake(error, kind)}") from None


def _columns(expectation: Expectation) -> list[str]:
    """The facts that an expectation names."""
    given = expectation.arguments
    several = given.get("column_list")
    named = [given.get(name) for name in ("column", "column_A", "column_B")]
    return [str(name) for name in [*named, *(several if isinstance(several, list) else [])] if name is not None]


def _mistake(error: ValueError, kind: Any) -> str:
    """What a validator of Great Expectations found, as one sentence for each argument."""
    found: dict[str, str] = {}
    for entry in getattr(error, "errors", lambda: [{"loc": (), "msg": str(error), "type": ""}])():
        word = str(entry["loc"][0]) if entry["loc"] and entry["loc"][0] != "__root__" else ""
        extra = entry["type"] == "value_error.extra"
        found.setdefault(
            word, unknown("argument", word, kind.__fields__) if extra else f"{word} {entry['msg']}".strip()
        )
    return ". ".join(" ".join(said.split()) for said in found.values())


def _answer(expectation: Expectation, result: Any) -> Answer:
    info = result.exception_info
    for failure in [info] if "raised_exception" in info else info.values():  # one for each metric, or one in all
        if failure["raised_exception"]:
            message = " ".join(str(failure["exception_message"]).split())
            raise AtelierError(f"validate.expect: {expectation.type} cannot be asked of this dataset: {message}")
    observed = result.result.get("observed_value")
    if hasattr(observed, "item"):  # its own pages cannot show a numpy number
        observed = result.result["observed_value"] = observed.item()
    failing = tuple(int(entry["row"]) for entry in result.result.get("unexpected_index_list") or ())
    return Answer(expectation, bool(result.success), failing, observed)


def _faults(table: pd.DataFrame, answers: Iterable[Answer]) -> Faults:
    """What is wrong with each failing row, in the order of the suite."""
    found: dict[int, list[tuple[str, str]]] = {}
    for answer in answers:
        for row, line in zip(answer.rows, table.iloc[list(answer.rows)].to_dict("records"), strict=True):
            known = {str(name): None if pd.isna(value) else value for name, value in line.items()}
            reason = answer.expectation.told(known)
            found.setdefault(row, []).append((answer.expectation.fault, reason))
    return found


def _problems(table: pd.DataFrame, answers: Iterable[Answer], counts: Counter[str], at_most: float) -> list[str]:
    """Why the dataset as a whole must not be trained on; empty where it may be."""
    rejected = table[table["rejected"].notna()]
    problems = []
    if len(rejected) > at_most * len(table) or len(rejected) == len(table):
        shown = _some([f"{row.id} {row.rejected}" for row in rejected.head(SHOWN).itertuples()], len(rejected))
        kinds = ", ".join(f"{fault}: {count}" for fault, count in counts.most_common(SHOWN))
        share = f"{len(rejected)} of {len(table)} rows fail, {len(rejected) / len(table):.1%}"
        problems.append(f"{share}, over the {at_most:.1%} allowed ({kinds}): {shown}")
    for answer in answers:
        if answer.expectation.scope == "dataset" and not answer.holds:
            ids = table["id"].iloc[list(answer.rows[:SHOWN])]
            seen = f" ({len(answer.rows)}: {_some(list(ids), len(answer.rows))})" if answer.rows else ""
            seen = f" ({answer.observed})" if answer.observed is not None else seen
            problems.append(f"{answer.expectation.fault}{seen}")
    return problems


def _refusal(source: str, problems: Sequence[str], *, quarantine: Path, docs: Path) -> DataRejected:
    return DataRejected(
        f"{source} was rejected, and nothing was trained on it: {'. '.join(problems)}. Rejected rows, with their "
        f"reasons, are in {quarantine}; every check is on {docs / 'index.html'}. Mend the data, or change "
        "data.reject_at_most or the recipe's checks if they ask too much."
    )


def _sides(table: pd.DataFrame) -> dict[str, int]:
    """How many rows of each side are accepted."""
    counts = table.loc[table["rejected"].isna(), "split"].value_counts()
    return {str(side): int(counts[side]) for side in sorted(counts.index)}


def _some(shown: Sequence[str], count: int) -> str:
    return "; ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


def _reasons(found: Sequence[tuple[str, str]]) -> str:
    return "; ".join(reason for _, reason in found)


def _publish(
    pages: Mapping[str, Any],
    table: pd.DataFrame,
    counts: Counter[str],
    problems: Sequence[str],
    dataset: Dataset,
    store: Store,
) -> Artifact:
    rejected = table.loc[table["rejected"].notna(), ["id", "rejected"]]
    with store.writing("docs") as draft:
        summary = data_docs.Summary(
            source=dataset.source,
            version=dataset.version,
            accepted=_sides(table),
            rejected=[(str(name), str(why)) for name, why in rejected.itertuples(index=False, name=None)],
            faults=dict(counts.most_common()),
            problems=problems,
        )
        data_docs.write(pages, draft.directory, summary)
    return draft.artifact
