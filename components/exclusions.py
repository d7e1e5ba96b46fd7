"""Rows that no run may use: a person's item, a licence that ended, what people rejected; by content, not by name.

They lie in `data/exclusions/`, a file of JSON Lines for each source, so that they travel with the data and every change
of them is a commit. Ingestion leaves them out, of sources at a URL too, and its cache key holds their fingerprint.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field, ValidationError

from components import modalities
from components.errors import AtelierError
from components.records import Strict, fingerprint
from components.sources.urls import is_url, shown
from components.store import write_atomically

FOLDER = "data/exclusions"  # in a project
EVERYWHERE = "*"  # as a source: all there are
WHY = pa.field("excluded", pa.string())  # the column that `judge` adds
DIGEST = "^[0-9a-f]{64}$"


class Exclusion(Strict):
    """One row that is left out of a source, or of all; `content` is of what is in it, whatever its file format."""

    source: str  # as a recipe names it, a URL without its secrets; EVERYWHERE for all
    digest: str | None = Field(None, pattern=DIGEST)  # sha256 of its bytes
    content: str | None = Field(None, pattern=DIGEST)  # the fact `content_digest` of its modality
    row: str = ""  # what it was called when it was excluded
    why: str = Field(min_length=1)
    time: str = ""  # UTC, ISO 8601
    kind: Literal["removal", "rejected"] = "removal"


def named(source: str) -> str:
    """A source as exclusions name it."""
    return shown(source) if is_url(source) else source.rstrip("/")


def file_of(source: str) -> str:
    """The file of a source's exclusions, relative to the project."""
    if source == EVERYWHERE:
        return f"{FOLDER}/everywhere.jsonl"
    if is_url(source):
        return f"{FOLDER}/url-{hashlib.sha256(named(source).encode()).hexdigest()[:16]}.jsonl"
    return f"{FOLDER}/{named(source).removeprefix('data/')}.jsonl"


def every(project: Path) -> tuple[Exclusion, ...]:
    """All exclusions that lie in a project, by their files; an `AtelierError` names a line that is none."""
    return tuple(one for path in sorted((project / FOLDER).rglob("*.jsonl")) for one in read(path))


def holding(project: Path, source: str) -> tuple[Exclusion, ...]:
    """Those that hold for a source: its own, those of what it is a part of or holds, and those for all."""
    return tuple(one for one in every(project) if overlap(one.source, named(source)))


def overlap(one: str, other: str) -> bool:
    """Whether what is said of one source holds for the other: they are the same, or one is a part of the other."""
    return EVERYWHERE in (one, other) or one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def read(path: Path) -> list[Exclusion]:
    """The exclusions of one file; none where it is not there."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # names may hold other ends of lines
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise AtelierError(f"the exclusions in {path} cannot be read: {error}. No run goes on without them.") from None
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(line: str, where: str) -> Exclusion:
    try:
        return Exclusion.model_validate_json(line)
    except ValidationError as error:
        told = "; ".join(mistake["msg"] for mistake in error.errors(include_url=False))
        raise AtelierError(
            f"{where} is no exclusion ({told}), and no run goes on without knowing what is excluded. Mend the line, or "
            "bring the file back with `dvc checkout data`."
        ) from None


def with_more(known: Sequence[Exclusion], found: Iterable[Exclusion]) -> tuple[list[Exclusion], list[Exclusion]]:
    """The known ones with those of `found` that exclude something more; and those alone."""
    told = {(one.source, one.digest, one.content) for one in known}
    fresh = []
    for one in found:
        if (key := (one.source, one.digest, one.content)) not in told:
            told.add(key)
            fresh.append(one)
    return [*known, *fresh], fresh


def content_of(exclusions: Iterable[Exclusion]) -> bytes:
    """A file of them: a line each, in order."""
    return "".join(f"{one.model_dump_json()}\n" for one in exclusions).encode()


def write(path: Path, exclusions: Iterable[Exclusion]) -> None:
    """Replace a file of exclusions whole or not at all."""
    write_atomically(path, content_of(exclusions))


def fingerprint_of(exclusions: Collection[Exclusion]) -> str | None:
    """What is excluded and why, in short; None where nothing is, so that keys stay what they were."""
    told = sorted({(one.digest or "", one.content or "", one.why) for one in exclusions})
    return fingerprint([list(one) for one in told]) if told else None


def options(exclusions: Iterable[Exclusion], modality: str) -> dict[str, object]:
    """What `judge` is asked with."""
    listed = list(exclusions)
    by_digest = {one.digest: one.why for one in listed if one.digest}
    by_content = {one.content: one.why for one in listed if one.content}
    return {"modality": modality, "digests": by_digest, "contents": by_content}


def judge(
    batch: pa.RecordBatch, *, modality: str, digests: Mapping[str, str], contents: Mapping[str, str]
) -> pa.RecordBatch:
    """The rows with why each is excluded, null where it is not."""
    told = modalities.part(modality, "rows")
    reasons = []
    for payload in batch["payload"].to_pylist():
        why = digests.get(hashlib.sha256(payload).hexdigest())
        if why is None and contents:
            why = contents.get(told.content_digest(payload) or "")
        reasons.append(why)
    return pa.RecordBatch.from_arrays([*batch.columns, pa.array(reasons, pa.string())], schema=batch.schema.append(WHY))
