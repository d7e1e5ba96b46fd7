"""The schema of public controls, as callers read it."""

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
