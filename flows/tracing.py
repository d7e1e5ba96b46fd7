"""From a sample, an answer, a request or a Bento back to the data that made it, and whether it was altered since.

What a manifest tells is believed as far as its signature goes; what the ledger knows of the version is told beside it.
Nothing of a file is trusted: it comes from anywhere.
"""

import base64
import binascii
import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from components import provenance
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.provenance import Finding, Manifest
from components.store import file_sha256
from components.tree import walk
from flows import keys
from flows.workspace import Workspace

REQUEST = r"req-[0-9a-f]{32}"
MOST_MIB = 256  # of a file: samples and answers are far smaller
LINEAGE = ("data", "run", "recipe", "commit", "verdict")
SHOWN = 160  # characters of one value of a trace
GOOD = ("intact", "recorded")


def trace(place: Workspace, what: str, *, manifest: Path | None = None) -> dict[str, Any]:
    """What is known of a file, a request id, or a Bento by its folder or tag, as `atelier trace --json` tells it.

    `found` holds one entry for each sample: `status`, `why`, the `trace` that it bears, the `lineage` that the ledger
    knows, and a `note` where the two disagree. `manifest` is the detached one of a sample that carries none inside.
    """
    path = Path(what)
    if path.is_file():
        kind, found = _file(place, path, manifest)
    elif path.is_dir():
        kind, found = "bento", [_bento(place, path)]
    elif re.fullmatch(REQUEST, what):
        kind, found = "request", [_request(place, what)]
    elif re.fullmatch(r"[\w.-]+:[\w.-]+", what) and (folder := _of_store(place, "bentos", what)).is_dir():
        kind, found = "bento", [_bento(place, folder)]
    else:
        raise AtelierError(
            f"there is no file {what!r}, no Bento of that tag in {place.bentos}, and it is no request id, which is "
            "`req-` and 32 hexadecimal digits."
        )
    good = all(entry["status"] in GOOD for entry in found)
    return {"schema": 1, "traced": what, "kind": kind, "intact": good, "found": found}


def report(told: Mapping[str, Any]) -> RenderableType:
    """The same for a person: of each sample whether it is intact, what it came of, and the gates it passed."""
    return Group(*(part for entry in told["found"] for part in _shown(told["traced"], entry)))


def _file(place: Workspace, path: Path, manifest: Path | None) -> tuple[str, list[dict[str, Any]]]:
    payload = _bytes(path)
    known = keys.public_keys(place)
    answer = _answer(payload) if manifest is None else None
    if answer is not None:
        samples = [_answered(place, answer, index, known) for index in range(len(answer["data"]))]
        if not samples:
            raise AtelierError(f"the answer {path} holds no sample: its `data` is empty.")
        return "answer", samples
    held = provenance.read(payload) if manifest is None else _detached(manifest)
    return "sample", [_entry(place, provenance.verify(payload, held, known), held)]


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > MOST_MIB * 2**20:
        raise AtelierError(f"{path} has over {MOST_MIB} MiB, far more than any sample or answer of an endpoint.")
    return path.read_bytes()


def _answer(payload: bytes) -> dict[str, Any] | None:
    """The JSON of an answer with samples in it; None where the bytes are something else."""
    if payload.lstrip()[:1] != b"{":
        return None
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value.get("data"), list) else None


def _answered(place: Workspace, answer: Mapping[str, Any], index: int, known: Mapping[str, str]) -> dict[str, Any]:
    """One sample of an answer; what the answer says of it must be what was signed."""
    given = answer["data"][index]
    try:
        payload = base64.b64decode(given["b64_json"], validate=True)
    except (KeyError, TypeError, ValueError):
        return _entry(place, Finding("altered", "it is no sample in base64"), None) | {"index": index}
    beside = given.get("manifest")
    held = beside if isinstance(beside, dict) else provenance.read(payload)
    finding = provenance.verify(payload, held, known)
    traced = _trace_of(held)
    says = {name: answer[name] for name in ("model", "version", "digest") if name in answer}
    says |= {"seed": given["seed"]} if "seed" in given else {}
    wrong = [name for name, value in says.items() if traced.get(name) != value]
    if finding.intact and wrong:
        finding = Finding("altered", f"the answer says another {' and '.join(wrong)} of it than was signed")
    return _entry(place, finding, held) | {"index": index}


def _detached(path: Path) -> Manifest:
    """A manifest in a file: JSON, or base64 of it, as the header `X-Manifest` has it."""
    note = _bytes(path) if path.is_file() else b""
    held = provenance.parsed(note)
    if held is None:
        try:
            held = provenance.parsed(base64.b64decode(note.strip(), validate=True))
        except binascii.Error:
            held = None
    if held is None:
        raise AtelierError(f"{path} is no manifest: it should hold its JSON, or the header X-Manifest of an answer.")
    return held


def _request(place: Workspace, named: str) -> dict[str, Any]:
    """What the journal of the endpoints has of a request."""
    path = place.serving / "journal.db"
    if not path.is_file():
        raise AtelierError(
            f"there is no journal {path} to find {named} in: no endpoint of this workspace has answered."
        )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as base:
            base.row_factory = sqlite3.Row
            row = base.execute("SELECT * FROM requests WHERE id = ?", (named,)).fetchone()
            thumbs = base.execute("SELECT * FROM feedback WHERE request = ? ORDER BY time", (named,)).fetchall()
    except sqlite3.Error as error:
        raise AtelierError(f"the journal {path} cannot be read: {error}.") from None
    if row is None:
        raise AtelierError(
            f"the journal {path} has no request {named}: it was answered elsewhere or refused, or is forgotten by now."
        )
    asked = dict(row) | {"seeds": json.loads(row["seeds"]), "controls": json.loads(row["controls"])}
    traced = {name: asked[name] for name in ("model", "version", "digest", "seeds", "controls")}
    why = f"the journal has it: {asked['route']}, {asked['samples']} samples, status {asked['status']}"
    about = {"request": asked, "feedback": [dict(thumb) for thumb in thumbs]}
    return {"status": "recorded", "why": why, "key_id": None, "trace": traced, **_known(place, traced), **about}


def _bento(place: Workspace, folder: Path) -> dict[str, Any]:
    """A Bento: its manifest as it was signed, and every file as the manifest has it."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise AtelierError(f"{folder} is no Bento of Atelier: there is no manifest.json in it.")
    try:
        held = json.loads(_bytes(path))
        if not isinstance(held, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        return _entry(place, Finding("altered", f"its manifest.json cannot be read ({error})"), None)
    finding = provenance.verify_manifest(held, keys.public_keys(place))
    if finding.intact:
        finding = _changed(folder, held, place) or finding
    return _entry(place, finding, held)


def _changed(folder: Path, manifest: Manifest, place: Workspace) -> Finding | None:
    """What lies there otherwise than the signed manifest says, if anything."""
    odd = _differing(folder, manifest.get("files"), apart=("manifest.json",))
    weights = manifest.get("weights")
    if not odd and weights is not None:
        tag = manifest.get("bento_model")
        lies = next((at for at in _weights(folder, place, tag) if at.is_dir()), None) if isinstance(tag, str) else None
        if lies is None:
            return Finding("altered", f"its weights, the Bento model {tag}, do not lie beside it")
        odd = [f"{tag}: {name}" for name in _differing(lies, weights)]
    if not odd:
        return None
    more = f", and {len(odd) - 3} more" if len(odd) > 3 else ""
    return Finding("altered", f"not as it was signed: {', '.join(odd[:3])}{more}")


def _weights(folder: Path, place: Workspace, tag: str) -> list[Path]:
    """Where the weights of a Bento may lie: in the Bento store around it, in an exported Bento, in the workspace's."""
    if not re.fullmatch(r"[\w.-]+:[\w.-]+", tag):
        return []
    name = Path("models", tag.replace(":", "/"), "bundle")
    return [folder.absolute().parents[2] / name, folder / name, place.bentos / name]


def _differing(folder: Path, told: object, *, apart: tuple[str, ...] = ()) -> list[str]:
    """The files below a folder that are changed, gone, or more than was told of."""
    if not isinstance(told, dict):
        return ["its list of files"]
    there = {entry.name for entry in walk(folder) if entry.what != "folder" and entry.name not in apart}
    safe = {name for name in told if not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts}
    whole = {name for name in there & safe if (folder / name).is_file() and file_sha256(folder / name) == told[name]}
    return sorted((there | told.keys()) - whole)


def _of_store(place: Workspace, kind: str, tag: str) -> Path:
    return place.bentos / kind / tag.replace(":", "/")


def _entry(place: Workspace, finding: Finding, held: Manifest | None) -> dict[str, Any]:
    traced = _trace_of(held)
    key = (held or {}).get("key_id")
    told = {"status": finding.status, "why": finding.why, "key_id": key, "trace": traced or None}
    return {**told, **_known(place, traced)}


def _trace_of(held: Manifest | None) -> dict[str, Any]:
    """The trace of a manifest; that of a Bento names model, version and digest beside it."""
    inner = (held or {}).get("trace")
    outer = {name: value for name, value in (held or {}).items() if name in ("model", "version", "digest")}
    return {**outer, **(inner if isinstance(inner, dict) else {})}


def _known(place: Workspace, traced: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger knows of the version that a trace names, and how the two differ, if they do."""
    model, number = traced.get("model"), traced.get("version")
    if not isinstance(model, str) or not isinstance(number, str):
        return {"lineage": None, "note": None}
    ledger = Ledger(place.ledger_url)
    version = next((known for known in ledger.versions(model) if known.version == number), None)
    if version is None:
        return {"lineage": None, "note": "the ledger of this workspace does not know that version"}
    own = {name: getattr(version, name) or "none" for name in LINEAGE} | {"digest": version.bundle}
    wrong = [name for name, value in own.items() if name in traced and traced[name] != value]
    note = f"the ledger has another {' and '.join(wrong)} for that version" if wrong else None
    return {"lineage": _lineage(ledger, version), "note": note}


def _lineage(ledger: Ledger, version: Version) -> dict[str, Any]:
    verdict = ledger.verdict(version.verdict)
    names = ("model", "version", "family", "bundle", "run", "recipe", "data", "commit", "verdict", "created")
    return {
        **{name: getattr(version, name) for name in names},
        "init": ledger.pinned(version.model, "init", version.version),
        "aliases": [alias for alias, move in ledger.current(version.model).items() if move.version == version.version],
        "gates": [check.model_dump(mode="json") for check in verdict.checks] if verdict else [],
    }


def _shown(name: str, entry: Mapping[str, Any]) -> list[RenderableType]:
    colour = "green" if entry["status"] in GOOD else "red"
    place = f"{name}, sample {entry['index']}" if "index" in entry else name
    lines = Table.grid(padding=(0, 2))
    lineage = entry["lineage"] or {}
    told = {**(entry["trace"] or {}), **{key: value for key, value in lineage.items() if key != "gates"}}
    for key, value in told.items():
        lines.add_row(Text(_printable(key), "dim"), Text(_printable(value)))
    for gate in lineage.get("gates", ()):
        lines.add_row(Text("gate", "dim"), Text(_printable(f"{gate['gate']}: {gate['value']}, {_held(gate)}")))
    head = Text.assemble((entry["status"], f"bold {colour}"), f"  {_printable(place)}: {_printable(entry['why'])}")
    note = [Text(_printable(f"note: {entry['note']}"), "yellow")] if entry["note"] else []
    thumbs = [Text(_printable(f"feedback on sample {t['index']}: {t['thumb']}")) for t in entry.get("feedback", ())]
    return [head, *note, lines, *thumbs]


def _held(gate: Mapping[str, Any]) -> str:
    return "holds" if gate["passed"] else "fails"


def _printable(value: object) -> str:
    """One line without what would steer a terminal; a file's words may come from anyone."""
    whole = value if isinstance(value, str) else json.dumps(value)
    short = whole if len(whole) <= SHOWN else f"{whole[: SHOWN - 3]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in short)
