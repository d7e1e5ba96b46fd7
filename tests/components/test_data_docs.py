"""The result pages say what was checked and how it went, stand alone, and run nothing that the data say."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components import data_docs
from components.data_docs import SHOWN, Summary

HOSTILE = '<svg onload="alert(1)">'
ELSEWHERE = re.compile(r'(?:src|href)="(?!#)([^"]*)"|url\(|@import')


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """A real answer of Great Expectations: one expectation holds, two fail, on rows that are named like markup."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GX_ANALYTICS_ENABLED", "false")
        return {"rows": asked_of_rows()}


def asked_of_rows() -> Any:
    import great_expectations as gx
    import great_expectations.expectations as gxe

    ids = [f"{HOSTILE}{i}" for i in range(30)]
    table = pd.DataFrame({"row": range(30), "id": ids, "mode": [HOSTILE, *["L"] * 29], "width": [28] * 25 + [3] * 5})
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    source = context.data_sources.add_pandas("facts")
    batch = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    between = gxe.ExpectColumnValuesToBeBetween(column="width", min_value=4, meta={"fault": "is <too> narrow"})
    asked = [
        between,
        gxe.ExpectColumnValuesToBeInSet(column="mode", value_set=["L"]),
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
    ]
    suite = context.suites.add(gx.ExpectationSuite(name="rows", expectations=asked))  # type: ignore[arg-type]
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="rows", data=batch, suite=suite))
    form = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row", "id"]}
    return definition.run(batch_parameters={"dataframe": table}, result_format=form)


def summary(**changed: Any) -> Summary:
    given = {
        "source": "data/d",
        "version": "md5:abc.dir",
        "accepted": {"train": 1200, "held_out": 300},
        "rejected": [("row-7", "is blank: its grey levels deviate by 0.10")],
        "faults": {"is blank": 1},
        "problems": [],
    }
    return Summary(**given | changed)


def pages(results: dict[str, Any], directory: Path, **changed: Any) -> dict[str, str]:
    data_docs.write(results, directory, summary(**changed))
    return {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}


def test_the_index_says_what_was_checked_and_how_many_rows_came_through(
    results: dict[str, Any], tmp_path: Path
) -> None:
    index = pages(results, tmp_path)["index.html"]
    for said in ("data/d", "md5:abc.dir", "1,501", "1,500 (300 held out, 1,200 train)", "row-7", "deviate by 0.10"):
        assert said in index
    assert 'The dataset is <b class="good">accepted</b>' in index
    assert "min_value 4<" in index and "5 failing" in index and "is &lt;too&gt; narrow" in index


def test_a_rejected_dataset_is_called_so_with_every_problem(results: dict[str, Any], tmp_path: Path) -> None:
    index = pages(results, tmp_path, problems=["1 of 9 rows fail", "ids repeat (2: a<b; a<b)"])["index.html"]
    assert 'The dataset is <b class="bad">rejected</b>: nothing was trained on it' in index
    assert "1 of 9 rows fail" in index and "ids repeat (2: a&lt;b; a&lt;b)" in index


def test_pages_load_nothing_and_link_only_to_each_other(results: dict[str, Any], tmp_path: Path) -> None:
    for name, page in pages(results, tmp_path).items():
        linked = {found.group(1) for found in ELSEWHERE.finditer(page)}
        assert linked == ({"rows.html"} if name == "index.html" else {"index.html"})
        assert "<style>" in page and 'name="viewport"' in page
        assert not re.search(r"newsletter|Show All|<(script|link|iframe|input|nav|footer)\b|https?:", page)


def test_no_text_of_the_data_is_markup(results: dict[str, Any], tmp_path: Path) -> None:
    hostile = {"source": HOSTILE, "version": HOSTILE, "accepted": {HOSTILE: 1}, "rejected": [(HOSTILE, HOSTILE)]}
    for page in pages(results, tmp_path, faults={HOSTILE: 1}, problems=[HOSTILE], **hostile).values():
        assert "<svg" not in page and "&lt;svg" in page


def test_great_expectations_page_shows_the_failing_values(results: dict[str, Any], tmp_path: Path) -> None:
    page = pages(results, tmp_path)["rows.html"]
    assert "5 unexpected values found" in page and "values must be greater than or equal to" in page
    assert "&amp;lt;" not in page  # escaped once, not twice


def test_many_rejected_rows_are_cut_and_counted(results: dict[str, Any], tmp_path: Path) -> None:
    first = [(f"row-{i}", "is blank") for i in range(SHOWN)]
    faults = {"is blank": SHOWN + 1150, "is late": 50}
    index = pages(results, tmp_path, rejected=first, faults=faults)["index.html"]
    assert f"row-{SHOWN - 1}<" in index and "and 1,200 more" in index and f"in quarantine<td>{SHOWN + 1200:,}" in index


def test_the_same_results_give_the_same_bytes(results: dict[str, Any], tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = (pages(results, tmp_path / name) for name in "ab")
    assert first == second and not any(re.search(r"\d{4}-\d\d-\d\dT", page) for page in first.values())
