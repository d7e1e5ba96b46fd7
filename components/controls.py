"""The public controls of an endpoint: what a recipe declares and a caller may set."""

from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer, model_validator

from components.records import Strict

Value = bool | int | float | str
JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


class PublicControl(Strict):
    """One control: its default, and the range or the choices that a caller has.

    A default of null is drawn anew for each sample from its seed, where the family lets it be.
    """

    default: Value | None
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)
    choices: tuple[Value, ...] | None = None

    @property
    def kind(self) -> type[Value]:
        """The type of its values: of the default or, where that is drawn, of what may be chosen."""
        if self.default is None:
            kinds = {type(choice) for choice in self.choices or (0.0,)}
            return float if kinds == {int, float} else kinds.pop()
        kind = type(self.default)
        return float if kind is int and self.at_least is not None and self.at_least % 1 else kind

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Self:
        if self.default is not None:
            self.check("default", self.default)
            return self
        if not self.choices and None in (self.at_least, self.at_most):
            raise ValueError("a default of null is drawn from the seed: give at_least and at_most, or choices, with it")
        if len(kinds := {type(choice) for choice in self.choices or ()}) > 1 and kinds != {int, float}:
            raise ValueError("beside a default of null the choices must be of one kind: all words, or all numbers")
        return self

    @model_serializer(mode="wrap")
    def _whole(self, rest: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A default of null is told even where what is None is left out: it is no default that is missing."""
        told: dict[str, Any] = rest(self)
        return {"default": None, **told}

    def check(self, name: str, value: Value | None) -> None:
        """Raise a `ValueError` that names the range where a value lies outside it."""
        if value is None and self.default is None:
            return
        if self.choices is not None and value not in self.choices:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, self.choices))}")
        if isinstance(value, int | float) and not isinstance(value, bool):  # noqa: SIM102 - one thought a line
            if self.at_least is not None and value < self.at_least or self.at_most is not None and value > self.at_most:
                raise ValueError(f"{name} is {value}; it must lie between {self.at_least} and {self.at_most}")


def schema(controls: dict[str, PublicControl]) -> type[Strict]:
    """The typed, closed form of the controls that a request may carry."""
    fields: dict[str, Any] = {name: (_annotation(control), _field(control)) for name, control in controls.items()}
    return create_model("Controls", __base__=Strict, **fields)


def _annotation(control: PublicControl) -> Any:
    return control.kind | None if control.default is None else control.kind


def _field(control: PublicControl) -> Any:
    rules = {"ge": control.at_least, "le": control.at_most}
    bounds: dict[str, Any] = {key: rule for key, rule in rules.items() if rule is not None}
    drawn = control.default is None

    def told(schema: dict[str, Any]) -> None:
        if drawn:  # flat, like the rest, for those who make a form of it
            schema |= {"type": [JSON_TYPES[control.kind], "null"], **_bounds(schema.pop("anyOf"))}
        if control.choices is not None:
            schema["enum"] = [*control.choices, *([None] if drawn else [])]

    return Field(control.default, **bounds, json_schema_extra=told)


def _bounds(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The minimum and maximum of the part that is no null."""
    return {key: value for part in parts for key, value in part.items() if key != "type"}
