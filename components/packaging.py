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
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import model_card
from components.closure import ROOT, Closure, closure
from components.errors import AtelierError
from components.records import Artifact, Package, Verdict, fingerprint
from components.server import environment, last_lines, refuse_taken, serve, smoke
from components.store import Store, aside, digest_of, file_sha256, write_atomically

if TYPE_CHECKING:
    from components.ledger import Version
    from components.provenance import Signer

__all__ = ["package", "refuse_taken", "serve", "smoke"]

MANIFEST = "manifest.json"
SERVICE = "serving.service:Generator"
ALIASES = ("champion", "challenger", "previous")
# What no import names: uvicorn takes the first two where they are there, FastAPI the third for forms.
UNNAMED = ("uvloop", "httptools", "python-multipart")
IN_A_CONTAINER = {"BENTOML_HOST": "0.0.0.0", "ATELIER_KEYS": model_card.KEYS}


@dataclass(frozen=True)
class _Plan:
    """What a Bento is made of, beside the bundle; its tag names the content. `spec` is that of its samples."""

    tag: str
    code: Closure
    requirements: list[str]
    told: str
    spec: dict[str, Any]


def package(
    version: "Version",
    bundle: Path,
    *,
    verdict: Verdict,
    licence: str | None,
    begun: str | None = None,
    synthetic: str | None = None,
    signer: "Signer",
    store: Store,
    home: Path,
) -> Package:
    """The Bento of a registered version in the Bento store `home`, with the sample that it drew as proof.

    `bundle` is the folder of its bytes, `verdict` the one that passed it, `licence` that of its data, `begun` the
    version that its training went on from, `synthetic` the rows of it that models made. The Bento has the tag
    `MODEL:vVERSION-...` and is built and tried once; it stays as it was proven, whatever the code is now, since its
    verdict was about that code. One that was changed or lost a part is made anew. Raises an `AtelierError` where the
    bundle is not what was registered, the build fails, or the smoke test does.
    """
    home = home.resolve()
    tag = find(version, home=home)
    if tag is None:
        _refuse_changed(version, bundle)
        told = model_card.text(version, verdict, bundle, licence=licence, begun=begun, synthetic=synthetic)
        plan = _planned(version, bundle, told)
        with aside(home) as second:
            _lend(home, second, version)
            _build(second, plan, version, bundle)
            _prove(second, plan, version)
            _sign(second / _bento_path(plan.tag), second, version, licence, signer)
            _publish(second, home, version)
        tag = plan.tag
    return proven(version, tag, store=store, home=home)


def find(version: "Version", *, home: Path) -> str | None:
    """The tag of a version's Bento in the store `home`, if it is there whole with its Bento model: as proven."""
    for bento in sorted((home / "bentos" / version.model).glob(f"v{version.version}-*")):
        if _is_whole(bento, home, version):
            return f"{version.model}:{bento.name}"
    return None


def proven(version: "Version", tag: str, *, store: Store, home: Path) -> Package:
    """The Bento of that tag, the sample of its smoke test in the store, where it is put if it is not there."""
    folder = home / _bento_path(tag)
    sample = Artifact(kind="sample", digest=digest_of(folder / "smoke"))
    if not store.holds(sample):
        with store.writing("sample") as draft:
            shutil.copytree(folder / "smoke", draft.directory, dirs_exist_ok=True)
    return Package(
        tag=tag, path=str(folder), model=version.model, version=version.version,
        bundle=Artifact(kind="bundle", digest=version.bundle), sample=sample,
    )  # fmt: skip


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


def _refuse_changed(version: "Version", bundle: Path) -> None:
    found = digest_of(bundle) if bundle.is_dir() else "no folder"
    if found != version.bundle:
        raise AtelierError(
            f"the bundle of {version.model} {version.version} in {bundle} is {found}, not the registered "
            f"{version.bundle}. Bring it back with `atelier restore {version.model}@{version.version}`."
        )


def _roots(family: str, modality: str) -> list[str]:
    """The modules that a service imports, those included that it finds by name at run time."""
    parts = [f"components.modalities.{modality}.{part}" for part in ("batch", "codec", "features")]
    return ["serving.service", f"components.families.{family}", *parts]


def _pages() -> dict[str, str]:
    """sha256 of the files that the service shows, such as the playground."""
    shown = (path for path in sorted((ROOT / "serving").rglob("*")) if path.suffix in (".html", ".css", ".js", ".svg"))
    return {path.relative_to(ROOT).as_posix(): file_sha256(path) for path in shown}


def _release(version: "Version") -> dict[str, Any]:
    """The release record of a Bento: its one version, as champion. It follows no ledger, so it has the number 0."""
    model = {"champion": version.version, "challenger": None, "previous": None}
    versions = {version.version: served(version)}
    return {"schema": 2, "number": 0, "models": {version.model: {**model, "versions": versions}}}


def _lend(home: Path, aside: Path, version: "Version") -> None:
    """Show the home aside the Bento model that is already there, if its bytes are still what they were."""
    path = _model_path(version)
    if (home / path / "model.yaml").is_file() and digest_of(home / path / "bundle") == version.bundle:
        (aside / path).parent.mkdir(parents=True)
        (aside / path).symlink_to(home / path)


def _planned(version: "Version", bundle: Path, told: str) -> _Plan:
    card = json.loads((bundle / "config.json").read_bytes())
    code = closure(_roots(card["family"], card["modality"]))
    requirements = pinned([*code.versions(), *UNNAMED])
    content = fingerprint([_release(version), code.digests(), _pages(), requirements, told])
    tag = f"{version.model}:v{version.version}-{content.removeprefix('sha256:')[:12]}"
    return _Plan(tag, code, requirements, told, card["spec"])


def _build(aside: Path, plan: _Plan, version: "Version", bundle: Path) -> None:
    """Have BentoML build the Bento in the home aside, from a folder that holds the code and the record only."""
    with tempfile.TemporaryDirectory(dir=aside) as context:
        for file in (*plan.code.files, *_pages()):
            target = Path(context, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, target)
        Path(context, "release.json").write_text(json.dumps(_release(version), indent=2, sort_keys=True) + "\n")
        done = subprocess.run(
            [sys.executable, "-m", "components.packaging"], input=json.dumps(_job(plan, version, bundle, context)),
            text=True, capture_output=True, cwd=ROOT, env=environment(aside), check=False,
        )  # fmt: skip
    if done.returncode:
        raise AtelierError(f"BentoML could not build {plan.tag}: {last_lines(done.stderr)}")
    _contain(aside / _bento_path(plan.tag))


def _job(plan: _Plan, version: "Version", bundle: Path, context: str) -> dict[str, Any]:
    """What BentoML's own process is asked for; see `_build_here`."""
    name, _, label = plan.tag.partition(":")
    entry = served(version)
    labels = {"version": version.version, "digest": version.bundle}
    build = {
        "service": SERVICE,
        "name": name,
        "version": label,
        "labels": labels | entry["trace"],
        "description": plan.told,
        "models": [entry["bento_model"]],
        "python": {"packages": plan.requirements, "lock_packages": False},
        "build_ctx": context,
    }
    return {"model": entry["bento_model"], "bundle": str(bundle.resolve()), "labels": labels, "build": build}


def _prove(aside: Path, plan: _Plan, version: "Version") -> None:
    """Have the Bento draw a sample, which stays with it."""
    drawn = smoke(plan.tag, version=version, spec=plan.spec, home=aside)
    folder = aside / _bento_path(plan.tag) / "smoke"
    folder.mkdir()
    (folder / f"sample{drawn.suffix}").write_bytes(drawn.payload)


def _contain(bento: Path) -> None:
    """Give the entry point of a container its defaults; BentoML writes the Dockerfile anew from what it knows."""
    entrypoint = bento / "env" / "docker" / "entrypoint.sh"
    first, _, rest = entrypoint.read_text().partition("\n")
    defaults = [f'export {name}="${{{name}:-{value}}}"' for name, value in IN_A_CONTAINER.items()]
    entrypoint.write_text("\n".join([first, *defaults, rest]))


def _sign(bento: Path, home: Path, version: "Version", licence: str | None, signer: "Signer") -> None:
    """Write `manifest.json`: the sha256 of every file of the Bento and of its model, signed."""
    from components.provenance import sign_manifest

    manifest: dict[str, Any] = {
        "schema": 1,
        "model": version.model,
        "version": version.version,
        **served(version),
        "licence": licence,
        "files": _hashes(bento),
        "weights": _hashes(home / _model_path(version) / "bundle"),
    }
    signed = json.dumps(sign_manifest(manifest, signer), indent=2, sort_keys=True) + "\n"
    write_atomically(bento / MANIFEST, signed.encode())


def _is_whole(bento: Path, home: Path, version: "Version") -> bool:
    """Whether a Bento and its model are, file for file and byte for byte, what was proven for that version."""
    try:
        record = json.loads((bento / "src" / "release.json").read_bytes())
        files = json.loads((bento / MANIFEST).read_bytes())["files"]
        same = _hashes(bento) == {**files, MANIFEST: file_sha256(bento / MANIFEST)}  # nothing came after it either
    except (OSError, ValueError, KeyError, TypeError):
        return False
    model = home / _model_path(version)
    held = (model / "model.yaml").is_file() and digest_of(model / "bundle") == version.bundle
    return same and held and record == _release(version)


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file; a link to a folder, which would hide some, is an `OSError`."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in found}


def _publish(second: Path, home: Path, version: "Version") -> None:
    """Rename what was made aside into the home: the models first, since Bentos name them.

    What is there already stays where it is whole, whoever made it; what is damaged gives way.
    """
    for kind in ("models", "bentos"):
        for made in (second / kind).glob("*/*/"):
            if made.is_symlink():
                continue
            target = home / made.relative_to(second)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir() and not _is_right(target, kind, home, version):
                with aside(home) as away:
                    target.rename(away / "changed")
            try:
                made.rename(target)
            except OSError:
                if not target.is_dir():  # another packager of the same content may have been first
                    raise
            write_atomically(target.parent / "latest", target.name.encode())


def _is_right(target: Path, kind: str, home: Path, version: "Version") -> bool:
    if kind == "bentos":
        return _is_whole(target, home, version)
    return (target / "model.yaml").is_file() and digest_of(target / "bundle") == version.bundle


def _bento_path(tag: str) -> Path:
    return Path("bentos", tag.replace(":", "/"))


def _model_path(version: "Version") -> Path:
    return Path("models", bento_model(version.model, version.bundle).replace(":", "/"))


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
