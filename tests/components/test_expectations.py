"""What Great Expectations says of chunks is told as if it had seen the table at once."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from components.expectations import ACROSS_ROWS, LISTED, Questions
from components.suite import Expectation

BETWEEN = "expect_column_values_to_be_between"


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "false")


def expectation(kind: str, scope: str = "rows", **arguments: Any) -> Expectation:
    return Expectation.model_validate(
        {"type": kind, "scope": scope, "arguments": arguments, "fault": "fails", "reason": "fails"}
    )


def table(count: int, *, start: int = 0) -> pd.DataFrame:
    """Every tenth row is too wide, and the width of every twentieth is unknown."""
    numbers = range(start, start + count)
    widths = [None if n % 20 == 5 else 99 if n % 10 == 0 else 28 for n in numbers]
    return pd.DataFrame({"row": numbers, "id": [f"r{n}" for n in numbers], "width": pd.array(widths, "Int64")})


def named(rows: Sequence[int]) -> list[str]:
    return [f"r{row}" for row in rows]


def asked(given: list[Expectation], *tables: pd.DataFrame) -> Questions:
    questions = Questions("rows", given, ["row", "id", "width"])
    for one in tables:
        questions.ask(given, one)
    return questions


def test_chunks_give_the_answers_and_totals_of_the_whole() -> None:
    given = [expectation(BETWEEN, column="width", max_value=30), expectation(BETWEEN, column="width", max_value=100)]
    whole = asked(given, table(100))
    chunks = asked(given, *(table(25, start=start) for start in range(0, 100, 25)))
    for questions in (whole, chunks):
        wide, sound = questions.answers()
        assert wide.rows.tolist() == list(range(0, 100, 10)) and not wide.holds
        assert len(sound.rows) == 0 and sound.holds
        page = questions.page(named)
        assert not page.success and page.statistics["successful_expectations"] == 1
        told = page.results[0].result
        assert (told["element_count"], told["missing_count"], told["unexpected_count"]) == (100, 5, 10)
        assert told["unexpected_percent"] == pytest.approx(1000 / 95)
        assert told["missing_percent"] == 5 and told["unexpected_percent_total"] == 10
        assert [place["id"] for place in told["unexpected_index_list"]] == [f"r{n}" for n in range(0, 100, 10)]


def test_a_chunk_that_holds_says_nothing_of_another_that_does_not() -> None:
    given = [expectation(BETWEEN, column="width", max_value=30)]
    assert not asked(given, table(5, start=11), table(5, start=8)).answers()[0].holds
    assert not asked(given, table(5, start=8), table(5, start=11)).answers()[0].holds


def test_all_failing_rows_are_answered_and_the_page_lists_the_first() -> None:
    given = [expectation(BETWEEN, column="row", max_value=-1)]
    questions = asked(given, table(LISTED), table(LISTED, start=LISTED))
    assert questions.answers()[0].rows.tolist() == list(range(2 * LISTED))
    told = questions.page(named).results[0].result
    assert len(told["unexpected_index_list"]) == LISTED and told["unexpected_count"] == 2 * LISTED


def test_the_page_names_rows_whose_table_had_no_ids() -> None:
    questions = asked([expectation(BETWEEN, column="width", max_value=30)], table(20).drop(columns="id"))
    told = questions.page(named).results[0].result
    assert [(place["row"], place["id"]) for place in told["unexpected_index_list"]] == [(0, "r0"), (10, "r10")]
    assert told["unexpected_index_column_names"] == ["row", "id"]


def test_the_same_expectation_twice_is_answered_twice() -> None:
    given = [expectation(BETWEEN, column="width", max_value=30) for _ in range(2)]
    questions = Questions("rows", given, ["row", "id", "width"])
    for one in given:
        questions.ask([one], table(20))
    assert [answer.rows.tolist() for answer in questions.answers()] == [[0, 10], [0, 10]]


def test_only_what_was_asked_is_answered() -> None:
    given = [expectation(BETWEEN, column="width", max_value=30), expectation(BETWEEN, column="width", max_value=100)]
    questions = Questions("rows", given, ["row", "id", "width"])
    questions.ask(given[1:], table(10))
    (answer,) = questions.answers()
    assert answer.expectation == given[1] and len(questions.page(named).results) == 1


def test_the_expectations_that_compare_rows_are_known_ones() -> None:
    from great_expectations.expectations import registry

    assert set(registry.list_registered_expectation_implementations()) >= ACROSS_ROWS
