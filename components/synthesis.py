"""Synthesize: a version's samples as a labelled dataset, each held against real rows before it is one.

A sample goes where it lies further from training rows than nearly all held-out rows do, and where it stands beside one
training row alone: both bounds are calibrated on the held-out rows, in the space that the gates measure in.
N samples of a draw.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from pydantic import Field

from components import modalities, references, rows, sampling
from components.contract import Batch
from components.errors import AtelierError, DataRejected
from components.records import Artifact, Drawn, Maker, Strict, Validated
from components.spelling import unknown
from components.store import Store

FAR = 0.99  # the share of held-out rows that lie no further from training rows than the bound
ALONE = 0.001  # the share of held-out rows that look like copies by the bound
CALIBRATED_ON = 4096  # held-out rows at most
WORTH_OF = 4096  # samples, the first of them, whose worth to a classifier is measured
TRIES = 8  # samples are drawn for each that is wanted, at most
AT_ONCE = 256
SAMPLES, CARD, README = "samples.jsonl", "card.json", "README.md"
MEANING = {
    "far": "further from training rows than nearly all held-out rows",
    "copy": "beside one training row alone",
    "repeated": "the same as an earlier sample",
    "suite": "rejected by the suite of the recipe",
}
BOUNDS = {
    "far": f"{FAR:.0%} of held-out rows are no further from their nearest training row",
    "copy": f"no held-out row, or one of {1 / ALONE:.0f}, stands so much nearer to one training row than to the next",
}
LABELS = {
    "asked": "those that the model was asked for.",
    "seen": "those that the classifier of the gates sees; the model takes none.",
    "none": "there are none.",
}


class Wish(Strict):
    """What is asked for: so many rows from one seed on, of these labels in equal parts, with these controls."""

    rows: int = Field(ge=1)
    seed: int = Field(0, ge=0, le=2**53 - 1)  # the seeds after it follow
    labels: tuple[str, ...] = ()  # every class that may be asked for, unless named
    controls: dict[str, Any] = {}


def draw(maker: Maker, wish: Wish, *, store: Store) -> Drawn:
    """As many samples as are wished for that pass, with real held-out rows beside them for the suite to compare with.

    Their ids are their seeds. `DataRejected` where too few samples pass; an `AtelierError` where the model cannot make
    such a dataset at all.
    """
    endpoint = sampling.load(store.path(maker.bundle), digest=maker.bundle.digest)
    reference, sieve = _held_against(maker, endpoint, store)
    harvest = _Harvest(maker.name, endpoint, sieve, wish, _quota(maker.name, endpoint, wish))
    harvest.refuse_unlabelled()
    real = reference.real(wish.rows)
    with (
        store.writing("rows") as draft,
        pq.ParquetWriter(draft.directory / "part-00000.parquet", rows.SCHEMA, compression="none") as writer,
        (draft.directory / SAMPLES).open("w", encoding="utf-8") as told,
    ):
        for part, lines in harvest.reaped():
            writer.write_batch(part)
            told.writelines(f"{json.dumps(line)}\n" for line in lines)
        writer.write_batch(_beside(real, endpoint))
    return Drawn(
        rows=draft.artifact,
        kept=wish.rows,
        real=len(real),
        drawn=harvest.drawn,
        dropped={reason: harvest.dropped[reason] for reason in MEANING if reason != "suite"},
        bounds={"far": sieve.far, "copy": sieve.alone},
        classes=harvest.classes,
        labelled=harvest.labelled,
        worth=harvest.worth(),
    )


def _held_against(maker: Maker, endpoint: sampling.Endpoint, store: Store) -> tuple[Any, "_Sieve"]:
    """The reference of the version's own data, and what is kept by it."""
    if endpoint.edits:
        raise AtelierError(
            f"{maker.name} makes its samples from rows that it is given: a dataset of them would be made of held-out "
            "rows. Name a model that makes them from seeds alone."
        )
    reference = references.of(
        maker.shards, endpoint.spec.model_dump(mode="json"), maker.encoder, modality=maker.modality,
        classes=endpoint.spec.classes, store=store,
    )  # fmt: skip
    return reference, _Sieve.of(reference, modalities.part(maker.modality, "metrics").COPIED)


def _quota(name: str, endpoint: sampling.Endpoint, wish: Wish) -> dict[str | None, int]:
    """How many rows of each label; all of them of None where a model takes no label."""
    control = endpoint.card.controls.get("label")
    offered = [one for one in endpoint.spec.classes if control is not None and one in (control.choices or (one,))]
    if not offered and wish.labels:
        raise AtelierError(f"{name} takes no label, so that none can be asked for. Leave the labels out.")
    for label in wish.labels:
        if label not in offered:
            raise AtelierError(f"{name}: {unknown('label', label, offered)}")
    if not offered:
        return {None: wish.rows}
    named = tuple(dict.fromkeys(wish.labels)) or tuple(offered)
    return {label: wish.rows // len(named) + (at < wish.rows % len(named)) for at, label in enumerate(named)}


@dataclass(frozen=True)
class _Sieve:
    """What is kept: rows not beyond `far`, and above `alone`."""

    reference: Any
    far: float
    alone: float

    @classmethod
    def of(cls, reference: Any, copied: float) -> "_Sieve":
        """Calibrated on held-out rows; what a gate calls a copy is one here too."""
        placed = reference.placed(reference.real(CALIBRATED_ON))
        alone = float(torch.quantile(placed.alone_N.double(), ALONE))
        return cls(reference, float(torch.quantile(placed.far_N.double(), FAR)), max(copied, alone))

    def faults(self, drawn: Batch) -> list[str | None]:
        """Why each row is none to keep."""
        placed = self.reference.placed(drawn)
        far, copy = ~(placed.far_N <= self.far), placed.alone_N <= self.alone  # what is no number is far
        return [
            "copy" if near else "far" if out else None for out, near in zip(far.tolist(), copy.tolist(), strict=True)
        ]


@dataclass
class _Harvest:
    """The samples of a model that pass, and what became of the others."""

    name: str
    endpoint: sampling.Endpoint
    sieve: _Sieve
    wish: Wish
    lacking: dict[str | None, int]
    drawn: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    seen: set[bytes] = field(default_factory=set)  # digests of what is there already
    few: list[Batch] = field(default_factory=list)  # the first of them
    few_labels: list[list[int]] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.endpoint.spec.classes)

    @property
    def labelled(self) -> Literal["asked", "seen", "none"]:
        return "none" if not self.classes else "seen" if None in self.lacking else "asked"

    def refuse_unlabelled(self) -> None:
        """Raise an `AtelierError` where rows need labels that neither model nor classifier can give."""
        if self.labelled == "seen" and self.sieve.reference.seen(self.sieve.reference.real(1)) is None:
            raise AtelierError(
                f"{self.name} was trained on labelled rows and takes no label, and nothing tells the label of what it "
                "makes. Offer `label` in the recipe's controls, with a family that takes it."
            )

    def reaped(self) -> Iterator[tuple[pa.RecordBatch, list[dict[str, Any]]]]:
        """Rows of the form of `rows.py` with the seed and the controls of each, until nothing lacks."""
        base = self.sieve.reference.requests(self.endpoint.card.controls)
        while labels := self._next():
            if self.drawn >= TRIES * self.wish.rows + AT_ONCE:
                raise self._too_few()
            first = self.drawn
            self.drawn += len(labels)
            asked = [
                {**base[(first + at) % len(base)], **self.wish.controls, **({"label": label} if label else {})}
                for at, label in enumerate(labels)
            ]
            seeds = [self.wish.seed + first + at for at in range(len(labels))]
            drawn = self.endpoint.sample(seeds, asked)
            payloads = self.endpoint.encode(drawn)
            kept = self._kept(drawn, payloads, labels)
            if kept:
                yield self._rows(drawn, payloads, kept, [(seeds[at], asked[at]) for at in kept])

    def _next(self) -> list[str | None]:
        """The labels to ask for next, in turn, and no more of any than lack."""
        turns = range(min(AT_ONCE, max(self.lacking.values())))
        return [label for turn in turns for label, count in self.lacking.items() if turn < count][:AT_ONCE]

    def _kept(self, drawn: Batch, payloads: Sequence[bytes], labels: Sequence[str | None]) -> list[int]:
        """Which rows of a batch are kept; the others are counted by why they are not."""
        kept = []
        for at, fault in enumerate(self.sieve.faults(drawn)):
            digest = hashlib.sha256(payloads[at]).digest()
            fault = fault or ("repeated" if digest in self.seen else None)
            if fault is not None:
                self.dropped[fault] += 1
                continue
            self.seen.add(digest)
            self.lacking[labels[at]] -= 1
            kept.append(at)
        return kept

    def _rows(
        self, drawn: Batch, payloads: Sequence[bytes], kept: Sequence[int], made: Sequence[tuple[int, dict[str, Any]]]
    ) -> tuple[pa.RecordBatch, list[dict[str, Any]]]:
        rows_B = drawn.rows(torch.tensor(kept))
        if self.labelled == "seen":
            labels = self.sieve.reference.seen(rows_B).tolist()
        else:
            labels = [self.classes.index(asked["label"]) if self.labelled == "asked" else None for _, asked in made]
        if sum(map(len, self.few_labels)) < WORTH_OF:
            self.few.append(rows_B)
            self.few_labels.append(labels)
        part = _part(
            [str(seed) for seed, _ in made], [payloads[at] for at in kept], labels,
            [asked.get("text") for _, asked in made], "train",
        )  # fmt: skip
        return part, [{"id": str(seed), "seed": seed, "controls": asked} for seed, asked in made]

    def worth(self) -> dict[str, float]:
        """What the first of the rows are worth to a classifier, where they have labels and there is one."""
        if self.labelled == "none":
            return {}
        labels_N = torch.tensor([label for labels in self.few_labels for label in labels])
        told: dict[str, float] = self.sieve.reference.worth(self.few, labels_N, asked=self.labelled == "asked")
        return told

    def _too_few(self) -> DataRejected:
        lost = ", ".join(f"{count} {MEANING[reason]}" for reason, count in self.dropped.most_common())
        kept = self.wish.rows - sum(self.lacking.values())
        return DataRejected(
            f"of {self.drawn:,} samples of {self.name} only {kept:,} can be kept, and {self.wish.rows:,} are wanted: "
            f"{lost}. Ask for fewer rows, or for a better or more varied model."
        )


def _beside(real: Batch, endpoint: sampling.Endpoint) -> pa.RecordBatch:
    """Held-out rows in the form that samples have."""
    given = getattr(real, "labels", None)
    labels = [None] * len(real) if given is None else [label if label >= 0 else None for label in given.tolist()]
    ids = [f"real-{at}" for at in range(len(real))]
    return _part(ids, endpoint.encode(real), labels, [None] * len(real), "held_out")


def _part(
    ids: Sequence[str],
    payloads: Sequence[bytes],
    labels: Sequence[int | None],
    texts: Sequence[str | None],
    side: str,
) -> pa.RecordBatch:
    columns = [ids, payloads, labels, texts, [side] * len(ids)]
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, rows.SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=rows.SCHEMA)


def write(drawn: Drawn, validated: Validated, maker: Maker, wish: Wish, *, name: str, store: Store) -> Artifact:
    """The samples that the suite accepted as a source of the kind `parquet`, with a README and `card.json`.

    Every row has its seed and its controls: the version named on the card makes the same bytes of them.
    """
    facts = pq.read_table(store.path(validated.facts) / "facts.parquet", columns=["id", "split", "rejected"])
    accepted = {row["id"] for row in facts.to_pylist() if row["split"] == "train" and row["rejected"] is None}
    source = store.path(drawn.rows)
    told = (json.loads(line) for line in (source / SAMPLES).read_text(encoding="utf-8").splitlines())
    made = {one["id"]: one for one in told}
    plain = modalities.part(maker.modality, "codec").MEDIA_TYPE.startswith("text/")
    with store.writing("synthetic") as draft:
        schema = _schema(maker.modality, plain=plain, labelled=bool(drawn.classes))
        with pq.ParquetWriter(draft.directory / "samples.parquet", schema) as writer:
            for batch in rows.read(source):
                lines = [
                    _line(row, made, drawn, maker, plain=plain) for row in batch.to_pylist() if row["id"] in accepted
                ]
                writer.write_table(pa.Table.from_pylist(lines, schema=schema))
        card = _card(drawn, maker, wish, name=name, rows=len(accepted))
        (draft.directory / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
        (draft.directory / README).write_text(_readme(card, drawn), encoding="utf-8")
    return draft.artifact


def _schema(modality: str, *, plain: bool, labelled: bool) -> pa.Schema:
    fields = {"id": pa.string(), "text": pa.string(), modality: pa.string() if plain else pa.binary()}
    fields |= {"label": pa.string()} if labelled else {}
    return pa.schema({**fields, "seed": pa.int64(), "controls": pa.string()})


def _line(
    row: Mapping[str, Any], made: Mapping[str, Mapping[str, Any]], drawn: Drawn, maker: Maker, *, plain: bool
) -> dict[str, Any]:
    payload, one = row["payload"], made[row["id"]]
    return {
        "text": row["text"],
        "id": row["id"],
        "label": None if row["label"] is None else drawn.classes[row["label"]],
        "seed": one["seed"],
        "controls": json.dumps(one["controls"], sort_keys=True),
        maker.modality: payload.decode() if plain else payload,
    }


def _card(drawn: Drawn, maker: Maker, wish: Wish, *, name: str, rows: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": name,
        "rows": rows,
        "made_by": maker.name,
        "modality": maker.modality,
        "family": maker.family,
        "bundle": maker.bundle.digest,
        "recipe": maker.recipe,
        "data": {"version": maker.data, "commit": maker.commit},
        "encoder": None if maker.encoder is None else maker.encoder.digest,
        "seeds": {"first": wish.seed, "last": wish.seed + drawn.drawn - 1},
        "controls": wish.controls,
        "labels": drawn.labelled,
        "classes": list(drawn.classes),
        "drawn": drawn.drawn,
        "dropped": {**drawn.dropped, "suite": drawn.kept - rows},
        "bounds": {name: {"value": drawn.bounds[name], "meaning": BOUNDS[name]} for name in drawn.bounds},
        "worth": drawn.worth,
        "licence": maker.licence,
    }


def _readme(card: Mapping[str, Any], drawn: Drawn) -> str:
    """The card for a person, and in its front matter what ingestion reads of a source."""
    front = {
        "title": f"{card['rows']:,} samples of {card['made_by']}",
        "licence": card["licence"],
        "source": f"made by {card['made_by']}, which was trained on data of that licence",
        "made_by": card["made_by"],
        "bundle": card["bundle"],
        **({"classes": list(drawn.classes)} if drawn.classes else {}),
    }
    dropped = [f"| {MEANING[reason]} | {count:,} |" for reason, count in card["dropped"].items()]
    bounds = [f"- `{name}` {bound['value']:.4g}: {bound['meaning']}" for name, bound in card["bounds"].items()]
    worth = [f"- `{name}` {value:.4g}" for name, value in card["worth"].items()]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {card['name']}",
        f"**No row of this is real.** All are samples of `{card['made_by']}` (family `{card['family']}`, bundle "
        f"`{card['bundle']}`), of the seeds {card['seeds']['first']} to {card['seeds']['last']}. The version makes the "
        "same bytes of the seed and the controls that each row has beside it.",
        f"Labels: {LABELS[drawn.labelled]}",
        f"Drawn {card['drawn']:,}, kept {card['rows']:,}. What was dropped, and why:",
        "\n".join(["| why | samples |", "| --- | ---: |", *dropped]),
        "The bounds, calibrated on held-out rows of the data that the model was trained on:",
        "\n".join(bounds),
        *(["What they are worth to a classifier, tested on real held-out rows:", "\n".join(worth)] if worth else []),
        f"Its model's data: `{card['data']['version']}`, commit `{card['data']['commit'] or 'none'}`; recipe "
        f"`{card['recipe']}`. `{CARD}` says all of this to programs.",
    ]
    return "\n\n".join(parts) + "\n"
