"""Validate: row facts once into a table, Great Expectations over that table, failing rows into quarantine.

The only door to great_expectations, which takes seconds to import and is imported when it is used.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from components import data_docs, modalities, rows
from components.errors import AtelierError, DataRejected
from components.recipe import Validate
from components.records import Artifact, Dataset, Validated
from components.spelling import unknown
from components.store import Store

REASON = pa.field("reason", pa.string(), nullable=False)
SHOWN = 5  # rows that a message names
NOT_FOR_GX = {"reason", "needs", "scope"}

Rule = Mapping[str, Any]


def validate(dataset: Dataset, checks: Validate, *, modality: str, reject_at_most: float, store: Store) -> Validated:
    """The dataset with every row's facts, split and fate; `DataRejected` where it must not be trained on.

    Rows that fail go to quarantine, all of them, each with its reasons. More of them than the share `reject_at_most`,
    or a failure of the dataset as a whole, stops the run: the message names rows, reasons and the Data Docs page.
    """
    rules = _rules(checks, modality, classes=len(dataset.classes))
    table = _facts(store.path(dataset.rows), modality)
    suite = _Suite()
    table["rejected"] = suite.reasons(table, rules["rows"])
    accepted = table[table["rejected"].isna()].drop(columns="rejected")
    weighed = accepted.assign(label_weight=_label_weight(accepted))
    broken = suite.broken(weighed, rules["dataset"]) if len(accepted) else ["no row is left"]
    docs, quarantine = _publish(suite.pages, store), _quarantine(table, dataset, store)
    _refuse(table, broken, reject_at_most, dataset, page=store.path(docs) / "index.html")
    with store.writing("facts") as facts:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), facts.directory / "facts.parquet")
    return Validated(
        dataset=dataset,
        facts=facts.artifact,
        quarantine=quarantine,
        docs=docs,
        accepted={side: int(count) for side, count in sorted(accepted["split"].value_counts().items())},
        rejected=dict(sorted(_counts(table).items())),
    )


def _facts(directory: Path, modality: str) -> pd.DataFrame:
    """One line per row: its number, id, label and split, the modality's facts, and what only the whole table tells."""
    part = modalities.part(modality, "rows")
    columns = ["id", "label", "split"]
    lines = [
        {**row, **part.facts(payload)}
        for batch in rows.read(directory)
        for row, payload in zip(batch.select(columns).to_pylist(), batch["payload"].to_pylist(), strict=True)
    ]
    schema = pa.schema([rows.SCHEMA.field(name) for name in columns] + list(part.FACTS))
    table: pd.DataFrame = pa.Table.from_pylist(lines, schema=schema).to_pandas(types_mapper=_nullable)
    held_out = table["split"] == "held_out"
    train = table[~held_out]
    table["duplicate"] = table["pixel_digest"].notna() & table.duplicated(["split", "pixel_digest"])
    table["leaks"] = held_out & table["pixel_digest"].isin(train["pixel_digest"].dropna())
    table["near_leaks"] = held_out & table["near_hash"].isin(train["near_hash"].dropna())
    return table.assign(row=range(len(table)))


def _nullable(kind: pa.DataType) -> Any:
    return pd.Int64Dtype() if kind == pa.int64() else None


def _label_weight(table: pd.DataFrame) -> "pd.Series[float]":
    """Each row's label: its share of its side, over the share it would have if all labels were equal."""
    sides = table.groupby("split")["label"]
    share = table.groupby(["split", "label"])["label"].transform("size") / sides.transform("size")
    return share * sides.transform("nunique")


def _rules(checks: Validate, modality: str, *, classes: int) -> dict[str, list[Rule]]:
    """The suite's rules and the recipe's, `$labels` filled in; those that need labels left out where there are none."""
    folder = Path(str(modalities.part(modality, "rows").__file__)).parent
    suite = folder / f"{checks.suite or 'suite'}.yaml" if checks.suite != modality else folder / "suite.yaml"
    if not suite.is_file():
        raise AtelierError(f"validate.suite: {unknown('suite', str(checks.suite), [modality])}")
    rules: dict[str, list[Rule]] = yaml.safe_load(suite.read_text(encoding="utf-8"))
    for extra in checks.expect:
        rules["dataset" if extra.get("scope") == "dataset" else "rows"].append(dict(extra))
    labelled = {"$labels": list(range(classes))} if classes else {}
    return {
        scope: [
            {key: labelled.get(value, value) if isinstance(value, str) else value for key, value in rule.items()}
            for rule in several
            if classes or "$labels" not in rule.values()
        ]
        for scope, several in rules.items()
    }


class _Suite:
    """One ephemeral context of Great Expectations, and the result pages of what it was asked."""

    def __init__(self) -> None:
        import great_expectations as gx

        self._gx = gx
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = {"globally": False}
        source = self._context.data_sources.add_pandas("facts")
        self._batch = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
        self.pages: dict[str, Any] = {}

    def reasons(self, table: pd.DataFrame, rules: Sequence[Rule]) -> "pd.Series[str]":
        """Why each row fails, every reason in turn; null where it does not."""
        found: dict[int, list[str]] = {}
        for rule, result in self._ask("rows", table, rules):
            for entry in result["result"].get("unexpected_index_list") or []:
                line = table.iloc[int(entry["row"])]
                found.setdefault(int(entry["row"]), []).append(_reason(rule, line))
        return pd.Series([("; ".join(found[i]) if i in found else None) for i in range(len(table))], dtype=object)

    def broken(self, table: pd.DataFrame, rules: Sequence[Rule]) -> list[str]:
        """What fails of the dataset as a whole, with the first rows at fault where single ones are."""
        failures = []
        for rule, result in self._ask("dataset", table, rules):
            if result["success"]:
                continue
            ids = [str(entry["id"]) for entry in result["result"].get("unexpected_index_list") or []]
            seen = f" ({len(ids)}: {_some(ids)})" if ids else f" ({result['result'].get('observed_value')})"
            failures.append(f"{rule.get('reason', rule['type'])}{seen}")
        return failures

    def _ask(self, name: str, table: pd.DataFrame, rules: Sequence[Rule]) -> Iterator[tuple[Rule, dict[str, Any]]]:
        suite = self._context.suites.add(self._gx.ExpectationSuite(name=name))
        for number, rule in enumerate(rules):
            suite.add_expectation(self._expectation(rule, table, number))
        asked = self._gx.ValidationDefinition(name=name, data=self._batch, suite=suite)
        answer = self._context.validation_definitions.add(asked).run(
            batch_parameters={"dataframe": table},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row", "id"]},
        )
        self.pages[name] = answer
        for result in answer.results:  # in an order of its own
            rule = rules[result.expectation_config.meta["rule"]]
            if result.exception_info.get("raised_exception"):
                message = str(result.exception_info.get("exception_message"))
                raise AtelierError(f"the expectation {rule['type']} could not be asked: {message}")
            yield rule, {"success": result.success, "result": result.result}

    def _expectation(self, rule: Rule, table: pd.DataFrame, number: int) -> Any:
        from great_expectations.expectations.registry import (
            get_expectation_impl,
            list_registered_expectation_implementations,
        )

        known = list_registered_expectation_implementations()
        if rule.get("type") not in known:
            raise AtelierError(f"validate.expect: {unknown('expectation', str(rule.get('type')), known)}")
        if "column" in rule and rule["column"] not in table.columns:
            raise AtelierError(f"validate.expect: {unknown('fact', str(rule['column']), map(str, table.columns))}")
        values = {key: value for key, value in rule.items() if key != "type" and key not in NOT_FOR_GX}
        try:
            return get_expectation_impl(rule["type"])(**values, meta={"rule": number})
        except Exception as error:  # noqa: BLE001 - whatever its validators raise, the values are the recipe's
            raise AtelierError(f"validate.expect: {rule['type']}: {' '.join(str(error).split())}") from None


def _reason(rule: Rule, line: "pd.Series[Any]") -> str:
    template = rule.get("reason")
    if template is not None:
        return str(template).format(**line)
    column = rule.get("column")
    return f"{column} is {line[column]}: {rule['type']}" if column else str(rule["type"])


def _refuse(table: pd.DataFrame, broken: Sequence[str], at_most: float, dataset: Dataset, *, page: Path) -> None:
    rejected = table[table["rejected"].notna()]
    share = len(rejected) / len(table)
    shown = _some([f"{line.id} {line.rejected}" for line in rejected.itertuples()])
    problems = list(broken)
    if share > at_most:
        problems.insert(
            0, f"{len(rejected)} of {len(table)} rows fail, {share:.1%}, over the {at_most:.1%} allowed: {shown}"
        )
    if problems:
        raise DataRejected(
            f"{dataset.source} was rejected, and nothing was trained on it: {'. '.join(problems)}. Every check is on "
            f"{page}. Mend the data, or change data.reject_at_most or the recipe's checks if they ask too much."
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _counts(table: pd.DataFrame) -> Counter[str]:
    return Counter(table["rejected"].dropna())


def _quarantine(table: pd.DataFrame, dataset: Dataset, store: Store) -> Artifact:
    """Every rejected row whole, with its reasons, and the reasons counted."""
    why = dict(table.loc[table["rejected"].notna(), ["row", "rejected"]].itertuples(index=False, name=None))
    schema = rows.SCHEMA.append(REASON)
    with store.writing("quarantine") as draft:
        with pq.ParquetWriter(draft.directory / "quarantine.parquet", schema) as writer:
            for batch in _picked(rows.read(store.path(dataset.rows)), why):
                writer.write_batch(batch)
        (draft.directory / "reasons.json").write_text(json.dumps(dict(sorted(_counts(table).items())), indent=2) + "\n")
    return draft.artifact


def _picked(batches: Iterable[pa.RecordBatch], why: Mapping[int, str]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        here = [index for index in range(len(batch)) if start + index in why]
        if here:
            reasons = pa.array([why[start + index] for index in here], pa.string())
            yield batch.take(pa.array(here)).append_column(REASON, reasons)
        start += len(batch)


def _publish(pages: Mapping[str, Any], store: Store) -> Artifact:
    with store.writing("docs") as draft:
        data_docs.write(pages, draft.directory)
    return draft.artifact
