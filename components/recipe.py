"""A recipe: YAML in, a typed and frozen `Recipe` out, every mistake named with its mend."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from zoneinfo import available_timezones

import yaml
from pydantic import AfterValidator, BaseModel, Field, JsonValue, ValidationError, field_serializer, model_validator

from components import families, measures, modalities, sources
from components.controls import PublicControl
from components.errors import AtelierError
from components.moderation import Moderation
from components.notices import Notify, masked
from components.records import Strict
from components.sources.urls import is_url, shown
from components.spelling import unknown

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(text: str) -> str:
    if not text[:-1].isdigit() or text[-1:] not in SECONDS or int(text[:-1]) == 0:
        raise ValueError(f"{text!r} is not a duration; write a whole number and one of s, m, h, d, as in 10m")
    return text


def seconds(duration: str) -> float:
    """The seconds of a duration as recipes write it."""
    return float(int(duration[:-1]) * SECONDS[duration[-1]])


Duration = Annotated[str, AfterValidator(_duration)]
ENCODERS = (".onnx", ".pt2")  # what `handed` opens
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Share = Annotated[float, Field(ge=0, le=1)]
BOUNDS = ("at_most", "at_least", "not_worse_than", "waived")  # of a gate, one of them


class HeldOut(Strict):
    """Which rows no training sees: the source's own split by `column` and `value`, or a `share` by what they hold.

    `by: block` says of text files that their blocks are the rows, each on a side of its own.
    """

    column: str | None = None
    value: str | None = None
    share: float | None = Field(None, gt=0, lt=1)
    by: Literal["digest", "block"] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "HeldOut":
        named, shared = (self.column, self.value), (self.share, self.by)
        if all(named) and not any(shared) or all(shared) and not any(named):
            return self
        raise ValueError("held_out needs either {column, value} or {share, by}, as in {share: 0.15, by: digest}")


def _kind_of_source(name: str) -> str:
    if name not in sources.NAMES:
        raise ValueError(unknown("kind of source", name, sources.NAMES))
    return name


class More(Strict):
    """A source of more rows to train on, such as a synthetic dataset: none of them is ever held out."""

    source: str = Field(repr=False)
    kind: Annotated[str, AfterValidator(_kind_of_source)] | None = None
    at_most: float = Field(gt=0, lt=1)  # the share of the training side that its rows may be, as ingested

    @field_serializer("source")
    def _without_secrets(self, source: str) -> str:
        return shown(source) if is_url(source) else source


class Data(Strict):
    source: str = Field(repr=False)  # a path in the project, or any URL that fsspec reads
    kind: Annotated[str, AfterValidator(_kind_of_source)] | None = None  # what the source holds says it unless named
    held_out: HeldOut = HeldOut(share=0.15, by="digest")
    reject_at_most: Share = 0.01
    # left out where there is none: keys stay what they were
    more: tuple[More, ...] = Field((), exclude_if=lambda more: not more)
    # of rows that a model made, leave out those that people rejected, as `atelier feedback export` has them
    exclude_rejected: bool = Field(False, exclude_if=lambda rejected: not rejected)

    @field_serializer("source")
    def _without_secrets(self, source: str) -> str:
        """A URL is written down without its user, password and query."""
        return shown(source) if is_url(source) else source


class Validate(Strict):
    suite: str | None = Field(None, pattern="^[a-z_]+$")  # the modality's own unless named
    expect: tuple[dict[str, JsonValue], ...] = ()  # more expectations: {type: ..., kwargs...}


class Alarms(Strict):
    """What follows an alarm of a training run; NaN and divergence always stop it."""

    collapse: Literal["warn", "stop"] = "warn"  # samples that lose their variety: on record, or the end of the run


class Train(Strict):
    """How long and how a candidate is trained; the recipe's are the defaults of each candidate's."""

    seed: int = Field(0, ge=0, lt=2**63)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(64, ge=2)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"  # networks by torch.compile; auto: on CUDA, where it has Triton
    clip_norm: float | None = Field(None, gt=0, allow_inf_nan=False)  # of the gradients, where a family has none
    schedule: Literal["constant", "cosine"] = "constant"  # of learning rates; cosine falls to nearly 0 at the end
    warmup: int = Field(0, ge=0)  # steps over which every learning rate rises from 0 at first
    checkpoint_every: int = Field(200, ge=1)
    time_limit: Duration | None = None
    alarms: Alarms = Alarms()

    @property
    def seconds(self) -> float | None:
        return None if self.time_limit is None else seconds(self.time_limit)


VERSION = r"^[a-z][a-z0-9-]{0,47}[a-z0-9]@([1-9][0-9]*|champion|challenger)$"


class Candidate(Strict):
    family: str
    config: dict[str, JsonValue] = {}
    # a registered version to go on from, as shakespeare@champion; left out where none is: keys stay what they were
    init: Annotated[str, Field(pattern=VERSION)] | None = Field(None, exclude_if=lambda init: init is None)
    train: Train = Train()


def _encoder(name: str) -> str:
    if name != "classifier" and not name.endswith(ENCODERS):
        raise ValueError(f"{name!r} is neither classifier nor a file that ends with {' or '.join(ENCODERS)}")
    return name


class Evaluate(Strict):
    samples: int = Field(2048, ge=16)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field((0, 1, 2), min_length=2)
    # the space of distances: a classifier that is trained for the recipe, or a file in the project
    encoder: Annotated[str, AfterValidator(_encoder)] = "classifier"


class Gate(Strict):
    """A bound on a metric: absolute, or against the champion or real rows, by what the noise of sampling allows.

    `tolerance` is a share of the other's value, `margin` is added to it. `waived` says why a metric whose modality
    has a gate on it goes without.
    """

    metric: str
    at_most: float | None = Field(None, allow_inf_nan=False)
    at_least: float | None = Field(None, allow_inf_nan=False)
    not_worse_than: Literal["champion", "real"] | None = None
    waived: str | None = Field(None, min_length=1)
    tolerance: float = Field(0.0, ge=0, allow_inf_nan=False)
    margin: float = Field(0.0, ge=0, allow_inf_nan=False)
    confidence: float = Field(0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _one_bound(self) -> "Gate":
        named = [name for name in BOUNDS if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(f"the gate on {self.metric!r} needs exactly one of {', '.join(BOUNDS)}")
        for slack in ("tolerance", "margin"):
            if getattr(self, slack) and self.not_worse_than is None:
                raise ValueError(f"the gate on {self.metric!r} has a {slack}, which only not_worse_than knows")
        if self.not_worse_than and self.metric in measures.OF_ALL:
            raise ValueError(f"{self.metric!r} is no score that others have: give it at_most")
        return self


class Promotion(Strict):
    policy: Literal["manual", "auto"] = "manual"
    approvals: int = Field(0, ge=0)


class Serve(Strict):
    max_samples: int = Field(16, ge=1)
    latency_ms: int = Field(500, ge=1)


class Monitor(Strict):
    """When requests and outputs of the champion are compared with those of its beginning, and what an alarm is."""

    every: Duration = "1h"
    window: Duration = "24h"  # that is looked at, and that the first window lasts
    at_least: int = Field(200, ge=20)  # requests on either side of what is judged
    drift_above: float = Field(0.2, gt=0, allow_inf_nan=False)  # the index of shift (PSI)

    @property
    def seconds(self) -> float:
        """Of the window."""
        return seconds(self.window)


def _cron(text: str) -> str:
    from cronsim import CronSim, CronSimError

    try:
        next(CronSim(text, datetime(2026, 1, 1)))
    except (CronSimError, StopIteration) as error:
        told = str(error) or "no day is ever like that"
        raise ValueError(
            f"{text!r} is no cron line ({told}); write minute, hour, day of the month, month and day of the week, as "
            "in '0 3 * * *' for three in the morning"
        ) from None
    return text


def _zone(name: str) -> str:
    if name not in (known := available_timezones()):
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown time zone {name!r}{hint} Zones are called as Europe/Paris, or UTC")
    return name


class Schedule(Strict):
    """When the recipe runs by the clock: a line of `cron` in a time zone, or `every` so often.

    `catch_up` says what becomes of starts that were missed while the platform was down, `overlap` what a start does
    that finds a run of the model on.
    """

    cron: Annotated[str, AfterValidator(_cron)] | None = None
    every: Duration | None = Field(None, exclude_if=lambda every: every is None)
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    catch_up: Literal["none", "one", "all"] = "one"
    overlap: Literal["queue", "skip"] = "queue"
    owner: str | None = Field(None, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _one_way(self) -> "Schedule":
        if (self.cron is None) == (self.every is None):
            raise ValueError("a schedule needs either cron, as in '0 3 * * *', or every, as in 6h")
        return self


class Retrain(Strict):
    """What else starts a run; each starts one, however often it happens within `wait`, and it says why it ran."""

    data: bool = False  # the source has a new version
    drift: bool = False  # the monitor found drift
    removal: bool = False  # rows were excluded
    feedback_below: Share | None = None  # the share of thumbs up
    older_than: Duration | None = None  # the champion
    after: tuple[str, ...] = ()  # other models: their champion has changed
    wait: Duration = "30s"

    @property
    def seconds(self) -> float:
        return seconds(self.wait)


class Recipe(Strict):
    """One dataset, its checks and preparation, the candidates, the metrics and gates, and the serving limits."""

    model: str = Field(pattern=r"^[a-z][a-z0-9-]{0,47}[a-z0-9]$")  # what a tag of BentoML's takes
    modality: str
    data: Data
    validation: Validate = Field(default=Validate(), alias="validate")
    prepare: dict[str, JsonValue] = {}
    train: Train = Train()
    candidates: dict[Name, Candidate] = Field(min_length=1)
    evaluate: Evaluate = Evaluate()
    gates: tuple[Gate, ...] = ()  # those of the modality are added
    rank_by: str
    controls: dict[str, PublicControl] = {}
    promotion: Promotion = Promotion()
    serve: Serve = Serve()
    moderation: Moderation = Moderation()
    schedule: Schedule | None = None
    # never written down: its URLs hold secrets, and what a model is does not hang on who is told of it
    notify: Notify | None = Field(None, exclude=True, repr=False)
    monitor: Monitor | None = Field(None, exclude_if=lambda monitor: monitor is None)
    retrain: Retrain | None = Field(None, exclude_if=lambda retrain: retrain is None)


class _Yaml(yaml.SafeLoader):
    """YAML in which a key that stands twice is a mistake, not the second one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _yaml(text: str) -> Any:
    """What a text says; an error names the place of a mistake without its line, as that may hold a secret."""
    try:
        return yaml.load(text, _Yaml)
    except yaml.MarkedYAMLError as error:
        for mark in (error.context_mark, error.problem_mark):
            if mark is not None:
                mark.buffer = None
        raise


def load(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with `path=value` settings laid over it; an `AtelierError` names each mistake."""
    try:
        raw = _yaml(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise AtelierError(f"there is no recipe {path}. Recipes lie in flows/recipes/, one YAML file each.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AtelierError(f"the recipe {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise AtelierError(f"the recipe {path} must be a mapping that starts with `model:`, not {type(raw).__name__}")
    for setting in settings:
        _override(raw, setting)
    return parse(raw, str(path))


def parse(raw: dict[str, Any], name: str) -> Recipe:
    """The typed recipe of a mapping; checks every family, config, control and metric before anything runs."""
    shared: Any = raw.get("train")
    shared = shared if isinstance(shared, dict) else {}
    candidates = raw.get("candidates")
    if isinstance(candidates, dict):
        for candidate in candidates.values():
            if isinstance(candidate, dict) and isinstance(candidate.get("train", {}), dict):
                candidate["train"] = {**shared, **candidate.get("train", {})}
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise AtelierError(f"the recipe {name} has {_count(error)}: {'; '.join(_mistakes(error, Recipe))}") from None
    _check_meaning(recipe, name)
    return recipe


def _check_meaning(recipe: Recipe, name: str) -> None:
    if recipe.modality not in modalities.names():
        raise AtelierError(f"the recipe {name}: {unknown('modality', recipe.modality, modalities.names())}")
    for title, candidate in recipe.candidates.items():
        where = f"the recipe {name}: candidates.{title}"
        try:
            family = families.get(candidate.family)
        except AtelierError as error:
            raise AtelierError(f"{where}.family: {error}") from None
        if family.Model.modality != recipe.modality:
            raise AtelierError(
                f"{where}: the family {candidate.family!r} makes {family.Model.modality}, "
                f"but the recipe is of modality {recipe.modality}"
            )
        try:
            family.Config.model_validate(candidate.config)
        except ValidationError as error:
            mistakes = "; ".join(_mistakes(error, family.Config))
            raise AtelierError(f"{where}.config has {_count(error)}: {mistakes}") from None
        for control in recipe.controls:
            if control not in family.Controls.model_fields:
                raise AtelierError(f"{where}: {unknown('control', control, family.Controls.model_fields)}")
        _check_controls(recipe, candidate.family, f"the recipe {name}")
    prepare = modalities.part(recipe.modality, "shards").Prepare
    try:
        prepare.model_validate(recipe.prepare)
    except ValidationError as error:
        raise AtelierError(
            f"the recipe {name}: prepare has {_count(error)}: {'; '.join(_mistakes(error, prepare))}"
        ) from None
    known = measures.directions(recipe.modality)
    if recipe.evaluate.encoder != "classifier" and not modalities.has(recipe.modality, "classifier"):
        raise AtelierError(
            f"the recipe {name}: evaluate.encoder names {recipe.evaluate.encoder}, a space for pictures, and the "
            f"recipe makes {recipe.modality}, whose metrics take none. Leave it out."
        )
    if recipe.moderation.images is not None and "unsafe" not in known:
        raise AtelierError(
            f"the recipe {name}: moderation.images is about pictures, and the recipe makes {recipe.modality}"
        )
    for where, metric in [
        *((f"gates.{i}", gate.metric) for i, gate in enumerate(recipe.gates)),
        ("rank_by", recipe.rank_by),
    ]:
        if metric not in known or where == "rank_by" and metric in measures.OF_ALL:
            ranking = known if where != "rank_by" else known.keys() - measures.OF_ALL.keys()
            raise AtelierError(f"the recipe {name}: {where}: {unknown('metric', metric, ranking)}")
        lacking = measures.lacking(
            metric, modality=recipe.modality, controls=recipe.controls, prepare=recipe.prepare,
            inspected=recipe.moderation.images is not None,
        )  # fmt: skip
        if lacking is not None:
            raise AtelierError(f"the recipe {name}: {where}: {lacking}")


def _check_controls(recipe: Recipe, family: str, where: str) -> None:
    """Refuse what a recipe's controls would let a caller ask for and the family does not take."""
    controls, takes = recipe.controls, families.get(family).Controls
    defaults: dict[str, Any] = {name: control.default for name, control in controls.items()}
    bounds = [
        (f"controls.{name}", {**defaults, name: bound})
        for name, control in controls.items()
        for bound in (control.at_least, control.at_most, *(control.choices or ()))
        if bound is not None
    ]
    for place, offered in [("controls: a default", defaults), *bounds]:
        try:
            takes.model_validate(offered)
        except ValidationError as error:
            mistakes = "; ".join(_mistakes(error, takes))
            raise AtelierError(f"{where}: {place} is none that {family!r} takes: {mistakes}") from None


def _override(raw: dict[str, Any], setting: str) -> None:
    path, equals, value = setting.partition("=")
    if not equals or not path:
        told = shown(setting) if is_url(setting) else setting
        raise AtelierError(f"--set {told!r} is not of the form path=value, as in candidates.vae.train.steps=100")
    *parents, last = path.split(".")
    node: Any = raw
    try:
        parsed = _yaml(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AtelierError(f"--set {path!r}: the value is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        node[int(last) if isinstance(node, list) else last] = parsed
    except (AttributeError, IndexError, TypeError, ValueError):
        raise AtelierError(f"--set {path!r}: there is no such place in this recipe") from None


def _count(error: ValidationError) -> str:
    return "a mistake" if error.error_count() == 1 else f"{error.error_count()} mistakes"


def _mistakes(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        where = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            *parents, word = mistake["loc"]
            yield f"{where}: {unknown('key', str(word), _known_keys(model, parents))}"
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            given = mistake["input"]
            if isinstance(given, str) and mistake["loc"][:1] == ("notify",):
                given = masked(given)  # any part of it may be a secret
            elif isinstance(given, str) and is_url(given):
                given = shown(given)  # a URL may hold a password
            got = f" (got {given!r})" if isinstance(given, str | int | float) else ""
            yield f"{where}: {message}{got}" if where else message


def _known_keys(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """The keys that the model takes at that place."""
    here: Any = model
    for part in place:
        fields = _fields(here)
        here = fields[str(part)] if fields else _inside(here)  # a key of a model, or of a collection of them
    return list(_fields(here) or {})


def _fields(annotation: Any) -> dict[str, Any] | None:
    """Names and annotations of the model in `X` or `X | None`; None for a collection."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
    if get_origin(annotation) in (UnionType, Union):
        return next((found for part in get_args(annotation) if (found := _fields(part))), None)
    return None


def _inside(annotation: Any) -> Any:
    """`X` of `dict[str, X]` and of `tuple[X, ...]`."""
    return [part for part in get_args(annotation) if part is not Ellipsis][-1]


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Atelier recipe",
        **Recipe.model_json_schema(),
    }
