"""The public controls of an endpoint: what a recipe declares and a caller may set."""

from typing import Any, Self

from pydantic import Field, create_model, model_validator

from components.contract import Strict

Value = bool | int | float | str


class PublicControl(Strict):
    """One control: its default, and the range or the choices that a caller has."""

    default: Value
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)
    choices: tuple[Value, ...] | None = None

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Self:
        self.check("default", self.default)
        return self

    def check(self, name: str, value: Value) -> None:
        """Raise a `ValueError` that names the range where a value lies outside it."""
        if self.choices is not None and value not in self.choices:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, self.choices))}")
        if isinstance(value, int | float) and not isinstance(value, bool):  # noqa: SIM102 - one thought a line
            if self.at_least is not None and value < self.at_least or self.at_most is not None and value > self.at_most:
                raise ValueError(f"{name} is {value}; it must lie between {self.at_least} and {self.at_most}")


def schema(controls: dict[str, PublicControl]) -> type[Strict]:
    """The typed, closed form of the controls that a request may carry."""
    fields: dict[str, Any] = {}
    for name, control in controls.items():
        kind = type(control.default)
        kind = float if kind is int and control.at_least is not None and control.at_least % 1 else kind
        told = None if control.choices is None else {"enum": list(control.choices)}
        rules: dict[str, Any] = {"ge": control.at_least, "le": control.at_most, "json_schema_extra": told}
        fields[name] = (kind, Field(control.default, **{key: rule for key, rule in rules.items() if rule is not None}))
    return create_model("Controls", __base__=Strict, **fields)
