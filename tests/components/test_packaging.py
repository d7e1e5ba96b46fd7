"""Packaging with a real BentoML: one Bento is built and served for the whole file; faults are planted beside it."""

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
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from PIL import Image

from components import families, packaging, server
from components.bundle import EndpointCard, assemble
from components.closure import ROOT
from components.errors import AtelierError
from components.modalities.image.batch import ImageSpec
from components.records import Registered
from components.store import Store

TRACE = {"data": "md5:aa.dir", "run": "r1", "recipe": "sha256:bb", "commit": "cc", "verdict": "sha256:dd"}


def registered(store, *, latent_dim=8, config=None):
    """A registered version whose bundle is real; `config` replaces what its config.json says."""
    family = families.get("vae")
    with store.writing("weights") as draft:
        model = family.Model(family.Config(latent_dim=latent_dim, width=4, hidden=8), ImageSpec(channels=1, size=28))
        model.save(draft.directory)
        if config:
            card = json.loads((draft.directory / "config.json").read_text())
            card["config"] |= config
            (draft.directory / "config.json").write_text(json.dumps(card))
    bundle = assemble(draft.artifact, EndpointCard(model="fashion"), store)
    return Registered(
        model="fashion", version="1", run="r1", bundle=bundle, verdict="sha256:dd", created=True, alias="champion"
    )


def package(made, store, home, release=3):
    return packaging.package(made, store.path(made.bundle), release=release, trace=TRACE, store=store, home=home)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The store, the home, the registered version and its package."""
    root = tmp_path_factory.mktemp("shop")
    store, home = Store(root / "store"), root / "bentoml"
    made = registered(store)
    return store, home, made, package(made, store, home)


def test_the_package_is_a_bento_that_drew_a_sample(shop):
    store, home, made, packed = shop
    assert re.fullmatch(r"fashion:r3-[0-9a-f]{12}", packed.tag)
    assert (packed.model, packed.version, packed.bundle) == ("fashion", "1", made.bundle)
    with Image.open(store.path(packed.sample) / "sample.png") as picture:
        assert picture.size == (28, 28)
    card = yaml.safe_load(Path(packed.path, "bento.yaml").read_text())
    digest = made.bundle.digest
    assert card["labels"] == {"release": "3", "version": "1", "digest": digest, **TRACE}
    record = json.loads(Path(packed.path, "src/release.json").read_text())
    served = record["models"]["fashion"]
    assert (record["schema"], record["number"], served["digest"], served["trace"]) == (1, 3, digest, TRACE)
    assert card["models"][0]["tag"] == served["bento_model"]
    assert not list((home / "aside").iterdir())


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
    assert not {"prefect", "mlflow", "dvc", "great-expectations", "pandas", "accelerate"} & set(pins)


def test_the_same_content_is_built_and_tried_once(shop):
    store, home, made, packed = shop
    before = Path(packed.path, "bento.yaml").stat().st_mtime_ns
    started = time.monotonic()
    assert package(made, store, home) == packed
    assert time.monotonic() - started < 2, "it was built or served again"
    assert Path(packed.path, "bento.yaml").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_lost_sample_is_drawn_again_by_the_same_bento(shop):
    store, home, made, packed = shop
    shutil.rmtree(store.path(packed.sample))
    assert package(made, store, home) == packed
    assert store.holds(packed.sample)


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
    shutil.copytree(store.path(made.bundle), tmp_path / "bundle")
    (tmp_path / "bundle/config.json").write_text("{}")
    for bundle in (tmp_path / "bundle", tmp_path / "nowhere"):
        with pytest.raises(AtelierError, match="not the registered sha256"):
            packaging.package(made, bundle, release=3, trace=TRACE, store=store, home=home)


def test_what_bentoml_says_is_told_where_it_cannot_build(tmp_path):
    store = Store(tmp_path / "store")
    made = registered(store).model_copy(update={"model": "fashion-"})  # no tag of BentoML's may end so
    with pytest.raises(AtelierError, match=r"could not build fashion-:\S+: Invalid Tag fashion-:\w+$"):
        package(made, store, tmp_path / "home")


def test_a_changed_bento_model_is_not_lent(shop, tmp_path):
    _, home, made, packed = shop
    shutil.copytree(home / "models", tmp_path / "models")
    record = json.loads(Path(packed.path, "src/release.json").read_text())
    model = packaging._model_path(record, "fashion")
    (tmp_path / "aside").mkdir()
    packaging._lend(tmp_path, tmp_path / "aside", record, made)
    assert (tmp_path / "aside" / model / "bundle/model.safetensors").is_file()
    shutil.rmtree(tmp_path / "aside")
    (tmp_path / model / "bundle/model.safetensors").write_bytes(b"other")
    packaging._lend(tmp_path, tmp_path / "aside", record, made)
    assert not (tmp_path / "aside").exists() and not (tmp_path / model).exists()


def png(side):
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def answering(answers, digest="sha256:aa"):
    """A server that gives these (status, body) one after the other, whatever is asked."""
    left = list(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = left.pop(0)
            self.send_response(status)
            self.send_header("X-Model-Digest", digest)
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


def test_question_accepts_a_server_that_behaves():
    with answering([(200, png(8)), (200, png(8)), (400, b"{}")]) as url:
        assert server.question(url, model="m", digest="sha256:aa", size=(8, 8)) == png(8)


@pytest.mark.parametrize(
    ("answers", "word"),
    [
        ([(500, b"oh")], "answered 500 .*oh"),
        ([(200, b"GIF89a")], "no PNG"),
        ([(200, png(8)[:45])], "no PNG"),
        ([(200, png(9))], "9 x 9 pixels was answered instead of 8 x 8"),
        ([(200, png(8)), (200, png(8) + b" ")], "two different samples from one seed"),
        ([(200, png(8)), (200, png(8)), (200, png(8))], "answered 200 to a control"),
    ],
)
def test_question_catches_a_server_that_does_not(answers, word):
    with answering(answers) as url, pytest.raises(AtelierError, match=word):
        server.question(url, model="m", digest="sha256:aa", size=(8, 8))


def test_question_catches_other_weights():
    with answering([(200, png(8))], digest="sha256:bb") as url, pytest.raises(AtelierError, match="from sha256:bb"):
        server.question(url, model="m", digest="sha256:aa", size=(8, 8))


def test_serve_names_a_missing_bento_and_a_taken_port(shop):
    _, home, _, packed = shop
    with pytest.raises(AtelierError, match="no Bento fashion:r9"):
        packaging.serve("fashion:r9", home=home, host="127.0.0.1", port=3000)
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


def _environ(process):
    import psutil

    try:
        return process.environ()
    except psutil.Error:
        return {}
