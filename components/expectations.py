"""Expectations asked of tables of facts, chunk by chunk; with `data_docs.py` the only door to great_expectations.

It takes seconds to import and is imported when it is used.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from components.errors import AtelierError
from components.spelling import unknown
from components.suite import Expectation

LISTED = 200  # failing rows of an expectation that the pages know; their totals count all
SAMPLED = 20  # different failing values that a page shows: Great Expectations' own number
NAMED_BY = ["row", "id"]

# These compare a row with the others, so that the whole column must be there at once.
ACROSS_ROWS = frozenset(
    {
        "expect_column_values_to_be_unique",
        "expect_compound_columns_to_be_unique",
        "expect_column_values_to_be_increasing",
        "expect_column_values_to_be_decreasing",
        "expect_column_value_z_scores_to_be_less_than",
        "expect_column_values_to_not_be_outliers",
    }
)


@dataclass(frozen=True)
class Answer:
    """What Great Expectations said of one expectation."""

    expectation: Expectation
    holds: bool
    rows: np.ndarray  # the numbers of the failing rows, where it asks of rows
    observed: Any


@dataclass
class _Tally:
    """One expectation's results so far: the first of them, to be completed, and what the others add."""

    result: Any = None
    holds: bool = True
    elements: int = 0
    missing: int = 0
    failing: list[np.ndarray] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)


class Questions:
    """The expectations of one scope, put to Great Expectations once; then asked of any number of tables."""

    def __init__(self, name: str, asked: Sequence[Expectation], known: Sequence[str]) -> None:
        """An `AtelierError` names the nearest known word where an expectation or a fact that it names is none."""
        self._name = name
        self._asked = asked
        self._built = [_built(expectation, known, number) for number, expectation in enumerate(asked)]
        self._tallies = [_Tally() for _ in asked]
        self._source = _context().data_sources.add_pandas("facts")
        self._batch = self._source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")

    def ask(self, expectations: Sequence[Expectation], table: pd.DataFrame) -> None:
        """Ask some of them of one table, whose column `row` numbers its rows; `id` may name them too."""
        import great_expectations as gx

        numbers = [n for n, known in enumerate(self._asked) if any(known is asked for asked in expectations)]
        named_by = [name for name in NAMED_BY if name in table.columns]
        form = {"result_format": "COMPLETE", "unexpected_index_column_names": named_by}
        suite = gx.ExpectationSuite(name=self._name, expectations=[self._built[number] for number in numbers])
        results = self._batch.get_batch({"dataframe": table}).validate(suite, result_format=form).results
        for result in results:  # they come in an order of their own
            number = result.expectation_config.meta["number"]
            _add(self._tallies[number], self._asked[number], result)

    def answers(self) -> list[Answer]:
        """One for each expectation that was asked, in their order."""
        return [
            Answer(expectation, tally.holds, _joined(tally.failing), tally.result.result.get("observed_value"))
            for expectation, tally in zip(self._asked, self._tallies, strict=True)
            if tally.result is not None
        ]

    def page(self, ids: Callable[[Sequence[int]], Sequence[str]]) -> Any:
        """All results as one of Great Expectations' own, with the totals of all tables.

        `ids` tells the ids of rows, by their numbers in ascending order, where a table did not have them.
        """
        from great_expectations.core import ExpectationSuiteValidationResult

        results = [_whole(tally, ids) for tally in self._tallies if tally.result is not None]
        held = sum(result.success for result in results)
        return ExpectationSuiteValidationResult(
            results=results,
            success=held == len(results),
            suite_name=self._name,
            statistics={
                "evaluated_expectations": len(results),
                "successful_expectations": held,
                "unsuccessful_expectations": len(results) - held,
                "success_percent": 100 * held / len(results) if results else None,
            },
            meta={},
        )


def _add(tally: _Tally, expectation: Expectation, result: Any) -> None:
    _check(expectation, result)
    told = result.result
    tally.holds &= bool(result.success)
    tally.elements += told.get("element_count") or 0
    tally.missing += told.get("missing_count") or 0
    places = told.pop("unexpected_index_list", None) or []
    values = told.pop("unexpected_list", None) or []
    tally.failing.append(np.array([entry["row"] for entry in places], np.int32))
    room = LISTED - len(tally.places)
    tally.places += places[:room]
    tally.values += values[:room]
    if hasattr(told.get("observed_value"), "item"):  # its own pages cannot show a numpy number
        told["observed_value"] = told["observed_value"].item()
    if tally.result is None:
        tally.result = result


def _check(expectation: Expectation, result: Any) -> None:
    info = result.exception_info
    for failure in [info] if "raised_exception" in info else info.values():  # one for each metric, or one in all
        if failure["raised_exception"]:
            message = " ".join(str(failure["exception_message"]).split())
            raise AtelierError(f"validate.expect: {expectation.type} cannot be asked of this dataset: {message}")


def _whole(tally: _Tally, ids: Callable[[Sequence[int]], Sequence[str]]) -> Any:
    """The first result, with the numbers of all."""
    result, told = tally.result, tally.result.result
    if tally.places and "id" not in tally.places[0]:
        known = ids([place["row"] for place in tally.places])
        tally.places = [{**place, "id": name} for place, name in zip(tally.places, known, strict=True)]
    result.success = tally.holds
    if "unexpected_count" not in told:
        return result
    failing, present = sum(map(len, tally.failing)), tally.elements - tally.missing
    counts = Counter(tuple(value.values()) if isinstance(value, dict) else value for value in tally.values)
    told |= {
        "element_count": tally.elements,
        "unexpected_count": failing,
        "unexpected_percent": 100 * failing / present if present else None,
        "partial_unexpected_list": tally.values[:SAMPLED],
        "partial_unexpected_counts": [{"value": v, "count": n} for v, n in counts.most_common(SAMPLED)],
        "partial_unexpected_index_list": tally.places[:SAMPLED],
        "unexpected_index_column_names": NAMED_BY,
        "unexpected_list": tally.values,
        "unexpected_index_list": tally.places,
    }
    if "missing_count" in told:
        told |= {
            "missing_count": tally.missing,
            "missing_percent": 100 * tally.missing / tally.elements if tally.elements else None,
            "unexpected_percent_total": 100 * failing / tally.elements if tally.elements else None,
            "unexpected_percent_nonmissing": 100 * failing / present if present else None,
        }
    return result


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int32)


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


def _built(expectation: Expectation, known_facts: Sequence[str], number: int) -> Any:
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
    for column in _columns(expectation):
        if column not in known_facts:
            raise AtelierError(f"validate.expect: {unknown('fact', column, known_facts)}")
    try:
        return kind(**expectation.arguments, meta={"number": number, "fault": expectation.fault})
    except ValueError as error:  # pydantic's, of the first version
        raise AtelierError(f"validate.expect: {expectation.type}: {_mistake(error, kind)}") from None


def _columns(expectation: Expectation) -> list[str]:
    """The facts that an expectation names as its columns."""
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
