"""The promotion as a person makes it: an alias clicked in MLflow's own pages, and the endpoints that follow."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from playwright.sync_api import Browser, Page, expect

from components import model_card, registration
from components.ledger import Ledger
from components.recipe import Promotion
from components.records import Artifact, Dataset, Pointer
from components.store import Store
from flows import champions
from flows.workspace import Workspace
from tests.browser.mlflow_ui import move_alias, open_version
from tests.browser.stage import NEEDS_CHROMIUM
from tests.components.test_registration import Place

pytestmark = [*NEEDS_CHROMIUM, pytest.mark.timeout(240)]
ROOT = Path(__file__).resolve().parents[2]
MODEL = "fashion"
SOON = 10.0  # seconds from a saved alias to samples of the new version


@dataclass(frozen=True)
class Platform:
    """What `atelier up` runs, by its addresses, and its workspace."""

    place: Workspace
    mlflow: str
    endpoints: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.place.tracking_uri, registry_uri=self.place.tracking_uri)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.place.ledger_url)

    def served(self) -> str:
        with urllib.request.urlopen(f"{self.endpoints}/v1/models", timeout=10) as answer:
            (card,) = json.load(answer)["data"]
        return str(card["version"])


@dataclass
class Asking:
    """A team's client that asks for a sample again and again, and remembers each answer."""

    endpoints: str
    answers: list[tuple[float, int, str]] = field(default_factory=list)  # when, status, version
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Asking":
        self.thread = threading.Thread(target=self._ask)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(20)

    def _ask(self) -> None:
        body = json.dumps({"model": MODEL, "seed": 7}).encode()
        request = urllib.request.Request(f"{self.endpoints}/v1/generate", body, {"Content-Type": "application/json"})
        while not self.stop.wait(0.02):
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    read = answer.read().startswith(b"\x89PNG")
                    self.answers.append((time.monotonic(), 200 if read else 0, answer.headers["X-Model-Version"]))
            except OSError as error:
                self.answers.append((time.monotonic(), getattr(error, "code", 0), str(error)))

    @property
    def versions(self) -> list[str]:
        """The versions that answered, each time it was another one."""
        told = [version for _, _, version in self.answers]
        return [version for at, version in enumerate(told) if at == 0 or told[at - 1] != version]

    @property
    def failed(self) -> list[tuple[float, int, str]]:
        return [answer for answer in self.answers if answer[1] != 200]


DATA = Dataset(
    source="data/fashion", version="md5:d.dir", commit="0123abc", rows=Artifact(kind="rows", digest="sha256:r"),
    count=12_000, classes=(), licence="MIT", about={"title": "Fashion-MNIST, every fifth picture"},
)  # fmt: skip


def register(place: Workspace, makes: Place, seeds: tuple[int, ...]) -> None:
    """A version of each seed as runs register them: registered, packaged, appointed; packaged side by side."""
    ledger, verdicts = Ledger(place.ledger_url), [makes.verdict(MODEL, seed=seed) for seed in seeds]
    registered = [
        registration.register(
            verdict, Store(place.store).path(verdict.bundle), tracking_uri=place.tracking_uri, run=makes.run(MODEL),
            ledger=ledger, description=model_card.review(verdict, DATA, among=2, begun=None), promotion=Promotion(),
            tags={"data": "md5:d.dir", "commit": "0123abc", "recipe": "sha256:r", "flow_run": "f-1", "licence": "MIT"},
            pointers=[Pointer(kind="bundle", digest=verdict.bundle.digest, dvc="md5:b.dir")],
        )
        for verdict in verdicts
    ]  # fmt: skip
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda version: champions.package_version(version, place), ledger.versions(MODEL)))
    for each in registered:
        registration.appoint(
            each, tracking_uri=place.tracking_uri, ledger=ledger, promotion=Promotion(),
            decided_on=ledger.generation(MODEL),
        )  # fmt: skip


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def until(reached: Callable[[], bool], *, within: float) -> float:
    """The seconds until something holds."""
    started = time.monotonic()
    while time.monotonic() < started + within:
        with suppress(OSError):
            if reached():
                return time.monotonic() - started
        time.sleep(0.05)
    raise AssertionError(f"not within {within} s")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """`atelier up` on a workspace of two gated versions, 1 champion and 2 challenger, and a third that nobody gated."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("MLFLOW_TRACKING_URI", "ATELIER_LEDGER_URL"):
            patched.delenv(name, raising=False)
        place = Workspace(ROOT, tmp_path_factory.mktemp("up") / "workspace")
        place.root.mkdir()
        makes = Place(place.root, place.tracking_uri)
        register(place, makes, (0, 1))
        stranger = makes.client.create_model_version(MODEL, (place.root / "elsewhere").as_uri())
        assert str(stranger.version) == "3"
        mlflow, controller, endpoints, worker, nobody = free_ports(5)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))
        }
        environment |= {"ATELIER_WORKSPACE": str(place.root)}
        environment["PREFECT_API_URL"] = f"http://127.0.0.1:{nobody}/api"  # nothing here runs a flow: start none
        ports = {
            "--mlflow-port": mlflow, "--controller-port": controller, "--port": endpoints, "--worker-port": worker
        }  # fmt: skip
        command = [str(Path(sys.executable).with_name("atelier")), "up"]
        command += [str(part) for pair in ports.items() for part in pair]
        said = (place.root / "up.log").open("wb")
        running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        try:
            made = Platform(place, f"http://127.0.0.1:{mlflow}", f"http://127.0.0.1:{endpoints}")
            until(lambda: running.poll() is not None or is_well(place), within=120)
            assert running.poll() is None, (place.root / "up.log").read_text()
            yield made
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(60)
            said.close()


def is_well(place: Workspace) -> bool:
    told = json.loads(place.up.read_text())
    return all(part["healthy"] for part in told["parts"].values())


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 950})
    page = context.new_page()
    page.set_default_timeout(20_000)
    yield page
    context.close()


def test_a_click_in_mlflow_changes_what_unchanged_clients_get(platform: Platform, page: Page) -> None:
    assert platform.served() == "1"
    with Asking(platform.endpoints) as client:
        until(lambda: len(client.answers) > 20, within=20)
        saved = move_alias(page, platform.mlflow, MODEL, "2", "champion")
        until(lambda: platform.served() == "2", within=SOON)
        until(lambda: client.versions[-1] == "2", within=SOON)
        new = next(when for when, _, version in client.answers if version == "2")
        until(lambda: len(client.answers) > 100, within=20)
    print(f"\nfrom the saved alias to a sample of it: {new - saved:.2f} s, {len(client.answers)} requests meanwhile")
    assert client.failed == [] and client.versions == ["1", "2"]
    move = platform.ledger.history(MODEL)[-2:]
    assert {(each.alias, each.version, each.actor) for each in move} >= {("champion", "2", "mlflow-ui")}
    shown = open_version(page, platform.mlflow, MODEL, "2")
    expect(shown.get_by_role("status", name="champion", exact=True)).to_be_visible()
    until(lambda: platform.client.get_registered_model(MODEL).aliases.get("previous") is not None, within=SOON)


def test_a_version_that_passed_no_gates_is_put_back_and_its_page_says_why(platform: Platform, page: Page) -> None:
    before = platform.served()
    with Asking(platform.endpoints) as client:
        saved = move_alias(page, platform.mlflow, MODEL, "3", "champion")

        def held() -> str:
            return str(platform.client.get_registered_model(MODEL).aliases.get("champion"))

        until(lambda: held() == before, within=SOON)
    print(f"\nput back {time.monotonic() - saved:.2f} s after it was saved")
    shown = open_version(page, platform.mlflow, MODEL, "3")
    expect(page.get_by_test_id("note-view-outer-container").first).to_contain_text("it passed no gates")
    expect(shown.get_by_role("status", name="champion", exact=True)).to_be_hidden()
    assert client.failed == [] and set(client.versions) == {before} and platform.served() == before
    assert all(move.version != "3" for move in platform.ledger.history(MODEL))
