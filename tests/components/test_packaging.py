"""Packaging with a real BentoML: one Bento is built and served for the whole file; faults are planted beside it."""

import base64
import http.server
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import wave
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from PIL import Image

from components import families, model_card, packaging, provenance, server
from components.bundle import EndpointCard, assemble
from components.closure import ROOT
from components.controls import PublicControl
from components.errors import AtelierError
from components.ledger import Version
from components.modalities.image.batch import ImageSpec
from components.records import Artifact, Check, Scores, Verdict
from components.store import Store
from serving import release

TRACE = {"data": "md5:aa.dir", "run": "r1", "recipe": "sha256:bb", "commit": "cc"}
LICENCE = "MIT"
SIGNER = provenance.Signer.of(provenance.new_key())


@dataclass(frozen=True)
class Made:
    """A registered version, its bundle and the verdict that passed it."""

    version: Version
    bundle: Artifact
    verdict: Verdict


def registered(store, *, model="fashion", number="1", latent_dim=8, config=None):
    """A registered version whose bundle is real; `config` replaces what its config.json says."""
    family = families.get("vae")
    with store.writing("weights") as draft:
        weights = family.Model(family.Config(latent_dim=latent_dim, width=4, hidden=8), ImageSpec(channels=1, size=28))
        weights.save(draft.directory)
        if config:
            card = json.loads((draft.directory / "config.json").read_text())
            card["config"] |= config
            (draft.directory / "config.json").write_text(json.dumps(card))
    control = PublicControl(default=1.0, at_least=0.3, at_most=1.5)
    bundle = assemble(draft.artifact, EndpointCard(model=model, controls={"truncation": control}), store)
    scores = Scores(
        bundle=bundle, encoder="sha256:ee", held_out="h", samples=16, seeds=(0, 1), values={"fd": (31.0, 33.0)},
        floor={"fd": 0.5}, pictures=bundle,
    )  # fmt: skip
    check = Check(gate="fd at most 60", metric="fd", value=32.0, low=30.5, high=33.5, passed=True)
    verdict = Verdict(
        model=model, candidate="c", family="vae", bundle=bundle, scores=scores, checks=(check,), rank=1.0, passed=True
    )
    version = Version(
        model=model, version=number, modality="image", family="vae", bundle=bundle.digest,
        verdict=verdict.fingerprint(), pointers=(), created="2026-01-01T00:00:00Z", **TRACE,
    )  # fmt: skip
    return Made(version, bundle, verdict)


def package(made, store, home, bundle=None):
    return packaging.package(
        made.version, bundle or store.path(made.bundle), verdict=made.verdict, licence=LICENCE, signer=SIGNER,
        store=store, home=home,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The store, the home, the registered version and its package."""
    root = tmp_path_factory.mktemp("shop")
    store, home = Store(root / "store"), root / "bentoml"
    made = registered(store)
    return store, home, made, package(made, store, home)


def test_the_package_is_a_bento_that_drew_a_sample(shop):
    store, home, made, packed = shop
    assert re.fullmatch(r"fashion:v1-[0-9a-f]{12}", packed.tag)
    assert (packed.model, packed.version, packed.bundle) == ("fashion", "1", made.bundle)
    with Image.open(store.path(packed.sample) / "sample.png") as picture:
        assert picture.size == (28, 28)
    card = yaml.safe_load(Path(packed.path, "bento.yaml").read_text())
    trace = {**TRACE, "verdict": made.version.verdict}
    assert card["labels"] == {"version": "1", "digest": made.bundle.digest, **trace}
    record = release.read(Path(packed.path, "src/release.json"))
    model = record.models["fashion"]
    assert (model.champion, list(model.versions)) == ("1", ["1"])
    served = model.versions["1"]
    assert (served.digest, served.trace) == (made.bundle.digest, trace)
    assert card["models"][0]["tag"] == served.bento_model
    assert (home / "models" / served.bento_model.replace(":", "/") / "bundle/model.safetensors").is_file()
    assert not list((home / "aside").iterdir())


def test_the_manifest_is_signed_and_covers_every_file(shop):
    _, _, made, packed = shop
    manifest = json.loads(Path(packed.path, "manifest.json").read_text())
    keys = {SIGNER.key_id: SIGNER.public_pem}
    assert provenance.verify_manifest(manifest, keys).intact
    there = {path.relative_to(packed.path).as_posix() for path in Path(packed.path).rglob("*") if path.is_file()}
    assert set(manifest["files"]) == there - {"manifest.json"} and "smoke/sample.png" in there
    assert set(manifest["weights"]) == {"model.safetensors", "config.json", "endpoint.json"}
    assert (manifest["licence"], manifest["digest"]) == (LICENCE, made.bundle.digest)
    assert not provenance.verify_manifest({**manifest, "licence": "none"}, keys).intact


def test_the_readme_is_a_model_card(shop):
    card = Path(shop[3].path, "README.md").read_text()
    told = ("# fashion, version 1", "`vae`", "md5:aa.dir", "`cc`", LICENCE, "| fd | 32 | 31 to 33 | 0.5 |")
    gate = (
        "| fd at most 60 | 32 | 30.5 to 33.5 | holds |",
        "`truncation`",
        "ATELIER_KEYS",
        "ATELIER_SIGNING_KEY",
        "Limits",
    )
    assert not [words for words in told + gate if words not in card]


def test_the_card_says_which_controls_are_drawn_from_the_seed(tmp_path):
    store = Store(tmp_path / "store")
    made = registered(store)
    folder = Path(shutil.copytree(store.path(made.bundle), tmp_path / "drawn"))
    style = {"default": None, "at_least": -2, "at_most": 2}
    endpoint = EndpointCard.model_validate({"model": "fashion", "controls": {"style": style}})
    (folder / "endpoint.json").write_text(endpoint.model_dump_json(exclude_none=True))
    said = "A default of `null` is drawn from the seed"
    assert said in model_card.text(made.version, made.verdict, folder, licence=LICENCE)
    assert said not in model_card.text(made.version, made.verdict, store.path(made.bundle), licence=LICENCE)


def test_a_container_listens_and_looks_for_its_keys(shop):
    entrypoint = Path(shop[3].path, "env/docker/entrypoint.sh")
    show = ["bash", str(entrypoint), "sh", "-c", "echo $BENTOML_HOST $ATELIER_KEYS"]
    by_default = subprocess.run(show, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True)
    assert by_default.stdout.split() == ["0.0.0.0", "/run/atelier/keys.json"]
    named = {"PATH": os.environ["PATH"], "ATELIER_KEYS": "/elsewhere"}
    by_hand = subprocess.run(show, env=named, capture_output=True, text=True, check=True)
    assert by_hand.stdout.split() == ["0.0.0.0", "/elsewhere"]


def test_the_bento_holds_what_serving_needs_only(shop):
    source = Path(shop[3].path, "src")
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert {"serving/service.py", "components/sampling.py", "components/families/vae.py", "release.json"} <= files
    stages = ("training", "evaluation", "packaging", "registration", "recipe", "modalities/image/metrics")
    assert not [name for name in files if name.startswith(("flows", "tests"))]
    assert not [name for name in stages if f"components/{name}.py" in files]
    assert "components/families/dcgan.py" not in files


def test_the_bento_names_no_place_of_this_machine(shop):
    _, home, _, packed = shop
    for path in Path(packed.path).rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert str(ROOT).encode() not in text and str(home).encode() not in text, path


def test_requirements_are_pinned_whole_and_free_of_the_platform(shop):
    lines = Path(shop[3].path, "env/python/requirements.txt").read_text().split()
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"] == version("torch").partition("+")[0]
    assert {"bentoml", "fastapi", "pydantic", "safetensors", "pillow", "numpy", "starlette", "uvicorn"} <= set(pins)
    assert {"uvloop", "httptools", "prometheus-client", "cryptography", "python-multipart"} <= set(pins)
    platform = {"prefect", "mlflow", "dvc", "great-expectations", "pandas", "accelerate", "sqlalchemy", "uv", "scipy"}
    assert not platform & set(pins)


def test_the_same_content_is_built_and_tried_once(shop):
    store, home, made, packed = shop
    before = Path(packed.path, "bento.yaml").stat().st_mtime_ns
    started = time.monotonic()
    assert package(made, store, home) == packed
    assert time.monotonic() - started < 2, "it was built or served again"
    assert Path(packed.path, "bento.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize("added", ["src/serving/extra.py", "src/serving/__pycache__/service.cpython-311.pyc", "extra"])
def test_a_bento_that_was_given_a_file_afterwards_is_not_what_was_proven(shop, added):
    _, home, made, packed = shop
    assert packaging.find(made.version, home=home) == packed.tag
    path = Path(packed.path, added)
    path.parent.mkdir(exist_ok=True)
    try:
        path.write_text("print('not mine')")
        assert packaging.find(made.version, home=home) is None
        path.unlink()
        path.symlink_to(home, target_is_directory=True)
        assert packaging.find(made.version, home=home) is None
    finally:
        path.unlink()
    assert packaging.find(made.version, home=home) == packed.tag


def test_a_lost_sample_comes_back_from_the_bento(shop):
    store, home, made, packed = shop
    shutil.rmtree(store.path(packed.sample))
    started = time.monotonic()
    assert package(made, store, home) == packed
    assert store.holds(packed.sample) and time.monotonic() - started < 2, "it was served again"


@pytest.mark.slow
def test_two_packagers_at_once_and_damage_leave_a_whole_bento(tmp_path):
    store, home = Store(tmp_path / "store"), tmp_path / "home"
    made = registered(store)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: package(made, store, home), range(2))
    assert first == second and len(list(home.glob("bentos/fashion/v*"))) == 1
    assert not list((home / "aside").iterdir())
    Path(first.path, "src/serving/service.py").write_text("changed")
    (weights,) = home.glob("models/fashion/*/bundle/model.safetensors")
    weights.write_bytes(b"changed")
    assert packaging.find(made.version, home=home) is None
    assert package(made, store, home).tag == packaging.find(made.version, home=home) == first.tag
    assert "changed" not in Path(first.path, "src/serving/service.py").read_text()


@pytest.mark.slow
def test_a_packager_killed_at_any_moment_leaves_a_whole_bento_or_none(tmp_path):
    store, home = Store(tmp_path / "store"), tmp_path / "home"
    made = registered(store)
    (tmp_path / "version.json").write_text(made.version.model_dump_json())
    (tmp_path / "verdict.json").write_text(made.verdict.model_dump_json())
    (tmp_path / "key.pem").write_bytes(provenance.new_key())
    program = f"""
from pathlib import Path
from components import packaging
from components.ledger import Version
from components.provenance import Signer
from components.records import Verdict
from components.store import Store
here = Path({str(tmp_path)!r})
version = Version.model_validate_json((here / "version.json").read_bytes())
verdict = Verdict.model_validate_json((here / "verdict.json").read_bytes())
packaging.package(version, Path({str(store.path(made.bundle))!r}), verdict=verdict, licence=None,
    signer=Signer.read(here / "key.pem"), store=Store(here / "store"), home=here / "home")
"""
    for seconds in (1.8, 3.0):
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        for part in _family_of(process.pid):
            part.kill()
        process.wait()
        for bento in home.glob("bentos/fashion/v*"):
            assert packaging.find(made.version, home=home) == f"fashion:{bento.name}"
    packed = package(made, store, home)
    assert packaging.find(made.version, home=home) == packed.tag


@pytest.mark.slow
def test_a_bento_that_cannot_answer_is_never_seen(tmp_path):
    store, home = Store(tmp_path / "store"), tmp_path / "home"
    broken = registered(store, config={"latent_dim": 9})  # its weights do not fit what it says of them
    with pytest.raises(AtelierError, match=r"failed its smoke test: the server's worker ended.*size mismatch") as error:
        package(broken, store, home)
    assert "\n" not in str(error.value)
    assert not list(home.glob("bentos/*")) and not list(home.glob("models/*")) and not list(home.glob("aside/*"))


def test_bytes_that_were_not_registered_are_refused(shop, tmp_path):
    store, home, made, _ = shop
    other = replace(made, version=made.version.model_copy(update={"version": "2"}))
    shutil.copytree(store.path(made.bundle), tmp_path / "bundle")
    (tmp_path / "bundle/config.json").write_text("{}")
    for bundle in (tmp_path / "bundle", tmp_path / "nowhere"):
        with pytest.raises(AtelierError, match="not the registered sha256"):
            package(other, store, home, bundle=bundle)


def test_what_bentoml_says_is_told_where_it_cannot_build(tmp_path):
    store = Store(tmp_path / "store")
    made = registered(store, model="fashion-")  # no tag of BentoML's may end so
    with pytest.raises(AtelierError, match=r"could not build fashion-:\S+: Invalid Tag fashion-:\w+$"):
        package(made, store, tmp_path / "home")


def test_a_changed_bento_model_is_not_lent(shop, tmp_path):
    _, home, made, _ = shop
    shutil.copytree(home / "models", tmp_path / "models")
    model = packaging._model_path(made.version)
    (tmp_path / "aside").mkdir()
    packaging._lend(tmp_path, tmp_path / "aside", made.version)
    assert (tmp_path / "aside" / model / "bundle/model.safetensors").is_file()
    shutil.rmtree(tmp_path / "aside")
    (tmp_path / model / "bundle/model.safetensors").write_bytes(b"other")
    packaging._lend(tmp_path, tmp_path / "aside", made.version)
    assert not (tmp_path / "aside").exists()


def png(side):
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def answering(answers, *, digest="sha256:aa", media_type="image/png", sent="image/png", edits=False, asked=None):
    """A server that lists a model `m`, and gives these (status, body) one after the other, whatever is asked."""
    left = list(answers)
    card = {"id": "m", "media_type": media_type, "edits": edits}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(200, "application/json", json.dumps({"data": [card]}).encode())

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if asked is not None:
                asked.append(json.loads(body))
            status, body = left.pop(0)
            self.answer(status, sent, body)

        def answer(self, status, kind, body):
            self.send_response(status)
            self.send_header("X-Model-Digest", digest)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def ask(url, *, model="m", modality="image", spec=None):
    return server.question(url, model=model, digest="sha256:aa", modality=modality, spec=spec or {"size": 8})


def wav(rate, frames=40):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\1\2" * frames)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("modality", "media_type", "sample", "spec", "suffix"),
    [
        ("image", "image/png", png(8), {"size": 8}, ".png"),
        ("audio", "audio/wav", wav(8000), {"rate": 8000}, ".wav"),
        ("text", "text/plain; charset=utf-8", "wörter".encode(), {}, ".txt"),
    ],
)
def test_question_accepts_a_server_that_behaves(modality, media_type, sample, spec, suffix):
    answers = [(200, sample), (200, sample), (400, b"{}")]
    with answering(answers, media_type=media_type, sent=media_type) as url:
        assert ask(url, modality=modality, spec=spec) == server.Drawn(sample, suffix)


def test_a_model_that_edits_is_questioned_with_a_picture_of_its_spec():
    asked = []
    with answering([(200, png(8)), (200, png(8)), (400, b"{}")], edits=True, asked=asked) as url:
        ask(url, spec={"size": 8, "channels": 1})
    assert len(asked) == 3
    for one in asked:
        assert Image.open(io.BytesIO(base64.b64decode(one["image"]))).size == (8, 8)


@pytest.mark.parametrize(
    ("answers", "word"),
    [
        ([(500, b"oh")], "answered 500 .*oh"),
        ([(200, b"")], "an empty sample"),
        ([(200, b"GIF89a")], "no image/png: these bytes are no PNG"),
        ([(200, png(8)[:45])], "no image/png: this PNG is cut off"),
        ([(200, png(9))], "9 x 9 pixels instead of 8"),
        ([(200, png(8)), (200, png(8) + b" ")], "two different samples from one seed"),
        ([(200, png(8)), (200, png(8)), (200, png(8))], "answered 200 to a control"),
    ],
)
def test_question_catches_a_server_that_does_not(answers, word):
    with answering(answers) as url, pytest.raises(AtelierError, match=word):
        ask(url)


@pytest.mark.parametrize(
    ("modality", "media_type", "sample", "spec", "word"),
    [
        ("audio", "audio/wav", wav(16000), {"rate": 8000}, "no audio/wav: it has channels.*16000"),
        ("audio", "audio/wav", wav(8000)[:60], {"rate": 8000}, "no audio/wav: it has 8 samples and says 40"),
        ("audio", "audio/wav", wav(8000, 0), {"rate": 8000}, "no audio/wav: it has 0 samples"),
        ("text", "text/plain; charset=utf-8", b"\xff\xfe", {}, "no text/plain: .*utf-8"),
    ],
)
def test_question_has_the_modality_judge_its_samples(modality, media_type, sample, spec, word):
    answers = answering([(200, sample)], media_type=media_type, sent=media_type)
    with answers as url, pytest.raises(AtelierError, match=word):
        ask(url, modality=modality, spec=spec)


def test_question_catches_other_weights_and_other_media():
    with answering([(200, png(8))], digest="sha256:bb") as url, pytest.raises(AtelierError, match="from sha256:bb"):
        ask(url)
    with (
        answering([], media_type="audio/wav") as url,
        pytest.raises(AtelierError, match="says that it answers in audio"),
    ):
        ask(url)
    with (
        answering([(200, png(8))], sent="text/html") as url,
        pytest.raises(AtelierError, match="answered in text/html"),
    ):
        ask(url)
    with answering([]) as url, pytest.raises(AtelierError, match="does not list other"):
        ask(url, model="other")


def test_serve_names_a_missing_bento_and_a_taken_port(shop):
    _, home, _, packed = shop
    with pytest.raises(AtelierError, match="no Bento fashion:v9"):
        packaging.serve("fashion:v9", home=home, host="127.0.0.1", port=3000)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AtelierError, match=rf"cannot listen on 127.0.0.1:{port}: Address already in use.*--port"):
            packaging.serve(packed.tag, home=home, host="127.0.0.1", port=port)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_until_it_is_told_to_stop(shop, ending):
    _, home, _, packed = shop
    port = server._free_port()
    program = f"from pathlib import Path; from components.packaging import serve; serve({packed.tag!r}, " \
              f"home=Path({str(home)!r}), host='127.0.0.1', port={port})"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        body = json.dumps({"model": "fashion", "seed": 1}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/generate", body, headers)
        until = time.monotonic() + 60
        while not answers(port):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.1)
        assert urllib.request.urlopen(request).headers["X-Model-Version"] == "1"
    finally:
        process.send_signal(ending)
        assert process.wait(30) == 0
    assert not answers(port)
    with socket.create_server(("127.0.0.1", port)):
        pass


def answers(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).status == 200
    except OSError:
        return False


def test_no_process_is_left_behind(shop):
    import psutil

    home = str(shop[1])
    ours = psutil.Process(os.getpid())
    assert not [child for child in ours.children(recursive=True) if "bentoml" in " ".join(child.cmdline())]
    assert not [p for p in psutil.process_iter() if home in _environ(p).get("BENTOML_HOME", "")]


def _family_of(pid):
    """A process and all that it has started."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _environ(process):
    import psutil

    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_last_words_of_a_worker_that_failed_twice_are_told_once():
    traceback = 'Traceback\n  File "x.py", line 1\n    load()\n    ^^^^\nAtelierError: size\n'
    once = f"{{0}} [ERROR] Startup\n{traceback}{{0}} [ERROR] Exit\n"
    log = once.format("2026-01-01T00:00:01+0000") + once.format("2026-01-01T00:00:09+0000")
    told = server.last_lines(log).split(" | ")
    assert [line.split("[")[-1] for line in told] == [
        "ERROR] Startup",
        "Traceback",
        "load()",
        "AtelierError: size",
        "ERROR] Exit",
    ]
