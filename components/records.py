"""What the stages hand to each other: small frozen values that name bytes by kind and digest."""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


def fingerprint(value: Any) -> str:
    """`sha256:` of any JSON value, independent of the order of its keys."""
    return "sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Strict(BaseModel):
    """A frozen value that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Record(Strict):
    model_config = ConfigDict(ser_json_inf_nan="strings")

    def fingerprint(self) -> str:
        """`sha256:` of the record's own JSON."""
        return fingerprint(self.model_dump(mode="json"))


class Artifact(Record):
    """A folder in the store."""

    kind: str
    digest: str  # "sha256:..." of its files' names and bytes


class Source(Record):
    """Raw data, brought here as they are to be read."""

    name: str  # the path inside the project, or the URL without its secrets
    version: str  # DVC's digest of this source alone: "md5:....dir"; "sha256:..." of what DVC does not track
    commit: str | None  # the git commit whose .dvc pointer names it
    # the fingerprint of its exclusions; left out where nothing is excluded
    excluded: str | None = Field(None, exclude_if=lambda excluded: excluded is None)
    # further sources to train on, in the order of the recipe; left out where there is none, as in `Dataset`
    more: tuple["Source", ...] = Field((), exclude_if=lambda more: not more)


class Extra(Record):
    """What a further source brought to the training side."""

    source: str
    version: str
    rows: int
    licence: str
    made_by: str | None = None  # the version that made it, as "fashion@3", where it is synthetic


class Dataset(Record):
    """Ingested rows of one source, in one form whatever the source's was (see `rows.py`)."""

    source: str
    version: str
    commit: str | None
    rows: Artifact
    count: int
    classes: tuple[str, ...]  # the names of the labels, in order; empty where there are none
    licence: str
    # what else its card says: title, source, consent; left out where it says nothing
    about: dict[str, str] = Field({}, exclude_if=lambda about: not about)
    # rows that exclusions kept out of it, by why; left out where none were
    excluded: dict[str, int] = Field({}, exclude_if=lambda excluded: not excluded)
    more: tuple[Extra, ...] = Field((), exclude_if=lambda more: not more)

    @property
    def synthetic(self) -> str | None:
        """Which of its rows no camera, pen or microphone made: "1,000 rows of fashion@3 (data/synthetic-x md5:...)"."""
        made = [f"{one.rows:,} rows of {one.made_by} ({one.source} {one.version})" for one in self.more if one.made_by]
        return "; ".join(made) or None


class Validated(Record):
    """A dataset whose checks passed; `facts` says of every row its split and why it was rejected."""

    dataset: Dataset
    facts: Artifact
    quarantine: Artifact
    docs: Artifact
    accepted: dict[str, int]  # rows by split
    rejected: dict[str, int]  # rows by reason


class Shards(Record):
    """Prepared rows of both splits, memory-mapped by the modality."""

    validated: Validated
    shards: Artifact
    spec: dict[str, JsonValue]


class Beginning(Record):
    """A registered version that a candidate is trained on from."""

    name: str  # "shakespeare@3"
    family: str
    bundle: Artifact
    spec: dict[str, JsonValue]


class Trained(Record):
    """A candidate after training: its weights, what it cost, and its curves."""

    candidate: str
    family: str
    weights: Artifact
    curves: Artifact
    seed: int
    steps: int
    seconds: float
    samples_per_second: float
    parameters: int
    peak_memory: int = 0  # bytes of the training process; 0 where nobody watched it
    peak_gpu_memory: int = 0
    # of the whole machine meanwhile; left out where nothing tells it
    joules: float | None = Field(None, exclude_if=lambda joules: joules is None)
    resumed: int = 0  # deaths of the training process that were answered by going on
    stopped: Literal["budget", "time_limit"]
    begun: str | None = None  # the version that it went on from, as "shakespeare@3"
    warnings: tuple[str, ...] = ()  # alarms that the recipe did not let stop the run


class Scores(Record):
    """Metrics of one bundle against held-out rows, one value per sampling seed."""

    bundle: Artifact
    encoder: str | None  # None where the metrics need none
    held_out: str
    samples: int
    seeds: tuple[int, ...]
    values: dict[str, tuple[float, ...]]
    floor: dict[str, float]  # the same metrics between two halves of real rows
    # of what a model foretells: the same over parts of the held-out side, equal for all models; left out where none is
    parts: dict[str, tuple[float, ...]] = Field({}, exclude_if=lambda parts: not parts)
    pictures: Artifact


class Footprint(Record):
    """What serving a bundle takes, where the recipe ran."""

    bundle: Artifact
    latency_ms: tuple[float, ...]  # of one sample with the default controls, warm: medians, one per sampling seed
    bytes: int


class Check(Record):
    """One gate, answered; with its confidence the value is above `low`, and below `high`."""

    gate: str  # as a sentence: "fd at most 60"
    metric: str
    value: float
    low: float
    high: float
    bound: float | None = None
    champion: float | None = None
    passed: bool
    reason: str = ""


class Verdict(Record):
    """The outcome of the gates for one candidate, with every number, bound and interval."""

    model: str
    candidate: str
    family: str
    bundle: Artifact
    scores: Scores
    checks: tuple[Check, ...]
    rank: float
    passed: bool


class Pointer(Record):
    """A folder that DVC keeps: what `restore` needs to bring it back."""

    kind: str
    digest: str  # the store's digest of the folder
    dvc: str  # DVC's own digest, "md5:....dir"


class Registered(Record):
    """A version of a registered model."""

    model: str
    version: str
    run: str
    bundle: Artifact
    verdict: str
    created: bool  # False where the registry already held this bundle
    alias: Literal["challenger", "champion"] | None  # None until it is appointed


class Package(Record):
    """The Bento of a version, and the sample that its smoke test drew through it."""

    tag: str
    path: str
    model: str
    version: str
    bundle: Artifact
    sample: Artifact


class Maker(Record):
    """A registered version whose samples become data, with the rows that it was trained on and scored against."""

    model: str
    version: str
    modality: str
    family: str
    bundle: Artifact
    shards: Artifact
    encoder: Artifact | None  # of the metrics, where they need one
    data: str  # the version of the data
    commit: str | None
    recipe: str
    licence: str

    @property
    def name(self) -> str:
        """As in "fashion@3"."""
        return f"{self.model}@{self.version}"


class Drawn(Record):
    """Samples of a version that were held against real rows, in the form of `rows.py`, beside real held-out rows."""

    rows: Artifact
    kept: int
    real: int  # held-out rows beside them
    drawn: int
    dropped: dict[str, int]  # samples by reason
    bounds: dict[str, float]
    classes: tuple[str, ...]
    labelled: Literal["asked", "seen", "none"]  # labels were asked of the model, or seen by the gates' classifier
    worth: dict[str, float]  # to a classifier, where the modality can tell


class Outcome(Record):
    """What a run of one recipe came to."""

    validated: Validated
    verdicts: tuple[Verdict, ...]
    registered: Registered
    package: Package
