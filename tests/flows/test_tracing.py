"""From a sample, an answer, a request or a Bento back to the data, with whatever was altered noticed."""

import base64
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from starlette.testclient import TestClient
from typer.testing import CliRunner

from components import provenance
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.modalities.audio import codec as codec_of_sounds
from components.modalities.audio.batch import AudioSpec, Waves
from components.modalities.image import codec
from components.provenance import Signer
from components.records import Artifact, Check, Scores, Verdict
from flows import keys, tracing
from flows.cli import app
from flows.workspace import Workspace
from serving.journal import Entry, Journal
from serving.routes import Generated
from tests.serving.shop import TRACE, Shop, application, close

BUNDLE = Artifact(kind="bundle", digest=f"sha256:{'2' * 64}")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with a signing key, and a ledger that knows `toy@2`."""
    place = Workspace(tmp_path, tmp_path / "workspace")
    keys.init_signing(place)
    scores = Scores(
        bundle=BUNDLE, encoder="e", held_out="h", samples=16, seeds=(0, 1), values={"fd": (1.0, 2.0)}, floor={},
        pictures=BUNDLE,
    )  # fmt: skip
    check = Check(gate="fd at most 60", metric="fd", value=1.5, low=1.0, high=2.0, bound=60.0, passed=True)
    verdict = Verdict(
        model="toy", candidate="c", family="vae", bundle=BUNDLE, scores=scores, checks=(check,), rank=1.0, passed=True
    )
    ledger = Ledger(place.ledger_url)
    version = Version(
        model="toy", version="2", modality="image", family="vae", bundle=BUNDLE.digest,
        verdict=ledger.record(verdict, run="run-2"), data="md5:d.dir", commit="c0ffee", recipe="sha256:r", run="run-2",
        pointers=(), created="2026-01-02T00:00:00Z",
    )  # fmt: skip
    ledger.enter(version)
    ledger.move("toy", "champion", "2", verdict=version.verdict, expected_generation=0, actor="test", reason="first")
    return place


def trace_of(place: Workspace, **changed: Any) -> dict[str, Any]:
    """What the endpoints write into a sample of `toy@2`."""
    (version,) = Ledger(place.ledger_url).versions("toy")
    lineage = {name: getattr(version, name) for name in ("data", "run", "recipe", "commit", "verdict")}
    named = {"model": "toy", "version": "2", "digest": version.bundle, "seed": 7, "controls": {"truncation": 0.5}}
    return {**named, **lineage, **changed}


def signer_of(place: Workspace) -> Signer:
    return Signer.read(keys.signing_key(place))


def png(place: Workspace, **changed: Any) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((28, 28), 60).save(stream, "PNG")
    trace = trace_of(place, **changed)
    return provenance.attach(stream.getvalue(), trace, modality="image", signer=signer_of(place))[0]


def written(place: Workspace, payload: bytes, name: str = "sample.png") -> str:
    path = place.project / name
    path.write_bytes(payload)
    return str(path)


def only(told: dict[str, Any]) -> dict[str, Any]:
    (entry,) = told["found"]
    return entry


def text_of(told: dict[str, Any]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(tracing.report(told))
    return console.export_text()


def test_a_served_picture_leads_back_to_its_data(place: Workspace) -> None:
    told = tracing.trace(place, written(place, png(place)))
    entry = only(told)
    assert told["intact"] and told["kind"] == "sample" and entry["status"] == "intact" and entry["note"] is None
    assert entry["trace"] == trace_of(place) and entry["key_id"] == signer_of(place).key_id
    lineage = entry["lineage"]
    assert (lineage["family"], lineage["run"], lineage["recipe"]) == ("vae", "run-2", "sha256:r")
    assert (lineage["data"], lineage["commit"], lineage["aliases"]) == ("md5:d.dir", "c0ffee", ["champion"])
    assert [gate["gate"] for gate in lineage["gates"]] == ["fd at most 60"]
    shown = text_of(told)
    assert all(word in shown for word in ("intact", "md5:d.dir", "c0ffee", "run-2", "vae", "fd at most 60: 1.5, holds"))


def flipped(payload: bytes) -> bytes:
    picture, note = Image.open(io.BytesIO(payload)), codec.carried(payload)
    picture.putpixel((9, 9), picture.getpixel((9, 9)) ^ 1)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    assert note is not None
    return codec.carry(stream.getvalue(), note)


def relabelled(payload: bytes) -> bytes:
    manifest = provenance.read(payload)
    assert manifest is not None and isinstance(manifest["trace"], dict)
    return codec.carry(payload, json.dumps(manifest | {"trace": manifest["trace"] | {"seed": 8}}).encode())


def recoded(payload: bytes, form: str) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(payload)).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda payload: payload, "intact"),
        (flipped, "altered"),
        (relabelled, "altered"),
        (lambda payload: payload[: len(payload) // 2 + 400], "altered"),
        (lambda payload: payload[:100], "unsigned"),
        (lambda payload: recoded(payload, "PNG"), "unsigned"),
        (lambda payload: recoded(payload, "JPEG"), "unsigned"),
        (lambda payload: os.urandom(10_000_000), "unsigned"),
        (lambda payload: b"{" * 10_000_000, "unsigned"),
        (lambda payload: b"", "unsigned"),
    ],
    ids=[
        "as it was",
        "pixel",
        "seed",
        "cut in its pixels",
        "cut in its manifest",
        "stripped",
        "jpeg",
        "junk",
        "json",
        "empty",
    ],
)
def test_what_was_done_to_a_file_is_told(place: Workspace, change: Callable[[bytes], bytes], status: str) -> None:
    told = tracing.trace(place, written(place, change(png(place))))
    assert only(told)["status"] == status and told["intact"] == (status == "intact")
    assert status in text_of(told)


def test_a_sample_of_an_older_key_is_intact_and_one_of_a_strangers_key_is_not(place: Workspace) -> None:
    path = written(place, png(place))
    keys.init_signing(place, rotate=True)
    assert only(tracing.trace(place, path))["status"] == "intact"
    stranger = Signer.of(provenance.new_key())
    forged, _ = provenance.attach(png(place), trace_of(place), modality="image", signer=stranger)
    assert only(tracing.trace(place, written(place, forged)))["status"] == "unknown key"


def test_a_version_that_the_ledger_does_not_know_or_knows_otherwise_is_told(place: Workspace) -> None:
    entry = only(tracing.trace(place, written(place, png(place, version="9"))))
    assert entry["status"] == "intact" and entry["lineage"] is None and "does not know" in entry["note"]
    entry = only(tracing.trace(place, written(place, png(place, digest="sha256:x", data="md5:x.dir"))))
    assert "another data and digest" in entry["note"]


def test_a_hostile_trace_cannot_steer_the_terminal(place: Workspace) -> None:
    told = tracing.trace(place, written(place, png(place, model="\x1b[2J[red]toy[/red]\nintact", version="[/]")))
    shown = text_of(told)
    assert "\x1b" not in shown and "?[2J[red]toy[/red]?intact" in shown


def answer(place: Workspace, **changed: Any) -> bytes:
    """What /v1/generate answers, in its own schema."""
    samples = [
        {"seed": seed, "b64_json": base64.b64encode(png(place, seed=seed)).decode(), "media_type": "image/png"}
        for seed in (7, 8)
    ]
    whole = {"id": "req-0", "model": "toy", "version": "2", "digest": BUNDLE.digest, "created": 0, "data": samples}
    return Generated.model_validate({**whole, **changed}).model_dump_json().encode()


def test_each_sample_of_an_answer_is_told(place: Workspace) -> None:
    told = tracing.trace(place, written(place, answer(place), "answer.json"))
    assert told["kind"] == "answer" and told["intact"]
    assert [(entry["index"], entry["trace"]["seed"]) for entry in told["found"]] == [(0, 7), (1, 8)]
    assert "sample 1" in text_of(told)
    entries = json.loads(answer(place))["data"]
    swapped = [entries[0] | {"b64_json": entries[1]["b64_json"]}, entries[1] | {"b64_json": "no base64"}]
    told = tracing.trace(place, written(place, answer(place, data=swapped), "answer.json"))
    assert not told["intact"] and [entry["status"] for entry in told["found"]] == ["altered", "altered"]
    assert "another seed" in told["found"][0]["why"]
    told = tracing.trace(place, written(place, answer(place, version="3"), "answer.json"))
    assert "another version" in told["found"][0]["why"]
    with pytest.raises(AtelierError, match="holds no sample"):
        tracing.trace(place, written(place, answer(place, data=[]), "answer.json"))


def test_a_sound_is_traced_by_what_it_carries(place: Workspace) -> None:
    silence = Waves(torch.zeros(1, 80), torch.tensor([80]))
    (bare,) = codec_of_sounds.encode(silence, AudioSpec(rate=8000, length=80))
    sound, _ = provenance.attach(bare, trace_of(place), modality="audio", signer=signer_of(place))
    assert only(tracing.trace(place, written(place, sound, "sample.wav")))["status"] == "intact"
    assert only(tracing.trace(place, written(place, bare, "bare.wav")))["status"] == "unsigned"


def test_a_text_is_traced_by_the_manifest_beside_it(place: Workspace) -> None:
    text, manifest = provenance.attach(b"To be", trace_of(place), modality="text", signer=signer_of(place))
    path = written(place, text, "sample.txt")
    assert only(tracing.trace(place, path))["status"] == "unsigned"
    for note in (json.dumps(manifest).encode(), base64.b64encode(json.dumps(manifest).encode())):
        beside = Path(written(place, note, "manifest.json"))
        assert only(tracing.trace(place, path, manifest=beside))["status"] == "intact"
    altered = written(place, text + b".", "altered.txt")
    assert only(tracing.trace(place, altered, manifest=beside))["status"] == "altered"
    with pytest.raises(AtelierError, match="is no manifest"):
        tracing.trace(place, path, manifest=Path(path))
    entry = {"seed": 7, "b64_json": base64.b64encode(text).decode(), "media_type": "text/plain", "manifest": manifest}
    assert tracing.trace(place, written(place, answer(place, data=[entry]), "answer.json"))["intact"]


def test_a_request_is_found_in_the_journal(place: Workspace) -> None:
    named = f"req-{'a' * 32}"
    with pytest.raises(AtelierError, match="there is no journal"):
        tracing.trace(place, named)
    journal = Journal(place.serving / "journal.db")
    journal.note(
        Entry(
            id=named, route="/v1/generate", status=200, team="web", seconds=0.1, model="toy", version="2",
            digest=BUNDLE.digest, seeds=(7, 8), controls={"truncation": 0.5},
        )
    )  # fmt: skip
    journal.settle()
    journal.feedback(named, 1, "up", "nice", team="web")
    told = tracing.trace(place, named)  # while the endpoints go on writing
    journal.close()
    entry = only(told)
    assert told["kind"] == "request" and told["intact"] and entry["status"] == "recorded"
    assert entry["trace"]["seeds"] == [7, 8] and entry["request"]["team"] == "web"
    assert entry["lineage"]["data"] == "md5:d.dir" and entry["feedback"][0]["thumb"] == "up"
    assert "feedback on sample 1: up" in text_of(told)
    with pytest.raises(AtelierError, match="has no request"):
        tracing.trace(place, f"req-{'b' * 32}")
    with sqlite3.connect(place.serving / "journal.db") as base:
        base.execute("DROP TABLE feedback")
    with pytest.raises(AtelierError, match="cannot be read"):
        tracing.trace(place, named)


def test_what_an_endpoint_answers_is_traced_as_a_picture_as_json_and_by_its_id(place: Workspace) -> None:
    shop = Shop(place.project / "shop")
    served = {"4": shop.served(model="toy")}
    key = keys.make(place, "web", models=["toy"])["key"]
    parts = shop.parts(
        shop.release(toy={"champion": "4", "versions": served}),
        keys=place.serving / "keys.json", journal=place.serving / "journal.db", signer=signer_of(place),
    )  # fmt: skip
    try:
        client = TestClient(application(parts), headers={"Authorization": f"Bearer {key}"})
        picture = client.post("/v1/generate", json={"model": "toy", "seed": 7})
        several = client.post("/v1/generate", json={"model": "toy", "n": 2})
        published = client.get("/v1/signing-key").json()
        assert keys.revoke(place, key.split("_")[1])["revoked"]
        assert client.post("/v1/generate", json={"model": "toy"}).status_code == 401
    finally:
        close(parts)
    told = tracing.trace(place, written(place, picture.content))
    assert told["intact"] and only(told)["trace"]["seed"] == 7 and only(told)["trace"]["data"] == TRACE["data"]
    public = {published["key_id"]: published["public_key"]}
    assert provenance.verify(picture.content, provenance.read(picture.content), public).intact
    answered = tracing.trace(place, written(place, several.content, "answer.json"))
    assert answered["intact"] and len(answered["found"]) == 2
    for answer in (picture, several):
        entry = only(tracing.trace(place, answer.headers["X-Request-Id"]))
        assert (entry["status"], entry["trace"]["version"], entry["request"]["team"]) == ("recorded", "4", "web")
    assert not tracing.trace(place, written(place, flipped(picture.content)))["intact"]


def bento(place: Workspace) -> Path:
    """A folder as packaging leaves it, in the Bento store, with its weights in the Bento model beside it."""
    folder, weights = place.bentos / "bentos/toy/v2-0", place.bentos / "models/toy/22/bundle"
    for path, content in {
        folder / "src/service.py": b"code",
        folder / "bento.yaml": b"name: toy",
        weights / "w": b"w",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (version,) = Ledger(place.ledger_url).versions("toy")
    manifest = {
        "schema": 1, "model": "toy", "version": "2", "digest": version.bundle, "bento_model": "toy:22",
        "trace": {name: getattr(version, name) for name in ("data", "run", "recipe", "commit", "verdict")},
        "files": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in ("src/service.py", "bento.yaml")},
        "weights": {"w": hashlib.sha256(b"w").hexdigest()},
    }  # fmt: skip
    signed = provenance.sign_manifest(manifest, signer_of(place))
    (folder / "manifest.json").write_text(json.dumps(signed, indent=2))
    return folder


def test_a_bento_is_traced_by_its_folder_and_by_its_tag(place: Workspace) -> None:
    folder = bento(place)
    for named in (str(folder), "toy:v2-0"):
        entry = only(tracing.trace(place, named))
        assert entry["status"] == "intact" and entry["note"] is None, entry["why"]
        assert entry["lineage"]["data"] == "md5:d.dir"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "src/service.py").write_text("other"), "src/service.py"),
        (lambda folder: (folder / "src/service.py").unlink(), "src/service.py"),
        (lambda folder: (folder / "src/more.py").write_text("more"), "src/more.py"),
        (lambda folder: (folder / "../../../models/toy/22/bundle/w").write_text("v"), "toy:22: w"),
        (lambda folder: (folder / "../../../models/toy/22").rename(folder / "../../gone"), "do not lie beside it"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (
            lambda folder: edited(folder, lambda manifest: manifest["trace"].update(data="md5:x.dir")),
            "was changed since",
        ),
        (lambda folder: edited(folder, lambda manifest: manifest.pop("files")), "was changed since"),
    ],
)
def test_whatever_is_changed_of_a_bento_is_told(place: Workspace, change: Callable[[Path], object], told: str) -> None:
    folder = bento(place)
    change(folder)
    entry = only(tracing.trace(place, str(folder)))
    assert entry["status"] == "altered" and told in entry["why"]


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_signed_list_of_files_cannot_name_what_lies_outside(place: Workspace) -> None:
    folder = bento(place)
    outside = place.bentos / "bentos/toy/outside"
    outside.write_bytes(b"x")
    held = json.loads((folder / "manifest.json").read_bytes())
    held["files"]["../outside"] = hashlib.sha256(b"x").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(provenance.sign_manifest(held, signer_of(place))))
    entry = only(tracing.trace(place, str(folder)))
    assert entry["status"] == "altered" and "../outside" in entry["why"]


@pytest.mark.parametrize("what", ["no such file.png", "req-12", "toy:v9-0", "", "../..:x"])
def test_what_is_nothing_is_told(place: Workspace, what: str) -> None:
    with pytest.raises(AtelierError, match=r"there is no file|is no Bento of Atelier"):
        tracing.trace(place, what)


def test_the_command_answers_with_its_exit_code(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_WORKSPACE", str(place.root))
    good = CliRunner().invoke(app, ["trace", written(place, png(place)), "--json"])
    assert good.exit_code == 0 and json.loads(good.stdout)["intact"]
    bad = CliRunner().invoke(app, ["trace", written(place, flipped(png(place)), "altered.png")])
    assert bad.exit_code == 2 and "altered" in bad.stdout


def test_tracing_a_sample_imports_nothing_heavy(place: Workspace) -> None:
    path = written(place, png(place))
    script = (
        "import sys\nfrom pathlib import Path\nfrom flows import tracing\nfrom flows.workspace import Workspace\n"
        f"place = Workspace(Path({str(place.project)!r}), Path({str(place.root)!r}))\n"
        f"assert tracing.trace(place, {path!r})['intact']\nprint(*sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "cryptography" in loaded and not loaded & {"torch", "mlflow", "prefect", "dvc", "bentoml", "pandas"}
