"""What is asked of a dataset, as data: the modality's own suite, then what the recipe adds. No vendor is needed."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import JsonValue

from components import modalities
from components.errors import AtelierError
from components.recipe import Validate
from components.records import Strict
from components.spelling import unknown

LABELS = "$labels"  # stands for the indices of the dataset's classes
KEYS = ("type", "scope", "needs", "fault", "reason")  # ours; every other key is an argument of the expectation
PHRASES = {
    "expect_column_values_to_be_in_set": "one of {value_set}",
    "expect_column_values_to_not_be_in_set": "none of {value_set}",
    "expect_column_values_to_not_be_null": "present",
    "expect_column_values_to_be_unique": "unique",
    "expect_column_values_to_match_regex": "of the form {regex}",
}


class _Unknown:
    """A fact that a row does not have, whatever its format in a reason."""

    def __format__(self, form: str) -> str:
        return "unknown"


UNKNOWN = _Unknown()


class Expectation(Strict):
    """One expectation of Great Expectations, and how its failure is told.

    `fault` names the kind of failure and is what is counted; `reason` may name the facts of a row, as in {width}.
    """

    type: str
    scope: Literal["rows", "dataset"]
    arguments: dict[str, JsonValue]
    fault: str
    reason: str

    def told(self, facts: Mapping[str, Any]) -> str:
        """The reason, of one row's facts, where None is unknown; an `AtelierError` where it names what is no fact."""
        try:
            return self.reason.format_map({name: UNKNOWN if value is None else value for name, value in facts.items()})
        except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            word = str(error.args[0]) if isinstance(error, KeyError) else self.reason
            raise AtelierError(f"validate.expect: the reason {self.reason!r}: {unknown('fact', word, facts)}") from None


def asked(checks: Validate, *, modality: str, classes: int) -> set[str]:
    """Every fact that is named as a column."""
    return {str(one.arguments["column"]) for one in load(checks, modality=modality, classes=classes)
            if "column" in one.arguments}  # fmt: skip


def load(checks: Validate, *, modality: str, classes: int) -> tuple[Expectation, ...]:
    """The modality's suite and then the recipe's additions; those about labels are left out where there are none."""
    path = Path(str(modalities.part(modality, "rows").__file__)).parent / "suite.yaml"
    if checks.suite not in (None, modality):
        raise AtelierError(f"validate.suite: {unknown('suite', str(checks.suite), [modality])}")
    suite = yaml.safe_load(path.read_text(encoding="utf-8"))
    asked = [{**rule, "scope": scope} for scope in ("rows", "dataset") for rule in suite[scope]]
    asked += [{"scope": "rows", **rule} for rule in checks.expect]
    return tuple(_expectation(rule, classes) for rule in asked if classes or LABELS not in rule.values())


def _expectation(rule: Mapping[str, Any], classes: int) -> Expectation:
    if not isinstance(rule.get("kwargs", {}), Mapping):
        raise AtelierError(f"validate.expect: kwargs of {rule.get('type')} must be a mapping, as in {{column: width}}")
    given = {**rule.get("kwargs", {}), **{key: value for key, value in rule.items() if key not in (*KEYS, "kwargs")}}
    arguments = {key: list(range(classes)) if value == LABELS else value for key, value in given.items()}
    if rule.get("scope") not in ("rows", "dataset"):
        raise AtelierError(f"validate.expect: {unknown('scope', str(rule.get('scope')), ['rows', 'dataset'])}")
    if not isinstance(rule.get("type"), str):
        raise AtelierError(f"validate.expect: {dict(rule)} has no type; write {{type: expect_column_..., column: ...}}")
    must = _must(rule["type"], arguments)
    column = arguments.get("column")
    fault = rule.get("fault") or rule.get("reason") or f"{column or 'the data'} must be {must}"
    plain = str(fault if "fault" in rule or column is None else must).replace("{", "{{").replace("}", "}}")
    reason = plain if "fault" in rule or column is None else f"{column} is {{{column}}}, must be {plain}"
    return Expectation(
        type=rule["type"],
        scope=rule["scope"],
        arguments=arguments,
        fault=fault,
        reason=rule.get("reason", reason),
    )


def _must(kind: str, arguments: Mapping[str, Any]) -> str:
    """What an expectation asks, in plain words as far as we have them: `between 28 and 28`."""
    low, high = arguments.get("min_value"), arguments.get("max_value")
    if kind == "expect_column_values_to_be_between":
        return f"at least {low}" if high is None else f"at most {high}" if low is None else f"between {low} and {high}"
    given = {name: _listed(value) for name, value in arguments.items() if name != "column"}
    if kind in PHRASES:
        return PHRASES[kind].format_map(defaultdict(str, given))
    rest = ", ".join(f"{name} {value}" for name, value in given.items())
    return f"as {kind} says" + (f" ({rest})" if rest else "")


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
