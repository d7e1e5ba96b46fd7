"""What people thought of samples, as data: rejected ones drawn again from their seeds, and pairs of better and worse.

The set of a model is `data/feedback-MODEL`. Samples follow from seed, controls and version, so that the journal of the
endpoints need not keep any; what cannot be drawn again is counted by why.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import Field

from components import modalities, sampling
from components.errors import AtelierError
from components.extras import feedback_on
from components.records import Artifact, Strict
from components.rows import Row
from components.store import Store

AT_ONCE = 256
LEAST = 20  # rejected samples, below which nothing is told by them
REJECTED, PAIRS, CARD, README = "rejected.parquet", "pairs.jsonl", "card.json", "README.md"
LOST = {
    "version": "their version is not in the ledger, or was another then",
    "text": "what they were asked for was not kept: set ATELIER_LOG_PROMPTS where that is allowed",
    "given": "they were made from what a caller gave, which is never kept",
}


class Sample(Strict):
    """One sample that an endpoint made, as its journal has it."""

    request: str
    index: int
    version: str
    digest: str
    seed: int
    controls: dict[str, Any]
    time: float = 0.0  # when it was judged, in unix seconds

    @property
    def id(self) -> str:
        return f"{self.request}:{self.index}"


class Pair(Strict):
    """Two samples of one model, of which somebody found the first one better."""

    better: Sample
    worse: Sample

    @property
    def id(self) -> str:
        """The same whichever is the better one."""
        return " ".join(sorted((self.better.id, self.worse.id)))


class Set(Strict):
    """What is known of a model's feedback: rejected samples by id, and pairs."""

    rejected: tuple[Sample, ...] = ()
    judged: frozenset[str] = frozenset()  # every sample on which there is a thumb now, either way
    pairs: tuple[Pair, ...] = ()


class Made(Strict):
    """A set as it was written."""

    folder: Artifact
    rejected: int
    pairs: int
    lost: dict[str, int] = Field({})  # rejected samples that could not be drawn again, by why


def write(
    found: Set,
    bundles: Mapping[str, Artifact],
    *,
    model: str,
    modality: str,
    licence: str,
    before: Path | None,
    store: Store,
) -> Made:
    """The set with all that is known of it now; `bundles` are those of the ledger's versions, by their digest.

    Samples of the set `before` stay in it, though the journal has forgotten them, unless there is another thumb on
    them by now: so do pairs.
    """
    lost: Counter[str] = Counter()
    with store.writing("feedback") as draft:
        kept = _kept(before, found.judged) if before is not None else []
        rows = [*kept, *_redrawn(found.rejected, bundles, modality, store, lost)]
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema(modality)), draft.directory / REJECTED)
        pairs = {pair.id: pair for pair in (*_pairs_before(before), *found.pairs)}  # the newest counts
        lines = "".join(f"{pair.model_dump_json()}\n" for pair in pairs.values())
        (draft.directory / PAIRS).write_text(lines, encoding="utf-8")
        told = modalities.part(modality, "rows").content_digest
        card = {
            "schema": 1,
            "model": model,
            "modality": modality,
            "licence": licence,
            "rejected": len(rows),
            "pairs": len(pairs),
            "versions": dict(sorted(Counter(row["version"] for row in rows).items())),
            "lost": dict(sorted(lost.items())),
            "contents": sorted({told(row[modality]) for row in rows}),
        }
        (draft.directory / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
        (draft.directory / README).write_text(_readme(card), encoding="utf-8")
    return Made(folder=draft.artifact, rejected=len(rows), pairs=len(pairs), lost=card["lost"])


def _schema(modality: str) -> pa.Schema:
    fields = {"id": pa.string(), modality: pa.binary(), "seed": pa.int64(), "controls": pa.string()}
    return pa.schema({**fields, "version": pa.string(), "digest": pa.string()})


def _kept(before: Path, judged: frozenset[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(before / REJECTED).to_pylist()
    return [row for row in rows if row["id"] not in judged]


def _pairs_before(before: Path | None) -> list[Pair]:
    if before is None:
        return []
    lines = (before / PAIRS).read_text(encoding="utf-8").split("\n")  # texts of callers may hold other ends of lines
    return [Pair.model_validate_json(line) for line in lines if line]


def _redrawn(
    rejected: Sequence[Sample], bundles: Mapping[str, Artifact], modality: str, store: Store, lost: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Each sample as it was made, in order of digests; those that cannot be made again are counted."""
    by_digest: dict[str, list[Sample]] = {}
    for sample in rejected:
        by_digest.setdefault(sample.digest, []).append(sample)
    for digest, samples in by_digest.items():
        if digest not in bundles:
            lost["version"] += len(samples)
            continue
        endpoint = sampling.load(store.path(bundles[digest]), digest=digest)
        if endpoint.edits:
            lost["given"] += len(samples)
            continue
        whole = [one for one in samples if one.controls.keys() == endpoint.controls.model_fields.keys()]
        lost["text"] += len(samples) - len(whole)
        for start in range(0, len(whole), AT_ONCE):
            part = whole[start : start + AT_ONCE]
            payloads = endpoint.generate([one.seed for one in part], [one.controls for one in part])
            yield from (_row(one, payload, modality) for one, payload in zip(part, payloads, strict=True))
    lost += Counter()  # without zeros


def _row(sample: Sample, payload: bytes, modality: str) -> dict[str, Any]:
    controls = json.dumps(sample.controls, sort_keys=True)
    return {**sample.model_dump(include={"seed", "version", "digest"}), "id": sample.id, "controls": controls} | {
        modality: payload
    }


def prepared(folder: Path, options: Mapping[str, Any], *, modality: str, store: Store) -> Artifact:
    """The rejected samples of a set as the shards of its modality, to be compared with others."""
    table = pq.read_table(folder / REJECTED, columns=["id", modality]).to_pylist()
    part = modalities.part(modality, "shards")
    with store.writing("rejected") as draft:
        rows = (Row(row["id"], row[modality], None, None, "train") for row in table)
        prepare = part.Prepare.model_validate(options)
        part.write(rows, draft.directory, prepare=prepare, classes=(), counts={"train": len(table)})
    return draft.artifact


def refuse_few(folder: Path, model: str) -> None:
    """Raise an `AtelierError` where there are too few rejected samples to measure anything by."""
    count = pq.read_metadata(folder / REJECTED).num_rows if (folder / REJECTED).is_file() else 0
    if count < LEAST:
        raise AtelierError(
            f"the recipe names the metric `rejected`, but {feedback_on(model)} has {count} rejected samples, and "
            f"{LEAST} are needed to measure anything by. Run `atelier feedback export {model}` when there are more "
            "thumbs down, or leave the gate out."
        )


def _readme(card: Mapping[str, Any]) -> str:
    front = {
        "title": f"feedback on {card['model']}: {card['rejected']:,} rejected samples, {card['pairs']:,} pairs",
        "licence": card["licence"],
        "source": "made by versions of the model, and judged by those who asked for them",
    }
    lost = [f"- {count:,} more were rejected and are not here: {LOST[why]}." for why, count in card["lost"].items()]
    versions = ", ".join(f"{count:,} of version {version}" for version, count in card["versions"].items())
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# Feedback on {card['model']}",
        f"**No row of this is real.** `{REJECTED}` holds the samples that got a thumb down ({versions or 'none'}), "
        "drawn again from seed, controls and version, byte for byte as they were made. Who judged them, and what they "
        "wrote, is not here.",
        *(["\n".join(lost)] if lost else []),
        f"`{PAIRS}` has a line for each preference: the better sample and the worse, by seed, controls and version.",
    ]
    return "\n\n".join(parts) + "\n"
