"""The champion of a model and the Bentos of versions: found, brought back, packaged; without Prefect and MLflow."""

import os
from dataclasses import dataclass
from typing import Any

from components import bundle as bundles
from components import delivery, model_card, packaging
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.provenance import Signer
from components.records import Artifact, Beginning, Maker, Package, Registered
from components.store import Store
from flows import keys, listing, turns
from flows.workspace import Workspace


def find(model: str, place: Workspace) -> Registered | None:
    """The champion, its bundle brought back from DVC where the store has lost it; None where there is none yet."""
    champion = _champion(model, place)
    if champion is None:
        return None
    return Registered(
        model=champion.model,
        version=champion.version,
        run=champion.run,
        bundle=brought_back(champion, place),
        verdict=champion.verdict,
        created=False,
        alias="champion",
    )


def beginning(named: str, place: Workspace) -> Beginning:
    """The version that a candidate's `init` names, its bundle brought back where the store has lost it."""
    version = listing.find(place, named)
    bundle = brought_back(version, place)
    card, _ = bundles.read(Store(place.store).path(bundle))
    return Beginning(name=f"{version.model}@{version.version}", family=card.family, bundle=bundle, spec=card.spec)


def package(model: str, place: Workspace) -> Package | None:
    """The Bento of the champion, built and proven once; None where there is no champion yet."""
    champion = _champion(model, place)
    return None if champion is None else package_version(champion, place)


def package_version(version: Version, place: Workspace) -> Package:
    """The Bento of a registered version; built and proven where it is not there, its bundle brought back for that."""
    with turns.using(place.locks):
        return _package_version(version, place)


def _package_version(version: Version, place: Workspace) -> Package:
    store = Store(place.store)
    tag = packaging.find(version, home=place.bentos)
    if tag is not None:
        return packaging.proven(version, tag, store=store, home=place.bentos)
    ledger = Ledger(place.ledger_url)
    verdict = ledger.verdict(version.verdict)
    assert verdict is not None, "nothing is registered whose verdict is not in the ledger"
    bundle = brought_back(version, place)
    keys.init_signing(place)
    return packaging.package(
        version,
        store.path(bundle),
        verdict=verdict,
        licence=ledger.pinned(version.model, "licence", version.version),
        begun=ledger.pinned(version.model, "init", version.version),
        synthetic=ledger.pinned(version.model, "synthetic", version.version),
        signer=Signer.read(keys.signing_key(place)),
        store=store,
        home=place.bentos,
    )


def settings(place: Workspace) -> dict[str, str]:
    """What the endpoints are told: the workspace's keys, signature, journal and so on, unless the environment says.

    So it is for `atelier serve` and for `atelier up`. Keys and journal are named before there are any: the first key
    closes the door of a server that runs.
    """
    told = {
        "ATELIER_KEYS": str(place.serving / "keys.json"),
        "ATELIER_JOURNAL": str(place.serving / "journal.db"),
        "ATELIER_OBSERVATIONS": str(place.observations),
    }
    if keys.signing_key(place).is_file():
        told["ATELIER_SIGNING_KEY"] = str(keys.signing_key(place))
    return told | {name: os.environ[name] for name in model_card.SETTINGS if name in os.environ}


@dataclass(frozen=True)
class Delivered:
    """The Bento of a version, and what else was asked of it."""

    package: Package
    image: delivery.Image | None
    checked: delivery.Checked | None

    def as_dict(self) -> dict[str, Any]:
        """The form of `atelier package --json`."""
        made = self.package
        return {
            "schema": 1,
            "model": made.model,
            "version": made.version,
            "bento": made.tag,
            "path": made.path,
            "container": None if self.image is None else self.image.model_dump(),
            "check": None if self.checked is None else self.checked.model_dump(),
        }

    def lines(self) -> list[str]:
        """What a person is told."""
        told = [f"[green]+[/green] {self.package.tag}  [dim]{self.package.path}[/dim]"]
        if self.checked is not None:
            took = f"{self.checked.packages} packages in {self.checked.install_seconds} s"
            told.append(f"[green]+[/green] in a clean environment of {took}, it gave the same sample, byte for byte")
        if self.image is not None:
            told.append(f"[green]+[/green] container image {self.image.image}, made by {self.image.engine}")
        return told


def deliver(version: Version, place: Workspace, *, container: bool, check: bool) -> Delivered:
    """The Bento of a version, made where it is missing; proven in a clean environment, and as a container, if asked."""
    made = package_version(version, place)
    checked = delivery.check(made, modality=version.modality, home=place.bentos) if check else None
    image = delivery.containerize(made.tag, home=place.bentos) if container else None
    return Delivered(made, image, checked)


def ready(version: Version, place: Workspace) -> str:
    """The tag of a version's Bento, which is made first where it is missing."""
    return packaging.find(version, home=place.bentos) or package_version(version, place).tag


def _champion(model: str, place: Workspace) -> Version | None:
    ledger = Ledger(place.ledger_url)
    move = ledger.current(model).get("champion")
    return None if move is None else next(v for v in ledger.versions(model) if v.version == move.version)


def brought_back(version: Version, place: Workspace, kind: str = "bundle") -> Artifact:
    """The bundle of a version, or another part that is kept of it, in the store again where it was lost."""
    from components import versioning

    pointer = next((pointer for pointer in version.pointers if pointer.kind == kind), None)
    if pointer is None:
        raise AtelierError(
            f"the ledger does not say where the {kind} of {version.model}@{version.version} is kept, so it cannot be "
            "used. Run its recipe again to register it anew."
        )
    part, store = Artifact(kind=pointer.kind, digest=pointer.digest), Store(place.store)
    if not store.holds(part):
        with store.writing(part.kind) as draft:
            versioning.Archive(place.dvc).bring(pointer, draft.directory)
    return part


def maker(named: str, place: Workspace) -> Maker:
    """The version that is named, with all that its samples are held against, in the store again where it was lost."""
    from components import evaluation, versioning

    version, ledger, store = listing.find(place, named), Ledger(place.ledger_url), Store(place.store)
    verdict = ledger.verdict(version.verdict)
    assert verdict is not None, "nothing is registered whose verdict is not in the ledger"
    encoder = None if verdict.scores.encoder is None else Artifact(kind="encoder", digest=verdict.scores.encoder)
    if encoder is not None and not store.holds(encoder):
        archive = versioning.Archive(place.dvc)
        evaluation.bring_back(encoder, version.model, ledger=ledger, store=store, archive=archive)
    return Maker(
        **version.model_dump(include={"model", "version", "modality", "family", "data", "commit", "recipe"}),
        bundle=brought_back(version, place),
        shards=brought_back(version, place, "shards"),
        encoder=encoder,
        licence=ledger.pinned(version.model, "licence", version.version) or "unknown",
    )
