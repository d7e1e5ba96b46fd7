"""Rows of further sources beside the training side of a dataset: as many as their share allows, chosen by lot."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from components import rows
from components.errors import AtelierError
from components.exclusions import Exclusion
from components.records import Extra, Source
from components.spelling import unknown


@dataclass
class Extras:
    """A further source, and what was taken of it."""

    source: Source
    share: float  # of the training side, at most
    read: Callable[[], Iterator[pa.RecordBatch]]  # its rows in the form of `rows.py`, as often as asked
    names: Sequence[int | None]  # the index of each of its classes among those of the dataset
    licence: str
    made_by: str | None
    taken: int = 0

    def rows(self, real: int) -> Iterator[pa.RecordBatch]:
        """What may stand beside so many real training rows, all to train on.

        Which they are hangs on what they hold alone, so that a row stays in while others come and go. Memory is bounded
        by a batch, and 8 bytes a row.
        """
        allowed = int(real * self.share / (1 - self.share))
        lots = np.concatenate([np.empty(0, np.uint64), *(_lots(batch) for batch in self.read())])
        limit = np.sort(lots)[allowed - 1] if 0 < allowed < len(lots) else np.uint64(2**64 - 1)
        for batch in self.read():
            inside = np.flatnonzero(_lots(batch) <= limit)[: allowed - self.taken]
            if len(inside):
                self.taken += len(inside)
                yield self._to_train_on(batch.take(pa.array(inside)))

    def told(self) -> Extra:
        """What it brought."""
        return Extra(
            source=self.source.name,
            version=self.source.version,
            rows=self.taken,
            licence=self.licence,
            made_by=self.made_by,
        )

    def _to_train_on(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows with ids that name their source, and labels of the dataset's classes; a strange one is none."""
        places = dict(enumerate(self.names))
        title = PurePosixPath(self.source.name).name
        arrays = [
            pa.array([f"{title}/{name}" for name in batch["id"].to_pylist()]),
            batch["payload"],
            pa.array([places.get(label) for label in batch["label"].to_pylist()], pa.int64()),
            batch["text"],
            pa.array(["train"] * len(batch)),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=rows.SCHEMA)


def matched(title: str, own: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """The index of each class of a further source among those of the dataset; none counts where that has none."""
    strange = [name for name in own if wanted and name not in wanted]
    if strange:
        raise AtelierError(f"a label of {title!r}: {unknown('class', strange[0], wanted)}")
    return [wanted.index(name) if wanted else None for name in own]


def feedback_on(model: str) -> str:
    """Where the feedback on a model lies in a project, once it was exported."""
    return f"data/feedback-{model}"


def rejected(folder: Path, source: str) -> tuple[Exclusion, ...]:
    """What people rejected, by a set of feedback, as exclusions from a source; none where there is no set yet."""
    card = folder / "card.json"
    if not card.is_file():
        return ()
    contents = json.loads(card.read_bytes())["contents"]
    return tuple(Exclusion(source=source, content=one, why="people rejected it", kind="rejected") for one in contents)


def _lots(batch: pa.RecordBatch) -> np.ndarray:
    """A number of each row's payload, of other bits of its digest than those that choose ids and sides."""
    digests = b"".join(hashlib.sha256(payload).digest()[16:24] for payload in batch["payload"].to_pylist())
    return np.frombuffer(digests, ">u8").astype(np.uint64)
