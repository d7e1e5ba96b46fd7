"""A registered version as a Bento: built from what serving needs only, served once as proof, then made visible.

The one door to BentoML outside `serving/`. BentoML takes its home from the environment and changes the working folder
while it builds, so it runs in a process of its own (`python -m components.packaging`). A Bento is made in a home
aside and renamed into place after its smoke test: none is ever seen half built, or before it has answered.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.closure import ROOT, Closure, closure
from components.errors import AtelierError
from components.records import Artifact, Package, Registered, fingerprint
from components.server import environment, last_lines, refuse_taken, serve, smoke
from components.store import Store, aside, digest_of, write_atomically

if TYPE_CHECKING:
    from components.ledger import Version

__all__ = ["package", "refuse_taken", "serve", "smoke"]

SERVICE = "serving.service:Generator"
ALIASES = ("champion", "challenger", "previous")


def bento_model(model: str, digest: str) -> str:
    """The tag under which a bundle lies in the Bento model store. A tag of BentoML's has at most 63 letters."""
    return f"{model}:{digest.removeprefix('sha256:')[:32]}"


def served(version: "Version") -> dict[str, Any]:
    """A version as a release record names it: its bytes, where they lie, and what they came of."""
    trace = {name: getattr(version, name) for name in ("data", "run", "recipe", "verdict")}
    return {
        "digest": version.bundle,
        "bento_model": bento_model(version.model, version.bundle),
        "trace": trace | {"commit": version.commit or "none"},
    }


def package(
    registered: Registered, bundle: Path, *, release: int, trace: Mapping[str, str], store: Store, home: Path
) -> Package:
    """The Bento of one release of a registered version, in the Bento store `home`, with the sample it drew as proof.

    `trace` leads back to the data: the names `data`, `run`, `recipe`, `commit`, `verdict`. The same content has the
    same tag and is built and tried once; a release that is packaged stays as it was proven, whatever the code is now,
    since its verdict was about that code. Raises an `AtelierError` where the bundle is not what was registered, the
    build fails, or the smoke test does.
    """
    _refuse_changed(registered, bundle)
    card = json.loads((bundle / "config.json").read_bytes())
    code = closure(_roots(card["family"], card["modality"]))
    record = _release(registered, release, trace)
    requirements = pinned(code.versions())
    content = fingerprint([record, code.digests(), requirements])
    home = home.resolve()
    tag = _packaged(home, registered.model, release, record)
    tag = tag or f"{registered.model}:r{release}-{content.removeprefix('sha256:')[:12]}"
    bento = home / "bentos" / tag.replace(":", "/")

    def proof(where: Path) -> Artifact:
        side = card["spec"]["size"]
        digest = registered.bundle.digest
        return smoke(tag, model=registered.model, digest=digest, size=(side, side), home=where, store=store)

    if not bento.is_dir():
        with aside(home) as second:
            _lend(home, second, record, registered)
            _build(second, tag, bundle, record, code, requirements)
            _note(second / bento.relative_to(home), proof(second))
            _publish(second, home)
    elif (sample := _noted(bento)) is None or not store.holds(sample):
        _note(bento, proof(home))
    sample = _noted(bento)
    assert sample is not None, "written above"
    return Package(
        tag=tag, path=str(bento), model=registered.model, version=registered.version,
        bundle=registered.bundle, sample=sample,
    )  # fmt: skip


def pinned(libraries: Iterable[str]) -> list[str]:
    """The libraries and all that they need in turn, each at its installed version: `name==version`, sorted.

    A build tag such as `+cpu` is left off, so that every index can answer.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    seen: set[str] = set()
    pins: dict[str, str] = {}
    pending = [Requirement(name) for name in libraries]
    while pending:
        need = pending.pop()
        name = canonicalize_name(need.name)
        if (key := f"{name}{sorted(need.extras)}") in seen:
            continue
        seen.add(key)
        pins[name] = f"{name}=={Version(version(name)).public}"
        for line in requires(name) or ():
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in ("", *need.extras)):
                pending.append(further)
    return [pins[name] for name in sorted(pins)]


def _packaged(home: Path, model: str, release: int, record: Mapping[str, Any]) -> str | None:
    """The tag of the Bento that this release is packaged as, if it is."""
    for bento in sorted((home / "bentos" / model).glob(f"r{release}-*")):
        if json.loads((bento / "src/release.json").read_bytes()) == record:
            return f"{model}:{bento.name}"
    return None


def _refuse_changed(registered: Registered, bundle: Path) -> None:
    found = digest_of(bundle) if bundle.is_dir() else "no folder"
    if found != registered.bundle.digest:
        raise AtelierError(
            f"the bundle of {registered.model} {registered.version} in {bundle} is {found}, not the registered "
            f"{registered.bundle.digest}. Bring it back with `atelier restore {registered.model}@{registered.version}`."
        )


def _roots(family: str, modality: str) -> list[str]:
    """The modules that a service imports, those included that it finds by name at run time."""
    parts = [f"components.modalities.{modality}.{part}" for part in ("batch", "codec")]
    return ["serving.service", f"components.families.{family}", *parts]


def _release(registered: Registered, number: int, trace: Mapping[str, str]) -> dict[str, Any]:
    """The release record, as `serving/release.py` reads it. A tag of BentoML's has at most 63 letters."""
    served = {
        "version": registered.version,
        "digest": registered.bundle.digest,
        "bento_model": f"{registered.model}:{registered.bundle.digest.removeprefix('sha256:')[:32]}",
        "trace": dict(trace),
    }
    return {"schema": 1, "number": number, "models": {registered.model: served}}


def _lend(home: Path, aside: Path, record: Mapping[str, Any], registered: Registered) -> None:
    """Show the home aside the Bento model that is already there; one whose bytes have changed is thrown away."""
    path = _model_path(record, registered.model)
    if not (home / path).is_dir():
        return
    if digest_of(home / path / "bundle") != registered.bundle.digest:
        shutil.rmtree(home / path)
        return
    (aside / path).parent.mkdir(parents=True)
    (aside / path).symlink_to(home / path)


def _build(
    aside: Path, tag: str, bundle: Path, record: Mapping[str, Any], code: Closure, requirements: list[str]
) -> None:
    """Have BentoML build the Bento in the home aside, from a folder that holds the code and the record only."""
    name, _, label = tag.partition(":")
    served = record["models"][name]
    labels = {"release": str(record["number"]), "version": served["version"], "digest": served["digest"]}
    with tempfile.TemporaryDirectory(dir=aside) as context:
        for file in code.files:
            target = Path(context, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, target)
        Path(context, "release.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
        job = {
            "model": served["bento_model"],
            "bundle": str(bundle.resolve()),
            "labels": labels,
            "build": {
                "service": SERVICE,
                "name": name,
                "version": label,
                "labels": labels | served["trace"],
                "description": _description(name, served, record["number"]),
                "models": [served["bento_model"]],
                "python": {"packages": requirements, "lock_packages": False},
                "build_ctx": context,
            },
        }
        done = subprocess.run(
            [sys.executable, "-m", "components.packaging"],
            input=json.dumps(job), text=True, capture_output=True, cwd=ROOT, env=environment(aside), check=False,
        )  # fmt: skip
    if done.returncode:
        raise AtelierError(f"BentoML could not build {tag}: {last_lines(done.stderr)}")


def _description(model: str, served: Mapping[str, Any], number: int) -> str:
    facts = {"digest": served["digest"], **served["trace"]}
    lines = [f"# {model}, version {served['version']}, release {number}", ""]
    return "\n".join(lines + [f"- {name}: `{value}`" for name, value in facts.items()]) + "\n"


def _publish(aside: Path, home: Path) -> None:
    """Rename what was made aside into the home: the models first, since Bentos name them."""
    for kind in ("models", "bentos"):
        for made in (aside / kind).glob("*/*/"):
            if made.is_symlink():
                continue
            target = home / made.relative_to(aside)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                made.rename(target)
            except OSError:
                if not target.is_dir():  # another packager of the same content may have been first
                    raise
            write_atomically(target.parent / "latest", target.name.encode())


def _model_path(record: Mapping[str, Any], model: str) -> Path:
    return Path("models", record["models"][model]["bento_model"].replace(":", "/"))


def _note(bento: Path, sample: Artifact) -> None:
    write_atomically(bento / "smoke.json", sample.model_dump_json().encode())


def _noted(bento: Path) -> Artifact | None:
    """The sample of the Bento's smoke test; none where it has not passed one."""
    path = bento / "smoke.json"
    return Artifact.model_validate_json(path.read_bytes()) if path.is_file() else None


def _build_here(job: Mapping[str, Any]) -> None:
    """What runs in BentoML's own process: store the bundle as a Bento model, then build."""
    import bentoml
    from bentoml.exceptions import BentoMLException, NotFound

    try:
        try:
            bentoml.models.get(job["model"])
        except NotFound:
            with bentoml.models.create(job["model"], labels=job["labels"]) as model:
                shutil.copytree(job["bundle"], model.path_of("bundle"))
        bentoml.build(**job["build"])
    except BentoMLException as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _build_here(json.load(sys.stdin))
