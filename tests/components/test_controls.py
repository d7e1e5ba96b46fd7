"""The schema of public controls, as callers read it."""

import pytest
from pydantic import ValidationError

from components.controls import PublicControl, schema


def test_bounds_and_choices_are_in_the_schema_that_callers_read() -> None:
    controls = {
        "pitch": PublicControl(default=440, at_least=100, at_most=1000),
        "shape": PublicControl(default="sine", choices=("sine", "square")),
        "fade": PublicControl(default=True),
    }
    told = schema(controls).model_json_schema()["properties"]
    assert told["pitch"] | {"minimum": 100, "maximum": 1000, "type": "integer", "default": 440} == told["pitch"]
    assert told["shape"] | {"enum": ["sine", "square"], "type": "string", "default": "sine"} == told["shape"]
    assert told["fade"]["type"] == "boolean" and "enum" not in told["fade"]


DRAWN = {
    "style": PublicControl(default=None, at_least=-2, at_most=2),
    "shape": PublicControl(default=None, choices=("sine", "square")),
    "share": PublicControl(default=None, choices=(0, 0.5)),
}


def test_a_control_that_is_drawn_takes_null_or_what_it_offers() -> None:
    told = schema(DRAWN).model_json_schema()["properties"]
    assert told["style"] == {
        "title": "Style", "type": ["number", "null"], "default": None, "minimum": -2, "maximum": 2,
    }  # fmt: skip
    assert told["shape"] | {"type": ["string", "null"], "enum": ["sine", "square", None]} == told["shape"]
    form = schema(DRAWN)
    left = {"style": None, "shape": None, "share": None}
    assert form.model_validate({}).model_dump() == form.model_validate(left, strict=True).model_dump() == left
    assert form.model_validate({"style": 1, "share": 0}, strict=True).model_dump() == left | {"style": 1, "share": 0}
    for name, value in {"style": 2.5, "shape": 1, "share": "0"}.items():
        with pytest.raises(ValidationError, match=name):
            form.model_validate({name: value}, strict=True)
    with pytest.raises(ValueError, match=r"style is 3; it must lie between -2.0 and 2.0"):
        DRAWN["style"].check("style", 3)
    with pytest.raises(ValueError, match="shape is None; choose one of 'sine'"):
        PublicControl(default="sine", choices=("sine",)).check("shape", None)


@pytest.mark.parametrize("control", DRAWN.values(), ids=DRAWN)
def test_what_is_drawn_is_told_where_nothing_is_left_out(control: PublicControl) -> None:
    kept = control.model_dump(mode="json", exclude_none=True)
    assert kept["default"] is None and PublicControl.model_validate_json(control.model_dump_json()) == control
    assert PublicControl.model_validate(kept) == control


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "default"),
        ({"default": None}, "drawn from the seed: give at_least and at_most, or choices"),
        ({"default": None, "at_least": 0}, "drawn from the seed: give at_least and at_most, or choices"),
        ({"default": None, "choices": []}, "drawn from the seed: give at_least and at_most, or choices"),
        ({"default": None, "choices": [1, "one"]}, "of one kind"),
    ],
)
def test_a_control_whose_kind_nobody_can_tell_is_refused(told: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PublicControl.model_validate(told)
