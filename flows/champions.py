"""The champion of a model, as the ledger names it: found, brought back, packaged; without Prefect and MLflow."""

from components import packaging, versioning
from components.ledger import Ledger, Move, Version
from components.records import Artifact, Package, Registered
from components.store import Store
from flows.workspace import Workspace


def find(model: str, place: Workspace) -> Registered | None:
    """The champion, its bundle brought back from DVC where the store has lost it; None where there is none yet."""
    named = _named(model, place)
    return None if named is None else _brought_back(named[0], place)


def package(model: str, place: Workspace) -> Package | None:
    """The Bento of the champion, built and proven once; None where there is no champion yet."""
    named = _named(model, place)
    if named is None:
        return None
    version, move = named
    champion, store = _brought_back(version, place), Store(place.store)
    return packaging.package(
        champion,
        store.path(champion.bundle),
        release=move.generation,
        trace={
            "data": version.data,
            "run": version.run,
            "recipe": version.recipe,
            "commit": version.commit or "none",
            "verdict": version.verdict,
        },
        store=store,
        home=place.bentos,
    )


def _named(model: str, place: Workspace) -> tuple[Version, Move] | None:
    """The champion's version and the move that made it champion, read once: a promotion in between cannot mix two."""
    ledger = Ledger(place.ledger_url)
    move = ledger.current(model).get("champion")
    if move is None:
        return None
    return next(entry for entry in ledger.versions(model) if entry.version == move.version), move


def _brought_back(version: Version, place: Workspace) -> Registered:
    pointer = next(pointer for pointer in version.pointers if pointer.kind == "bundle")
    bundle, store = Artifact(kind=pointer.kind, digest=pointer.digest), Store(place.store)
    if not store.holds(bundle):
        with store.writing(bundle.kind) as draft:
            versioning.Archive(place.dvc).bring(pointer, draft.directory)
    return Registered(
        model=version.model,
        version=version.version,
        run=version.run,
        bundle=bundle,
        verdict=version.verdict,
        created=False,
        alias="champion",
    )
