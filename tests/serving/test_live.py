"""A real server that follows a release: swapped under load, drained, and never open to others without keys."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from components.closure import ROOT
from components.server import _free_port
from tests.serving.shop import Shop

pytestmark = pytest.mark.slow
KEEP = """
import shutil, sys, bentoml
for tag, bundle in zip(sys.argv[1::2], sys.argv[2::2]):
    with bentoml.models.create(tag) as model:
        shutil.copytree(bundle, model.path_of("bundle"))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A Bento store with three versions, and releases that name them."""
    root = tmp_path_factory.mktemp("live")
    shop, versions, arguments = Shop(root), {}, []
    for number in ("1", "2", "3"):
        served = shop.served(latent_dim=int(number))
        versions[number] = served.model_copy(update={"bento_model": f"fashion:{served.digest[7:39]}"})
        arguments += [versions[number].bento_model, str(shop.place(served))]
    environment = os.environ | {"BENTOML_HOME": str(root / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    subprocess.run([sys.executable, "-c", KEEP, *arguments], env=environment, check=True)
    return shop, versions, environment


@contextmanager
def running(environment, release, *, host="127.0.0.1", **variables):
    """The server on a free port, ready; stopped at the end."""
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "bentoml", "serve", "serving.service:Generator", "--host", host, "--port", str(port)],
        cwd=ROOT, env=environment | {"ATELIER_RELEASE": str(release)} | variables, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    log = []
    reader = threading.Thread(target=lambda: log.extend(line.decode() for line in process.stdout))
    reader.start()
    try:
        yield process, f"http://127.0.0.1:{port}", log
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        reader.join(10)


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def ready(url, process=None):
    deadline = time.monotonic() + 60
    while get(f"{url}/readyz")[0] != 200:
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.05)


def draw(url, model="fashion"):
    body = json.dumps({"model": model, "seed": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["X-Model-Version"], answer.read()


def test_a_champion_moves_under_load_and_back_without_one_failed_request(place, tmp_path):
    shop, versions, environment = place
    path = shop.write(tmp_path / "release.json", shop.release(fashion={"champion": "1", "versions": versions}))
    with running(environment, path) as (process, url, _):
        ready(url, process)
        seen, failed, stop = [], [], threading.Event()

        def ask():
            while not stop.is_set():
                try:
                    seen.append(draw(url)[0])
                except (OSError, ValueError) as error:
                    failed.append(error)

        callers = [threading.Thread(target=ask) for _ in range(3)]
        for caller in callers:
            caller.start()
        taken = []
        for champion, previous in (("2", "1"), ("3", "2"), ("2", "3")):
            time.sleep(0.5)
            moved = time.monotonic()
            aliases = {"champion": champion, "previous": previous}
            shop.write(path, shop.release(fashion={**aliases, "versions": versions}))
            while seen[-1] != champion:
                assert time.monotonic() - moved < 10
                time.sleep(0.002)
            taken.append(time.monotonic() - moved)
        stop.set()
        for caller in callers:
            caller.join()
        assert not failed
        assert set(seen) == {"1", "2", "3"} and max(taken) < 5
        assert draw(url, "fashion@1")[0] == "1", "a version can be asked for by its number"


def test_what_was_asked_before_a_stop_is_answered_and_the_server_turns_unready_first(place, tmp_path):
    shop, versions, environment = place
    path = shop.write(tmp_path / "release.json", shop.release(fashion={"champion": "1", "versions": versions}))
    with running(environment, path, ATELIER_DRAIN_SECONDS="1") as (process, url, _):
        ready(url, process)
        process.terminate()
        states = []
        while (state := get(f"{url}/readyz")[0]) != 0:
            states.append(state)
            if state == 503:
                assert draw(url)[0] == "1"
            time.sleep(0.05)
        assert 503 in states and states[-1] == 503
        assert process.wait(15) == 0


def test_without_a_release_it_starts_and_serves_what_is_promoted_first(place, tmp_path):
    shop, versions, environment = place
    path = tmp_path / "release.json"
    with running(environment, path) as (process, url, _):
        ready(url, process)
        assert json.loads(get(f"{url}/v1/models")[1])["data"] == []
        shop.write(path, shop.release(fashion={"champion": "1", "versions": versions}))
        deadline = time.monotonic() + 10
        while not json.loads(get(f"{url}/v1/models")[1])["data"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert draw(url)[0] == "1"


def test_it_refuses_to_listen_for_others_without_keys(place, tmp_path):
    shop, versions, environment = place
    path = shop.write(tmp_path / "release.json", shop.release(fashion={"champion": "1", "versions": versions}))
    with running(environment, path, host="0.0.0.0") as (_, url, log):
        deadline = time.monotonic() + 30
        while not any("has no API keys" in line for line in log):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert get(f"{url}/readyz")[0] != 200
