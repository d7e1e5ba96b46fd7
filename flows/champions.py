"""The champion of a model, as the ledger names it: found, brought back, packaged; without Prefect and MLflow."""

from components import packaging, versioning
from components.ledger import Ledger
from components.records import Artifact, Package, Registered
from components.store import Store
from flows.workspace import Workspace


def find(model: str, place: Workspace) -> Registered | None:
    """The champion, its bundle brought back from DVC where the store has lost it; None where there is none yet."""
    ledger = Ledger(place.ledger_url)
    move = ledger.current(model).get("champion")
    if move is None:
        return None
    version = next(entry for entry in ledger.versions(model) if entry.version == move.version)
    pointer = next(pointer for pointer in version.pointers if pointer.kind == "bundle")
    bundle, store = Artifact(kind=pointer.kind, digest=pointer.digest), Store(place.store)
    if not store.holds(bundle):
        with store.writing(bundle.kind) as draft:
            versioning.Archive(place.dvc).bring(pointer, draft.directory)
    return Registered(
        model=model,
        version=version.version,
        run=version.run,
        bundle=bundle,
        verdict=version.verdict,
        created=False,
        alias="champion",
    )


def package(model: str, place: Workspace) -> Package | None:
    """The Bento of the champion, built and proven once; None where there is no champion yet."""
    champion = find(model, place)
    if champion is None:
        return None
    ledger = Ledger(place.ledger_url)
    version = next(entry for entry in ledger.versions(model) if entry.version == champion.version)
    store = Store(place.store)
    return packaging.package(
        champion,
        store.path(champion.bundle),
        release=ledger.current(model)["champion"].generation,
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
