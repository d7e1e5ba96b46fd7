"""`atelier up`: what dies starts again, what is moved in MLflow is served, and nothing is left when it stops."""

import errno
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from components import families, model_card
from components.bundle import EndpointCard, assemble
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.modalities.image.batch import ImageSpec
from components.packaging import bento_model
from components.process import born
from components.records import Artifact, Check, Scores, Verdict
from components.store import Store
from flows import champions, keys, leash, platform, workspace
from flows.platform import Platform, Ports
from flows.supervisor import MARK, Part, Supervisor
from flows.workspace import Workspace

BROOD = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "ATELIER_LEDGER_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "data.dvc").write_text("outs: []\n")
    place = Workspace(tmp_path, tmp_path / "workspace")
    place.root.mkdir()
    return place


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait(done: Callable[[], Any], *, seconds: float, what: str) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := done():
            return value
        time.sleep(0.01)
    return pytest.fail(f"{what}: not within {seconds} s")


def ports_of(numbers: list[int]) -> Ports:
    return Ports(*numbers)


def nobody(*_: Any) -> None:
    """Nobody listens."""


def test_each_taken_port_is_a_paragraph_of_its_own_before_anything_starts(place: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        taken = [first.getsockname()[1], second.getsockname()[1]]
        wanted = Platform(place, ports_of([taken[0], *free_ports(2), taken[1], *free_ports(1)]))
        with pytest.raises(AtelierError) as refusal:
            platform.up(wanted, say=nobody, ready=nobody)
    told = str(refusal.value).splitlines()
    assert [str(port) in line for port, line in zip(reversed(taken), told, strict=True)] == [True, True]
    assert "--port" in told[0] and "--mlflow-port" in told[1] and str(os.getpid()) in told[0]
    assert not place.up.exists() and not (place.root / "logs").exists()


def test_one_port_for_two_parts_is_refused(place: Workspace) -> None:
    port = free_ports(1)[0]
    with pytest.raises(AtelierError, match="asked for twice"):
        platform.refuse_taken(Platform(place, ports_of([port, port, *free_ports(3)])))


def test_other_machines_need_keys_that_are_not_revoked(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Platform(place, ports_of(free_ports(5)), host="0.0.0.0")
    with pytest.raises(AtelierError, match="there are no API keys"):
        platform.up(wanted, say=nobody, ready=nobody)
    keys.revoke(place, keys.make(place, "web")["id"])
    with pytest.raises(AtelierError, match="there are no API keys"):
        platform.up(wanted, say=nobody, ready=nobody)
    keys.make(place, "web")
    platform._refuse_open(wanted)
    empty = place.project / "keys.json"
    monkeypatch.setenv("ATELIER_KEYS", str(empty))  # which is what the endpoints would ask
    with pytest.raises(AtelierError, match="there are no API keys"):
        platform._refuse_open(wanted)
    elsewhere = Workspace(place.project, place.project / "elsewhere")
    keys.make(elsewhere, "web")
    monkeypatch.setenv("ATELIER_KEYS", str(elsewhere.serving / "keys.json"))
    platform._refuse_open(wanted)


def test_a_workspace_is_up_once(place: Workspace) -> None:
    wanted = Platform(place, ports_of(free_ports(5)))
    with platform._alone(place), pytest.raises(AtelierError, match="is up already"):
        platform.up(wanted, say=nobody, ready=nobody)


def test_ones_own_servers_are_used_instead(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example:4200/api")
    parts = Platform(place, Ports()).parts()
    assert [part.name for part in parts] == ["controller", "endpoints", "worker"]
    assert "http://tracking.example:5000" in parts[0].command and parts[0].after is None


def test_no_secret_is_on_a_command_line(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://atelier:hunter2@db.example/mlflow")
    for part in Platform(place, Ports()).parts():
        assert "hunter2" not in " ".join(part.command)
        key = part.environment.get("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "none")
        assert key not in " ".join(part.command)


def test_a_bento_served_from_a_workspace_is_told_where_keys_and_journal_will_be(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in model_card.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    told = champions.settings(place)
    assert told == {
        "ATELIER_KEYS": str(place.serving / "keys.json"), "ATELIER_JOURNAL": str(place.serving / "journal.db"),
        "ATELIER_OBSERVATIONS": str(place.observations),
    }  # fmt: skip
    keys.init_signing(place)
    monkeypatch.setenv("ATELIER_JOURNAL", "/elsewhere/journal.db")
    told |= {"ATELIER_JOURNAL": "/elsewhere/journal.db", "ATELIER_SIGNING_KEY": str(keys.signing_key(place))}
    assert champions.settings(place) == told
    *_, endpoints, _ = Platform(place, Ports()).parts()
    shown = {name: value for name, value in endpoints.environment.items() if name in model_card.SETTINGS}
    assert shown == told | {"ATELIER_RELEASE": str(place.release)}, "`up` and `serve` tell the same"


def test_what_is_written_of_servers_counts_while_their_supervisor_lives(place: Workspace) -> None:
    assert workspace.servers(place) is None
    told = {"pid": os.getpid(), "born": born(os.getpid()), "parts": {}}
    place.up.write_text(json.dumps(told))
    assert workspace.servers(place) == told
    place.up.write_text(json.dumps({**told, "born": 1}))  # the number is another process's now
    assert workspace.servers(place) is None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    place.up.write_text(json.dumps({**told, "pid": ended.pid}))
    assert workspace.servers(place) is None and born(ended.pid) is None


def test_runs_are_seen_in_the_prefect_that_is_up_and_only_where_it_answers(place: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        told = {"pid": os.getpid(), "born": born(os.getpid()), "parts": {"prefect": {"url": url}}}
        place.up.write_text(json.dumps(told))
        assert workspace._of_servers(place) == {"PREFECT_API_URL": f"{url}/api"}
    assert workspace._of_servers(place) == {}


@pytest.fixture
def brood(tmp_path: Path) -> Iterator[tuple[Supervisor, list[str]]]:
    """A server that has a child in a session of its own, and what a person is told of it."""
    (port,) = free_ports(1)
    part = Part(
        name="brood", title="Brood", url=f"http://127.0.0.1:{port}", health="/", folder=tmp_path,
        command=[sys.executable, "-c", BROOD, str(port)], environment=dict(os.environ), log=tmp_path / "brood.log",
    )  # fmt: skip
    told: list[str] = []
    supervisor = Supervisor([part], say=told.append, changed=nobody)
    try:
        supervisor.start(within=30)
        yield supervisor, told
    finally:
        supervisor.stop()


def test_what_was_killed_starts_again_without_its_orphans_and_all_of_it_ends(
    brood: tuple[Supervisor, list[str]],
) -> None:
    supervisor, told = brood
    kept = supervisor.kept["brood"]
    assert kept.process is not None
    first, mark = kept.process.pid, kept.mark
    assert len(leash.marked(mark, name=MARK)) == 2
    os.kill(first, signal.SIGKILL)
    wait(lambda: supervisor.look() or (kept.restarts == 1 and kept.healthy), seconds=20, what="the restart")
    assert leash.marked(mark, name=MARK) == [] and kept.process.pid != first
    assert "was killed by SIGKILL; it starts again" in told[0] and "well again" in told[1]
    supervisor.stop()
    assert leash.marked(kept.mark, name=MARK) == []


def test_a_full_disk_stops_nothing_and_what_died_starts_once_there_is_room(
    brood: tuple[Supervisor, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, told = brood
    kept = supervisor.kept["brood"]
    assert kept.process is not None

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(supervisor, "_changed", full)
        disk.setattr(Path, "open", full)
        kept.process.kill()
        wait(lambda: supervisor.look() or kept.tries > 2, seconds=20, what="three tries")
        assert kept.process is None
    assert len([line for line in told if "written down" in line]) == 1 and "No space left" in told[-1]
    wait(lambda: supervisor.look() or kept.healthy, seconds=20, what="the restart")


def test_what_never_starts_is_told_with_its_last_words(tmp_path: Path) -> None:
    part = Part(
        name="broken", title="Broken", url="http://127.0.0.1:9", health="/", folder=tmp_path,
        command=[sys.executable, "-c", "raise SystemExit('no such dish')"], environment={}, log=tmp_path / "x.log",
    )  # fmt: skip
    supervisor = Supervisor([part], say=nobody, changed=nobody)
    with pytest.raises(AtelierError, match=r"Broken does not start.*no such dish"):
        supervisor.start(within=3)
    supervisor.stop()


# The whole platform.


def small_bundle(store: Store) -> Artifact:
    """A model with weights of its own."""
    vae = families.get("vae")
    network = vae.Model(vae.Config(latent_dim=4, width=4, hidden=8), ImageSpec(channels=1, size=8))
    with store.writing("weights") as draft:
        network.eval().save(draft.directory)
    card = EndpointCard.model_validate({"model": "toy", "controls": {}, "max_samples": 4})
    return assemble(draft.artifact, card, store)


def stock(place: Workspace, count: int) -> list[Version]:
    """Versions of `toy` that passed, in the ledger, in MLflow and in the Bento store; the first is champion."""
    from mlflow.tracking import MlflowClient

    store, ledger = Store(place.store), Ledger(place.ledger_url)
    client = MlflowClient(place.tracking_uri, registry_uri=place.tracking_uri)
    client.create_registered_model("toy")
    versions, jobs = [], []
    for number in range(1, count + 1):
        bundle = small_bundle(store)
        jobs.append([bento_model("toy", bundle.digest), str(store.path(bundle))])
        scores = Scores(
            bundle=bundle, encoder="e", held_out="h", samples=16, seeds=(0, 1), values={"fd": (1.0, 2.0)},
            floor={}, pictures=bundle,
        )  # fmt: skip
        check = Check(gate="fd at most 9", metric="fd", value=1.5, low=1.0, high=2.0, bound=9.0, passed=True)
        verdict = Verdict(
            model="toy", candidate="c", family="vae", bundle=bundle, scores=scores, checks=(check,), rank=1.0,
            passed=True,
        )  # fmt: skip
        made = client.create_model_version("toy", "file:///nowhere")
        version = Version(
            model="toy", version=str(made.version), modality="image", family="vae", bundle=bundle.digest,
            verdict=ledger.record(verdict, run="r"), data="md5:0", commit=None, recipe="sha256:0", run="r",
            pointers=(), created=f"2026-01-0{number}T00:00:00Z",
        )  # fmt: skip
        versions.append(ledger.enter(version))
    script = """
import json, shutil, sys, bentoml
for tag, bundle in json.load(sys.stdin):
    with bentoml.models.create(tag) as model:
        shutil.copytree(bundle, model.path_of("bundle"))
"""
    environment = {**os.environ, "BENTOML_HOME": str(place.bentos), "BENTOML_DO_NOT_TRACK": "True"}
    subprocess.run([sys.executable, "-c", script], input=json.dumps(jobs), text=True, env=environment, check=True)
    ledger.move(
        "toy", "champion", "1", verdict=versions[0].verdict, expected_generation=0, actor="test", reason="first"
    )
    return versions


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_up_serves_what_is_moved_in_mlflow_restarts_what_dies_and_leaves_nothing(place: Workspace) -> None:
    stock(place, 3)
    ports = free_ports(5)
    names = ("--mlflow-port", "--prefect-port", "--controller-port", "--port", "--worker-port")
    options = [word for name, port in zip(names, ports, strict=True) for word in (name, str(port))]
    environment = {**os.environ, "ATELIER_WORKSPACE": str(place.root)}
    command = [sys.executable, "-c", "from flows.cli import main; main()", "up", *options]
    started = time.monotonic()
    with (place.project / "up.log").open("wb") as log:
        running = subprocess.Popen(command, cwd=place.project, env=environment, stdout=log, stderr=log)
    try:
        mlflow, served = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[3]}"
        wait(lambda: "playground" in (place.project / "up.log").read_text(), seconds=200, what="the platform")
        print(f"up after {time.monotonic() - started:.1f} s")
        champion = lambda: json.loads(place.release.read_bytes())["models"]["toy"]["champion"]  # noqa: E731
        told = lambda: json.loads((place.serving / "controller.json").read_bytes())  # noqa: E731
        alias = f"{mlflow}/api/2.0/mlflow/registered-models/alias"
        wait(lambda: told()["subscribed"], seconds=20, what="the webhook")
        assert ask(f"{served}/v1/models")["data"][0]["version"] == "1"
        assert ask(f"{served}/v1/signing-key")["key_id"] in keys.public_keys(place), "signed from the first sample on"

        taken = []
        for version in ("2", "3", "1", "2", "3"):
            begun = time.monotonic()
            ask(alias, {"name": "toy", "alias": "champion", "version": version})
            wait(lambda version=version: champion() == version, seconds=10, what="the release")
            taken.append(time.monotonic() - begun)
        print(f"alias set to release: median {statistics.median(taken):.2f} s of {[round(t, 2) for t in taken]}")
        wait(lambda: ask(f"{served}/v1/models")["data"][0]["version"] == "3", seconds=10, what="the new champion")
        wait(lambda: told()["webhook"]["accepted"] >= 5, seconds=10, what="the webhooks")

        stranger = ask(f"{mlflow}/api/2.0/mlflow/model-versions/create", {"name": "toy", "source": "models:/toy/1"})
        version = stranger["model_version"]["version"]
        ask(alias, {"name": "toy", "alias": "champion", "version": version})
        page = f"{mlflow}/api/2.0/mlflow/model-versions/get?name=toy&version={version}"
        wait(lambda: "the ledger knows no version" in ask(page)["model_version"].get("description", ""),
             seconds=10, what="the remark")  # fmt: skip
        wait(lambda: ask(f"{alias}?name=toy&alias=champion")["model_version"]["version"] == "3",
             seconds=10, what="the alias")  # fmt: skip
        assert champion() == "3"

        parts = workspace.servers(place)["parts"]
        os.kill(parts["controller"]["pid"], signal.SIGKILL)
        wait(lambda: workspace.servers(place)["parts"]["controller"]["restarts"] == 1, seconds=20, what="the restart")
        wait(lambda: workspace.servers(place)["parts"]["controller"]["healthy"], seconds=30, what="its health")
        status = subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", "status", "--json"],
            cwd=place.project, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        found = json.loads(status.stdout)
        assert status.returncode == 0 and found["well"], found
        assert found["models"] == [
            {"model": "toy", "ledger": "3", "mlflow": "3", "served": "3", "agree": True, "mismatch": []}
        ]
        children = psutil.Process(running.pid).children(recursive=True)
        assert len(children) >= 4
        running.terminate()
        assert running.wait(timeout=40) == 0
        assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
        assert not place.up.exists() and workspace.servers(place) is None
    finally:
        running.kill()
        running.wait()
        print((place.project / "up.log").read_text())
