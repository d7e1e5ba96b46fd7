"""Validate: row facts once into a table, Great Expectations over that table, failing rows into quarantine.

The only door to great_expectations, which takes seconds to import and is imported when it is used.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components import data_docs, modalities, rows, suite
from components.errors import AtelierError, DataRejected
from components.recipe import Validate
from components.records import Artifact, Dataset, Validated
from components.spelling import unknown
from components.store import Store
from components.suite import Expectation

SHOWN = 5  # rows that a message names
PASSED_ON = ["id", "label", "split"]  # what a row's facts keep of the row itself

Faults = Mapping[int, Sequence[tuple[str, str]]]  # of a row, by its number: each fault with its reason


@dataclass(frozen=True)
class Answer:
    """What Great Expectations said of one expectation."""

    expectation: Expectation
    holds: bool
    rows: tuple[int, ...]  # the numbers of the failing rows, where it asks of rows
    observed: Any


def validate(dataset: Dataset, checks: Validate, *, modality: str, reject_at_most: float, store: Store) -> Validated:
    """The dataset with every row's facts, split and fate; `DataRejected` where it must not be trained on.

    Rows that fail go to quarantine, all of them, each with its reasons. More of them than the share `reject_at_most`,
    or a failure of the rows that are left as a whole, stops the run: the message names rows, reasons and where to look.
    """
    asked = suite.load(checks, modality=modality, classes=len(dataset.classes))
    if dataset.count == 0:
        raise DataRejected(f"{dataset.source} was rejected: it has no rows.")
    table = _facts(store.path(dataset.rows), modality)
    answers, pages = _ask(table, asked)
    faults = _faults(table, [answer for answer in answers if answer.expectation.scope == "rows"])
    rejected = Counter(found[0][0] for found in faults.values())
    table["rejected"] = [_reasons(faults[row]) if row in faults else None for row in table["row"]]
    quarantine, docs = _quarantine(table, faults, dataset, store), _publish(pages, table, dataset, store)
    where = store.path(quarantine), store.path(docs)
    _refuse(table, answers, rejected, reject_at_most, source=dataset.source, where=where)
    with store.writing("facts") as facts:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), facts.directory / "facts.parquet")
    sides = table.loc[table["rejected"].isna(), "split"].value_counts()
    return Validated(
        dataset=dataset,
        facts=facts.artifact,
        quarantine=quarantine,
        docs=docs,
        accepted={side: int(sides[side]) for side in sorted(sides.index)},
        rejected=dict(sorted(rejected.items())),
    )


def _facts(directory: Path, modality: str) -> pd.DataFrame:
    """One line per row: its number, id, label and split, the modality's facts, and what only the whole table tells."""
    part = modalities.part(modality, "rows")
    schema = pa.schema([rows.SCHEMA.field(name) for name in PASSED_ON] + list(part.FACTS))
    lines = [
        pa.RecordBatch.from_pylist(
            [
                {**row, **part.facts(payload)}
                for row, payload in zip(batch.select(PASSED_ON).to_pylist(), batch["payload"].to_pylist(), strict=True)
            ],
            schema=schema,
        )
        for batch in rows.read(directory)
    ]
    table: pd.DataFrame = pa.Table.from_batches(lines, schema).to_pandas(types_mapper=_nullable)
    held_out = table["split"] == "held_out"
    train = table[table["split"] == "train"]
    table["duplicate"] = table["pixel_digest"].notna() & table.duplicated(["split", "pixel_digest"])
    table["leaks"] = held_out & table["pixel_digest"].isin(train["pixel_digest"].dropna())
    near = table["near_hash"].isin(train["near_hash"].dropna()).astype("boolean")
    table["near_leaks"] = near.where(held_out)  # unknown of training rows, so that a share is one of held-out rows
    return table.assign(row=range(len(table)))


def _nullable(kind: pa.DataType) -> Any:
    return pd.Int64Dtype() if kind == pa.int64() else None


def _label_weight(table: pd.DataFrame) -> "pd.Series[float]":
    """Each row's label: its share of its side, over the share it would have if all labels were equal."""
    sides = table.groupby("split")["label"]
    share = table.groupby(["split", "label"])["label"].transform("size") / sides.transform("size")
    return share * sides.transform("nunique")


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
            here = here.assign(label_weight=_label_weight(here))
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
        raise AtelierError(f"validate.expect: {unknown('expectation', expectation.type, known)}")
    kind = registry.get_expectation_impl(expectation.type)
    by_row = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    if expectation.scope == "rows" and not issubclass(kind, by_row):
        raise AtelierError(
            f"validate.expect: {expectation.type} tells of no single row which one fails; give it scope: dataset"
        )
    columns = [expectation.arguments.get(name) for name in ("column", "column_A", "column_B")]
    for column in filter(None, [*columns, *expectation.arguments.get("column_list", [])]):  # type: ignore[misc]
        if column not in table.columns:
            raise AtelierError(f"validate.expect: {unknown('fact', str(column), map(str, table.columns))}")
    try:
        return kind(**expectation.arguments, meta={"number": number})
    except Exception as error:  # noqa: BLE001 - whatever its validators raise, the values are the recipe's
        raise AtelierError(f"validate.expect: {expectation.type}: {' '.join(str(error).split())}") from None


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
        for row, facts in zip(answer.rows, table.iloc[list(answer.rows)].to_dict("records"), strict=True):
            reason = answer.expectation.told({str(name): value for name, value in facts.items()})
            found.setdefault(row, []).append((answer.expectation.fault, reason))
    return found


def _refuse(
    table: pd.DataFrame,
    answers: Iterable[Answer],
    counts: Counter[str],
    at_most: float,
    *,
    source: str,
    where: tuple[Path, Path],
) -> None:
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
    if problems:
        quarantine, docs = where
        raise DataRejected(
            f"{source} was rejected, and nothing was trained on it: {'. '.join(problems)}. Rejected rows, with their "
            f"reasons, are in {quarantine}; every check is on {docs / 'index.html'}. Mend the data, or change "
            "data.reject_at_most or the recipe's checks if they ask too much."
        )


def _some(shown: Sequence[str], count: int) -> str:
    return "; ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


def _reasons(found: Sequence[tuple[str, str]]) -> str:
    return "; ".join(reason for _, reason in found)


def _quarantine(table: pd.DataFrame, faults: Faults, dataset: Dataset, store: Store) -> Artifact:
    """Every rejected row whole, with its reasons, and the faults counted (a row may have several)."""
    counts = Counter(fault for found in faults.values() for fault, _ in found)
    schema = rows.SCHEMA.append(pa.field("reason", pa.string(), nullable=False))
    with store.writing("quarantine") as draft:
        with pq.ParquetWriter(draft.directory / "quarantine.parquet", schema) as writer:
            for batch in _picked(rows.read(store.path(dataset.rows)), table["rejected"]):
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        (draft.directory / "reasons.json").write_text(json.dumps(dict(sorted(counts.items())), indent=2) + "\n")
    return draft.artifact


def _picked(batches: Iterable[pa.RecordBatch], rejected: "pd.Series[str]") -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        reasons = pa.array(list(rejected.iloc[start : start + len(batch)]), pa.string(), from_pandas=True)
        here = batch.select(rows.SCHEMA.names).append_column("reason", reasons).filter(reasons.is_valid())
        if len(here):
            yield here
        start += len(batch)


def _publish(pages: Mapping[str, Any], table: pd.DataFrame, dataset: Dataset, store: Store) -> Artifact:
    rejected = table.loc[table["rejected"].notna(), ["id", "rejected"]]
    with store.writing("docs") as draft:
        title = f"{dataset.source}, {len(table):,} rows, {len(rejected):,} rejected"
        data_docs.write(pages, draft.directory, title=title, rejected=list(rejected.itertuples(index=False, name=None)))
    return draft.artifact
