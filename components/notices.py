"""Who is told what happens to a model: a recipe's `notify`. Its URLs may hold secrets, and are never shown."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from components.records import Strict

Topic = Literal["verdict", "promotion", "revert", "failure", "drift"]
TOPICS: tuple[Topic, ...] = ("verdict", "promotion", "revert", "failure", "drift")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
SCHEME = re.compile(r"^[a-z][a-z0-9]*(?=://.)", re.IGNORECASE)


def _url(url: str) -> str:
    if not VARIABLE.fullmatch(url) and not SCHEME.match(url):
        raise ValueError(
            "it is no URL of Apprise, as in json://host/path or slack://${SLACK_TOKENS}, nor one of a variable alone, "
            "as in ${TEAM_URL}"
        )
    return url


class Notify(Strict):
    """Where messages go: URLs as Apprise takes them, `${NAME}` from the environment; and what they are about."""

    urls: tuple[Annotated[str, AfterValidator(_url)], ...] = Field(min_length=1, repr=False)
    on: tuple[Topic, ...] = Field(TOPICS, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _spelt(cls, told: Any) -> Any:
        """As it is meant: YAML 1.1 reads the bare word `on` as true."""
        if not isinstance(told, dict):
            return told
        return {"on" if name is True else name: value for name, value in told.items()}


def masked(url: str) -> str:
    """A URL as it may be shown: what service it is for. Any other part of it may be a token."""
    variable, scheme = VARIABLE.fullmatch(url), SCHEME.match(url)
    return url if variable else f"{scheme.group()}://***" if scheme else "***"
