"""The page of a monitor: whole in itself, true to what was found, and safe from what callers' words may hold."""

import re

import pytest

from components import drift_page
from components.drift import Column, Drift, Feedback, Rate


def found(**more) -> Drift:
    told = {
        "model": "toy", "version": "1", "bundle": "sha256:b", "since": "2026-11-02T00:00:00.000Z",
        "until": "2026-11-03T00:00:00.000Z", "requests": 1234, "looked_at": 200, "references": {"mix": "sha256:m"},
        "first_window": ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"), "drift_above": 0.2, "false_alarms": 0.005,
        "columns": (
            Column(
                name="controls.label", shift=0.81, low=0.5, high=1.1, before=900, now=950, standing="drifted",
                groups=(("<script>alert(1)</script>", 0.7, 0.1), ("shoe", 0.3, 0.9)),
            ),
            Column(
                name="outputs.mean", shift=0.01, low=0.0, high=0.05, before=900, now=950, standing="steady",
                groups=(("under 1", 0.5, 0.5), ("over 1", 0.5, 0.5)), quantiles={"0.5": (1.0, 1.25)},
            ),
        ),
        "rates": (Rate(name="moderated", before=0.004, now=0.05, rise=0.03, bound=0.01, standing="drifted"),),
        "feedback": Feedback(up=1, down=9, share=0.1, high=0.4, bound=0.6, standing="drifted"),
    }  # fmt: skip
    return Drift.model_validate({**told, **more})


def test_it_says_what_was_found_where_it_can_be_seen_first() -> None:
    page = drift_page.page(found())
    head = page[: page.index("<nav>")]
    assert "controls.label and moderated moved past what chance and the bound allow; too many thumbs are down" in head
    assert "1,234, of which 200 had an output looked at" in page and "10.0% of 10 thumbs are up" in page
    assert page.count("controls.label") == 2, "in the sentence, and in the figure of the summary"
    assert "median 1 → 1.25" in page and "0.5% where the first window was compared with itself" in page


def test_it_needs_nothing_beside_it_and_runs_nothing() -> None:
    page = drift_page.page(found())
    assert "<script" not in page and not re.search(r"(?:src|href)=\"(?!#)|url\(", page)
    assert "&lt;script&gt;" in page and "color-scheme: light dark" in page and 'name="viewport"' in page


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"columns": (), "rates": (), "first_window": None}, "is not whole yet"),
        ({"columns": (), "rates": ()}, "there are too few requests to judge"),
        ({"unreadable": 3}, "3 files"),
    ],
)
def test_what_is_not_there_is_said(more, told) -> None:
    nothing = Feedback(up=0, down=0, share=None, high=1.0, bound=None, standing="told")
    assert told in drift_page.page(found(feedback=nothing, **more))
