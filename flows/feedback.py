"""`atelier feedback export`: what people thought of a model's samples, out of the endpoints' journal into a dataset."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from components import changes, feedback, versioning
from components.errors import AtelierError
from components.extras import feedback_on
from components.feedback import Made, Pair, Sample, Set
from components.ledger import Ledger
from components.store import Store
from flows import champions, events, listing
from flows.workspace import Workspace

ASKED = "r.id, r.version, r.digest, r.seeds, r.controls"


def export(place: Workspace, model: str, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Write the set of a model and have DVC keep it; what it came to, in the form of `--json`."""
    listing.only(place, model)
    ledger, store, source = Ledger(place.ledger_url), Store(place.store), feedback_on(model)
    versions = ledger.versions(model)
    found = read(journal(place), model)
    before = versioning.locate(place.project, source)
    versioning.pull(place.project, source)
    wanted = {sample.digest for sample in found.rejected}
    made = feedback.write(
        found,
        {one.bundle: champions.brought_back(one, place) for one in versions if one.bundle in wanted},
        model=model,
        modality=versions[-1].modality,
        licence=ledger.pinned(model, "licence", versions[-1].version) or "unknown",
        before=before if (before / feedback.REJECTED).is_file() else None,
        store=store,
    )
    return _kept(place, model, source, made, store, say)


def _kept(
    place: Workspace, model: str, source: str, made: Made, store: Store, say: Callable[[str], None]
) -> dict[str, Any]:
    if not made.rejected and not made.pairs:
        raise AtelierError(
            f"there is no feedback on {model} to export{_why_not(made.lost)}. Thumbs come from the playground and from "
            "POST /v1/feedback, pairs from POST /v1/preferences."
        )
    version = changes.put(place.project, source, store.path(made.folder), say=say)
    why = f"feedback: {made.rejected:,} rejected samples and {made.pairs:,} pairs became {source}"
    events.tell(place, "dataset.made", model=model, why=why, facts={"source": source, "version": version})
    told = {"source": source, "version": version, "rejected": made.rejected, "pairs": made.pairs, "lost": made.lost}
    return {"schema": 1, "model": model, **told}


def _why_not(lost: Mapping[str, int]) -> str:
    return "".join(f"; {count:,} were rejected, but {feedback.LOST[why]}" for why, count in lost.items())


def lines(made: Mapping[str, Any]) -> list[str]:
    """What a person is told."""
    return [
        f"[green]+[/green] {made['source']}: {made['rejected']:,} rejected samples and {made['pairs']:,} pairs, "
        f"version {made['version'][:14]}; commit data.dvc to keep it",
        *(
            f"[yellow]![/yellow] {count:,} rejected samples are not in it: {feedback.LOST[why]}"
            for why, count in made["lost"].items()
        ),
    ]


def journal(place: Workspace) -> Path:
    """Where the endpoints of a workspace write down what they are asked and told."""
    return Path(os.environ.get("ATELIER_JOURNAL") or place.serving / "journal.db")


def read(path: Path, model: str) -> Set:
    """What a journal has of a model's feedback; an `AtelierError` where there is none to read."""
    with _reading(path) as base:
        thumbs = base.execute(
            f'SELECT {ASKED}, f."index" AS place, f.thumb, f.time FROM feedback f JOIN requests r ON r.id = f.request '
            'WHERE r.model = ? ORDER BY f.time, f.request, f."index"',
            (model,),
        ).fetchall()
        chosen = _chosen(base, model)
    return Set(
        rejected=tuple(_sample(row, row["place"], row["time"]) for row in thumbs if row["thumb"] == "down"),
        judged=frozenset(f"{row['id']}:{row['place']}" for row in thumbs),
        pairs=tuple(chosen),
    )


def _chosen(base: sqlite3.Connection, model: str) -> list[Pair]:
    """The pairs of a model whose requests are both still there; an older journal has none."""
    if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'preferences'").fetchone():
        return []
    asked = {
        row["id"]: row for row in base.execute(f"SELECT {ASKED} FROM requests r WHERE r.model = ?", (model,)).fetchall()
    }
    pairs = base.execute("SELECT * FROM preferences ORDER BY time, pair").fetchall()
    return [
        Pair(
            better=_sample(asked[row["better"]], row["better_index"], row["time"]),
            worse=_sample(asked[row["worse"]], row["worse_index"], row["time"]),
        )
        for row in pairs
        if row["better"] in asked and row["worse"] in asked
    ]


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise AtelierError(
            f"there is no journal {path} with feedback in it: no endpoint of this workspace has answered."
        )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as base:
            base.row_factory = sqlite3.Row
            yield base
    except sqlite3.Error as error:
        raise AtelierError(f"the journal {path} cannot be read: {error}.") from None


def _sample(row: sqlite3.Row, place: int, time: float) -> Sample:
    return Sample(
        request=row["id"],
        index=place,
        version=row["version"],
        digest=row["digest"],
        seed=json.loads(row["seeds"])[place],
        controls=json.loads(row["controls"]),
        time=time,
    )
