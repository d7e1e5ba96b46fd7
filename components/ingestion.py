"""Ingest: a source of rows, whatever its kind, into the one form of `rows.py`, in the store.

A kind of source says what columns it has and streams them as Arrow batches (see `sources/contract.py`). All the rest
(payloads, ids, labels, sides) is the same for every kind.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from components import exclusions, extras, labels, rows, versioning, workers
from components.errors import AtelierError
from components.recipe import Data, HeldOut, More
from components.records import Artifact, Dataset, Source
from components.sources import kinds, remote, urls
from components.sources.contract import ROWS_AT_ONCE, Table
from components.sources.listing import CARD, Listing, unreadable
from components.sources.repeats import Repeats
from components.spelling import unknown
from components.store import Store

ROWS_A_PART = 64 * ROWS_AT_ONCE
Sifted = Callable[[str, Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]  # without excluded rows
SHOWN = 10  # values of a column that a message lists


@dataclass(frozen=True)
class _Source:
    """An opened source whose payload, columns and classes are known."""

    name: str
    table: Table
    payload: str
    held_out: HeldOut
    named: Sequence[str]  # those of id, label and text that are there
    classes: labels.Classes


def bring(data: Data, *, project: Path, store: Store) -> Source:
    """The raw data of a recipe, here and as they should be: pulled where DVC tracks them, fetched where a URL is named.

    A URL is downloaded at each call where its listing has nothing that tells versions apart (see `remote.fetch`). An
    `AtelierError` where they cannot be had, hold work that is saved nowhere, or have a link that leads out of them.
    """
    versioning.pull(project, exclusions.FOLDER)
    source, *more = (_brought(one, data, project, store) for one in _sources(data))
    return source.model_copy(update={"more": tuple(more)})


def _sources(data: Data) -> list[str]:
    return [data.source, *(more.source for more in data.more)]


def _brought(named: str, data: Data, project: Path, store: Store) -> Source:
    if urls.is_url(named):
        version = remote.fetch(named, store).digest
        held = exclusions.holding(project, named)
        return Source(name=urls.shown(named), version=version, commit=None, excluded=exclusions.fingerprint_of(held))
    versioning.pull(project, named)
    if (feedback := _feedback_on(named, data, project)) is not None:
        versioning.pull(project, feedback)
    return _local(named, data, project)


def known(data: Data, *, project: Path) -> Source | None:
    """What `bring` would say, without moving or writing anything; None where only a download would tell.

    That is so of a URL, of a folder that DVC tracks while the manifest of its files is not in DVC's cache, and while
    exclusions are not here. An `AtelierError` where `bring` would have no answer either.
    """
    named = _sources(data)
    if any(urls.is_url(one) or not versioning.is_known_here(project, one) for one in named):
        return None
    if not (versioning.is_known_here(project, exclusions.FOLDER) and versioning.is_here(project, exclusions.FOLDER)):
        return None
    feedback = (_feedback_on(one, data, project) for one in named if versioning.is_here(project, one))
    if any(one is not None and not versioning.is_here(project, one) for one in feedback):
        return None
    source, *more = (_local(one, data, project) for one in named)
    return source.model_copy(update={"more": tuple(more)})


def _local(named: str, data: Data, project: Path) -> Source:
    """A source in the project as it is there, or as its `.dvc` pointer has it."""
    path = versioning.locate(project, named)
    for _ in _listing(named, project).entries() if path.is_dir() else ():
        pass  # so that no link is followed before it is known where it leads
    return Source(
        name=path.relative_to(project.resolve()).as_posix(),
        version=versioning.version_of(project, named),
        commit=versioning.commit_of(project, named),
        excluded=exclusions.fingerprint_of(_held(named, data, project)),
    )


def _held(named: str, data: Data, project: Path) -> tuple[exclusions.Exclusion, ...]:
    """What holds for a source: its exclusions, and what people rejected of it where the recipe says so."""
    held, feedback = exclusions.holding(project, named), _feedback_on(named, data, project)
    return held if feedback is None else (*held, *extras.rejected(project / feedback, named))


def _feedback_on(named: str, data: Data, project: Path) -> str | None:
    """Where the feedback lies on the model that made a source, if the recipe leaves out what was rejected."""
    if not data.exclude_rejected or urls.is_url(named) or named == data.source:
        return None
    made_by = _card(_listing(named, project)).get("made_by")
    return None if made_by is None else extras.feedback_on(str(made_by).partition("@")[0])


def ingest(data: Data, *, modality: str, project: Path, store: Store, source: Source | None = None) -> Dataset:
    """The rows of a recipe's source as an artifact of kind "rows": the same source gives the same digest.

    `source` is what `bring` said of it, which is asked where it is left out. Memory is bounded by a batch of rows and a
    page of the source, and by 12 to 60 bytes a row for ids and names of files. An `AtelierError` names what is wrong
    with the source, or that it changed meanwhile; of a URL its listing alone is compared for that, never the bytes.
    """
    source = source or bring(data, project=project, store=store)
    listing = _files(data.source, source, project, store)
    card = _card(listing)
    opened = _open(listing, data, modality, card)
    left_out: dict[str, Counter[str]] = {}

    def sifted(named: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        left_out[named] = Counter()  # anew at each reading
        return _sift(batches, _held(named, data, project), modality, left_out[named])

    more = [
        _extra(one, there, _files(one.source, there, project, store), modality, opened.classes.names, sifted)
        for one, there in zip(data.more, source.more, strict=True)
    ]
    with store.writing("rows") as draft:
        sides = _write(_all_of(sifted(data.source, _canonical(opened)), more), draft.directory)
        if not sides.total() and left_out[data.source]:
            raise AtelierError(f"every row of {source.name!r} is excluded, so that there is nothing to learn from.")
        _check_sides(opened, sides)
        _check_unchanged(data, project, store, source)
    return Dataset(
        source=source.name,
        version=source.version,
        commit=source.commit,
        rows=draft.artifact,
        count=sides.total(),
        classes=opened.classes.names,
        licence=_licence(card),
        about={name: str(card[name]) for name in ("title", "source", "consent") if card.get(name)},
        excluded=dict(sorted(sum(left_out.values(), Counter()).items())),
        more=tuple(extra.told() for extra in more),
    )


def stream(
    data: Data,
    *,
    modality: str,
    project: Path,
    store: Store,
    source: Source | None = None,
    files: Collection[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a source that was brought, in the form of `rows.SCHEMA`, excluded ones too; of those `files` alone.

    Of pictures and recordings with metadata all rows come. `source` is what `bring` said of one at a URL.
    """
    listing = _files(data.source, source, project, store)
    if files is not None:
        listing = replace(listing, within=frozenset(files))
    return _canonical(_open(listing, data, modality, _card(listing)))


def _sift(
    batches: Iterator[pa.RecordBatch],
    held: Sequence[exclusions.Exclusion],
    modality: str,
    left_out: Counter[str],
) -> Iterator[pa.RecordBatch]:
    """The rows that are not excluded; those that are, are counted by why."""
    if not held:
        yield from batches
        return
    for batch in workers.mapped(exclusions.judge, batches, options=exclusions.options(held, modality)):
        reasons = batch[exclusions.WHY.name]
        left_out.update(reason for reason in reasons.to_pylist() if reason is not None)
        kept = batch.select(rows.SCHEMA.names).filter(reasons.is_null())
        if len(kept):
            yield pa.RecordBatch.from_arrays(kept.columns, schema=rows.SCHEMA)


def _check_unchanged(data: Data, project: Path, store: Store, source: Source) -> None:
    versioning.pull(project, exclusions.FOLDER)
    for named, read in zip(_sources(data), (source, *source.more), strict=True):
        if urls.is_url(named):
            changed, told = remote.moved_on(named, _artifact(read), store), "its listing is another now"
        else:
            now = _brought(named, data, project, store)
            told = f"it was {read.version} and is {now.version}"
            told = "what is excluded is another now" if now.version == read.version else told
            changed = (now.version, now.excluded) != (read.version, read.excluded)  # the commit may be of other data
        if changed:
            raise AtelierError(f"the source {read.name!r} changed while it was read: {told}. Run the recipe again.")


def _artifact(source: Source) -> Artifact:
    return Artifact(kind="source", digest=source.version)


def _files(named: str, source: Source | None, project: Path, store: Store) -> Listing:
    """The files of a source that was brought here."""
    if source is not None and urls.is_url(named):
        return Listing(store.path(_artifact(source)), source.name)
    return _listing(named, project)


def _listing(named: str, project: Path) -> Listing:
    """The files of a source in the project."""
    path = versioning.locate(project, named)
    if path.is_file():
        return Listing(path.parent, named, only=path.name)
    return Listing(path, named, verified=path.is_dir() and versioning.is_tracked(project, named))


def _open(listing: Listing, data: Data, modality: str, card: Mapping[str, Any]) -> _Source:
    """The source with its kind, its columns and its classes known."""
    kind = kinds.choose(listing, data.kind)
    if kind.modality not in (None, modality):
        raise AtelierError(
            f"the source {listing.title!r} holds {kind.holds}, from which only the modality {kind.modality!r} learns, "
            f"but the recipe is of modality {modality!r}."
        )
    table = kind.open(listing, modality)
    payload = table.payload or next((name for name in (modality, "payload", "bytes") if name in table.columns), None)
    if payload is None:
        raise AtelierError(
            f"the source {listing.title!r} has no column with the bytes of each row: name it {modality!r}, 'payload' "
            f"or 'bytes'; there are: {', '.join(table.columns)}"
        )
    held_out = data.held_out
    if held_out.column is not None and held_out.column not in table.columns:
        raise AtelierError(
            f"data.held_out.column of {listing.title!r}: {unknown('column', held_out.column, table.columns)}"
        )
    if held_out.by == "block" and not table.blocks:
        raise AtelierError(
            f"data.held_out says `by: block`, which is for text files, but {listing.title!r} holds {kind.holds}, whose "
            f"rows stand as they are: write {{share: {held_out.share}, by: digest}}."
        )
    named = [name for name in ("id", "label", "text") if name in table.columns and name != payload]
    listed = card.get("classes") or ()
    classes = labels.classes(listing.title, table, listed) if "label" in named else labels.Classes()
    return _Source(listing.title, table, payload, held_out, named, classes)


def _card(listing: Listing) -> Mapping[str, Any]:
    """The front matter of the source's README.md; empty where there is none."""
    card = listing.root / CARD
    if listing.only is not None or not card.is_file():
        return {}
    try:
        head, *rest = card.read_text(encoding="utf-8-sig").split("\n---", 1)
    except UnicodeDecodeError:
        raise AtelierError(f"{card} is not UTF-8. Convert it, as with `iconv -t UTF-8`.") from None
    except OSError as error:
        raise unreadable(listing.title, error, CARD) from None
    if not head.startswith("---") or not rest:
        return {}
    try:
        facts = yaml.safe_load(head.removeprefix("---"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AtelierError(f"the front matter of {card} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("classes", []), list):
        raise AtelierError(f"the front matter of {card} must be a mapping, and its `classes` a list of names in order")
    names = [str(name) for name in facts.get("classes", [])]
    if len(set(names)) != len(names) or any(isinstance(name, list | dict) for name in facts.get("classes", [])):
        raise AtelierError(f"the `classes` of {card} must be names, none of them twice, as in [cat, dog]")
    return facts


def _extra(
    more: More, source: Source, listing: Listing, modality: str, classes: Sequence[str], sifted: Sifted
) -> extras.Extras:
    card = _card(listing)
    opened = _open(listing, Data(source=more.source, kind=more.kind), modality, card)
    return extras.Extras(
        source=source,
        share=more.at_most,
        read=lambda: sifted(more.source, _canonical(opened)),
        names=extras.matched(source.name, opened.classes.names, classes),
        licence=_licence(card),
        made_by=None if card.get("made_by") is None else str(card["made_by"]),
    )


def _licence(card: Mapping[str, Any]) -> str:
    return str(card.get("licence") or card.get("license") or "unknown")


def _all_of(batches: Iterator[pa.RecordBatch], more: Sequence[extras.Extras]) -> Iterator[pa.RecordBatch]:
    """The rows of the source, then those that further ones may bring beside its training side."""
    real = 0
    for batch in batches:
        real += batch["split"].to_pylist().count("train")
        yield batch
    for extra in more:
        yield from extra.rows(real)


def _canonical(source: _Source) -> Iterator[pa.RecordBatch]:
    """The source's rows in the form of `rows.SCHEMA`."""
    by_column = source.held_out.column
    wanted = dict.fromkeys([source.payload, *source.named, *([by_column] if by_column else [])])
    repeats = Repeats()
    for batch in source.table.read(list(wanted)):
        payloads = _payloads(source, batch)
        digests = [hashlib.sha256(payload).digest() for payload in payloads.to_pylist()]
        yield pa.RecordBatch.from_arrays(
            [
                _ids(source, batch, digests, repeats),
                payloads,
                labels.indices(batch["label"], source.classes, source.name)
                if "label" in source.named
                else pa.nulls(len(batch), pa.int64()),
                _cast(source, batch["text"], "text", pa.string())
                if "text" in source.named
                else pa.nulls(len(batch), pa.string()),
                _by_column(source, batch) if by_column else _by_digest(source.held_out, digests),
            ],
            schema=rows.SCHEMA,
        )


def _payloads(source: _Source, batch: pa.RecordBatch) -> pa.Array:
    """The bytes of each row; a row without any gets none, and is for the checks to reject."""
    column = batch[source.payload]
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:  # as Hugging Face writes them
        column = pc.struct_field(column, "bytes")
    return _cast(source, column, source.payload, pa.binary()).fill_null(b"")


def _ids(source: _Source, batch: pa.RecordBatch, digests: Sequence[bytes], repeats: Repeats) -> pa.Array:
    """The source's ids; where one is missing, 16 hex digits of the payload's sha256, `-2` and so on at a repeat."""
    given = _cast(source, batch["id"], "id", pa.string()).to_pylist() if "id" in source.named else [None] * len(batch)
    nameless = [digest[:8] for name, digest in zip(given, digests, strict=True) if name is None]
    made = iter(repeats.named([key.hex() for key in nameless], nameless))
    return pa.array([next(made) if name is None else name for name in given], pa.string())


def _by_column(source: _Source, batch: pa.RecordBatch) -> pa.Array:
    column = source.held_out.column
    assert column is not None
    held_out = pc.equal(_cast(source, batch[column], column, pa.string()), source.held_out.value).fill_null(False)
    return pc.if_else(held_out, "held_out", "train")


def _by_digest(held_out: HeldOut, digests: Iterable[bytes]) -> pa.Array:
    """A row's side hangs on its bytes alone, so it stays there as the data grows, and equal rows go together."""
    assert held_out.share is not None
    limit = int(held_out.share * 2**64)
    return pa.array(["held_out" if int.from_bytes(digest[8:16]) < limit else "train" for digest in digests])


def _cast(source: _Source, column: pa.Array, name: str, kind: pa.DataType) -> pa.Array:
    try:
        return column.cast(kind)
    except pa.ArrowException:
        raise AtelierError(f"the column {name!r} of {source.name!r} is {column.type}: it must read as {kind}") from None


def _write(batches: Iterable[pa.RecordBatch], directory: Path) -> Counter[str]:
    """Parts of `ROWS_A_PART` rows, a batch at a time; how many rows each side has."""
    sides: Counter[str] = Counter()
    stream = iter(batches)
    for part, first in enumerate(stream):
        place, written = directory / f"part-{part:05}.parquet", 0
        # Payloads are compressed already, have no useful minimum, and as a dictionary would be read all at once.
        options = {"compression": "none", "write_statistics": False, "use_dictionary": ["split"]}
        with pq.ParquetWriter(place, rows.SCHEMA, **options) as writer:
            for batch in chain([first], stream):
                writer.write_batch(batch, row_group_size=ROWS_AT_ONCE)
                sides.update(batch["split"].to_pylist())
                written += len(batch)
                if written >= ROWS_A_PART:
                    break
    return sides


def _check_sides(source: _Source, sides: Counter[str]) -> None:
    if not sides.total():
        raise AtelierError(f"the source {source.name!r} has no rows: its files are there, but empty.")
    empty = [side for side in ("train", "held_out") if not sides[side]]
    if not empty:
        return
    column = source.held_out.column
    if column is None:
        raise AtelierError(
            f"data.held_out.share {source.held_out.share} of the {sides.total()} rows of {source.name!r} leaves none "
            f"{'held out' if empty == ['held_out'] else 'to train on'}. Add rows, or change the share."
        )
    values: set[str] = set()
    for batch in source.table.read([column]):
        values.update(map(str, _cast(source, batch[column], column, pa.string()).unique().to_pylist()))
        values = set(sorted(values)[:SHOWN])
    shown = ", ".join(sorted(values))
    raise AtelierError(
        f"data.held_out says that rows of {source.name!r} with {column} = {source.held_out.value!r} are held out: that "
        f"is {'none' if empty == ['held_out'] else 'every one'} of them. The values there are: {shown}"
    )
