"""What a person moves in MLflow is granted or put back, and MLflow, the ledger and the release end up in step."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from components import display, ledger_schema
from components.errors import AtelierError
from components.ledger import Ledger, Superseded, Version
from components.packaging import bento_model
from components.records import Artifact, Check, Scores, Verdict
from flows import events
from flows.controller import HANGING_SECONDS, Controller, status_file
from flows.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]


class Town:
    """A workspace with a ledger and an MLflow database that know the same versions of `toy`."""

    def __init__(self, place: Workspace) -> None:
        self.place = place
        self.uri = place.tracking_uri
        self.ledger = Ledger(place.ledger_url)
        self.client = MlflowClient(self.uri, registry_uri=self.uri)
        self.controller = Controller(place)
        self.client.create_registered_model("toy")

    def register(self, *, passed: bool = True, stored: bool = True, approvals: int = 0) -> Version:
        number = self.stranger()
        bundle = Artifact(kind="bundle", digest=f"sha256:{number * 64}")
        scores = Scores(
            bundle=bundle, encoder="e", held_out="h", samples=16, seeds=(0, 1), values={"fd": (1.0, 2.0)},
            floor={}, pictures=bundle,
        )  # fmt: skip
        check = Check(gate="fd at most 1", metric="fd", value=2.0, low=1.0, high=2.0, bound=1.0, passed=passed)
        verdict = Verdict(
            model="toy", candidate="c", family="vae", bundle=bundle, scores=scores, checks=(check,), rank=1.0,
            passed=passed,
        )  # fmt: skip
        version = Version(
            model="toy", version=number, modality="image", family="vae", bundle=bundle.digest,
            verdict=self.ledger.record(verdict, run="r"), data="md5:0", commit=None, recipe="sha256:0", run="r",
            pointers=(), created=f"2026-01-0{number}T00:00:00Z",
        )  # fmt: skip
        if stored:
            folder = self.place.bentos / "models" / bento_model("toy", bundle.digest).replace(":", "/")
            folder.mkdir(parents=True)
            (folder / "model.yaml").write_text("name: toy\n")
        if approvals:
            self.ledger.pin("toy", "approvals", number, str(approvals))
        return self.ledger.enter(version)

    def stranger(self) -> str:
        """A version made in MLflow by someone, which no run registered."""
        return str(self.client.create_model_version("toy", "file:///nowhere").version)

    def move(self, alias: Any, version: Version, *, expected: int | None = None, actor: str = "test") -> None:
        generation = self.ledger.generation("toy") if expected is None else expected
        self.ledger.move(
            "toy", alias, version.version, verdict=version.verdict, expected_generation=generation,
            actor=actor, reason="test",
        )  # fmt: skip

    def hand(self, alias: str, version: str) -> None:
        """What a person does in MLflow's page."""
        self.client.set_registered_model_alias("toy", alias, version)

    @property
    def shown(self) -> dict[str, str]:
        return display.aliases(self.uri, "toy")

    @property
    def held(self) -> dict[str, str]:
        return {alias: move.version for alias, move in self.ledger.current("toy").items()}

    def remarks(self, version: str) -> list[str]:
        text = self.client.get_model_version("toy", version).description or ""
        return [part for part in text.split("\n\n") if part.startswith(display.REMARK)]

    @property
    def served(self) -> str | None:
        champion: str | None = json.loads(self.place.release.read_bytes())["models"]["toy"]["champion"]
        return champion


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty MLflow database; making one takes over a second."""
    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}", registry_uri=f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def town(tmp_path: Path, migrated: bytes, monkeypatch: pytest.MonkeyPatch) -> Town:
    """Version 1 is champion and shown, 2 is challenger."""
    for name in ("MLFLOW_TRACKING_URI", "ATELIER_LEDGER_URL"):
        monkeypatch.delenv(name, raising=False)
    place = Workspace(tmp_path, tmp_path / "workspace")
    place.root.mkdir()
    (place.root / "mlflow.db").write_bytes(migrated)
    town = Town(place)
    town.move("champion", town.register())
    town.move("challenger", town.register())
    town.controller.poll()
    assert town.shown == town.held == {"champion": "1", "challenger": "2"} and town.served == "1"
    return town


def test_a_champion_moved_in_mlflow_is_champion_everywhere_and_recorded(town: Town) -> None:
    town.hand("champion", "2")
    town.controller.poll()
    assert town.shown == town.held == {"champion": "2", "previous": "1"}
    assert town.served == "2"
    move = town.ledger.history("toy")[-1]
    assert (move.actor, move.alias, move.version, move.previous) == ("mlflow-ui", "champion", "2", "1")
    assert town.remarks("2") == [] and town.controller.status["errors"] == {}


def put_back_because(town: Town, alias: str, version: str, why: str) -> None:
    before, history = town.held, town.ledger.history("toy")
    town.hand(alias, version)
    for _ in range(3):
        town.controller.poll()
    assert town.shown == town.held == before and town.ledger.history("toy") == history
    (remark,) = town.remarks(version)
    assert why in remark
    told = [event for event in events.since(town.controller.place) if event.kind == "alias.reverted"]
    assert why in told[-1].why and (told[-1].model, told[-1].facts["alias"]) == ("toy", alias)
    assert town.client.get_model_version("toy", version).tags[display.REFUSED].startswith(f"{alias}, ")
    assert town.served == "1"


def test_a_strangers_version_never_becomes_champion_whatever_its_tags_say(town: Town) -> None:
    version = town.stranger()
    real = town.ledger.versions("toy")[0]
    for name in ("bundle", "verdict", "family", "run"):
        town.client.set_model_version_tag("toy", version, f"atelier.{name}", getattr(real, name))
    put_back_because(town, "champion", version, "the ledger knows no version 3")


def test_a_failed_verdict_is_put_back(town: Town) -> None:
    put_back_because(town, "champion", town.register(passed=False).version, "its verdict failed (fd at most 1)")


def test_numbers_forged_in_mlflow_promote_nothing(town: Town, tmp_path: Path) -> None:
    failed, real = town.register(passed=False), town.ledger.versions("toy")[0]
    client, aside = town.client, (tmp_path / "runs").as_uri()
    run = client.create_run(client.create_experiment("toy", aside)).info.run_id
    client.log_metric(run, "scores/fd", 0.01)
    verdict = town.ledger.verdict(failed.verdict)
    assert verdict is not None
    client.log_text(run, verdict.model_copy(update={"passed": True}).model_dump_json(), "verdict.json")
    for name, value in {"passed": "yes", "verdict": real.verdict, "bundle": real.bundle, "run": run}.items():
        client.set_tag(run, f"atelier.{name}", value)
        client.set_model_version_tag("toy", failed.version, f"atelier.{name}", value)
    put_back_because(town, "champion", failed.version, "its verdict failed (fd at most 1)")
    for claimed in (failed.verdict, real.verdict):  # what passed is of another bundle
        with pytest.raises(AtelierError, match="passing verdict"):
            town.move("champion", failed.model_copy(update={"verdict": claimed}))


def test_a_version_without_its_approvals_is_put_back(town: Town) -> None:
    put_back_because(town, "champion", town.register(approvals=2).version, "0 of the 2 approvals")


def test_a_version_that_could_not_be_served_is_put_back(town: Town) -> None:
    put_back_because(town, "champion", town.register(stored=False).version, "atelier promote toy@3")


def test_previous_and_a_failing_challenger_are_put_back(town: Town) -> None:
    put_back_because(town, "previous", "2", "`previous` follows from `champion`")
    put_back_because(town, "challenger", town.register(passed=False).version, "its verdict failed")


@pytest.mark.parametrize("alias", ["champion", "challenger"])
def test_a_deleted_alias_comes_back_and_its_version_says_why(town: Town, alias: str) -> None:
    before = town.held
    town.client.delete_registered_model_alias("toy", alias)
    town.controller.poll()
    assert town.shown == town.held == before
    (remark,) = town.remarks(before[alias])
    assert "was deleted in MLflow" in remark


def test_the_challenger_may_be_any_version_that_passed_and_other_aliases_are_nobodys_business(town: Town) -> None:
    third = town.register().version
    town.hand("challenger", third)
    town.hand("staging", "2")
    town.controller.poll()
    assert town.held == {"champion": "1", "challenger": third}
    assert town.shown == {**town.held, "staging": "2"}


def test_champion_and_challenger_moved_at_once_are_both_granted(town: Town) -> None:
    third = town.register().version
    town.hand("champion", "2")
    town.hand("challenger", third)
    town.controller.poll()
    assert town.shown == town.held == {"champion": "2", "challenger": third, "previous": "1"}
    assert town.remarks(third) == []


def test_a_good_move_beside_a_bad_one_is_granted(town: Town) -> None:
    town.hand("champion", "2")
    town.hand("previous", "2")
    town.controller.poll()
    assert town.shown == town.held == {"champion": "2", "previous": "1"}


def test_each_attempt_is_said_once_and_a_description_keeps_its_words_and_the_last_few(town: Town) -> None:
    version = town.stranger()
    town.client.update_model_version("toy", version, "Mine.\n\nTwo paragraphs.")
    for attempts in range(1, 6):
        town.hand("champion", version)
        for _ in range(2):
            town.controller.poll()
        assert len(town.remarks(version)) == min(attempts, display.REMARKS)
    text = town.client.get_model_version("toy", version).description
    assert text.startswith("Mine.\n\nTwo paragraphs.\n\n")
    assert sum(action["what"] == "refused" for action in town.controller.status["actions"]) == 5


def test_what_cannot_be_put_back_yet_is_said_once_all_the_same(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    version = town.stranger()
    town.hand("champion", version)
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "set_registered_model_alias", lambda *_: (_ for _ in ()).throw(OSError("down")))
        for _ in range(3):
            town.controller.poll()
        assert "down" in town.controller.status["errors"]["toy"] and town.shown["champion"] == version
    town.controller.poll()
    assert town.shown["champion"] == "1" and len(town.remarks(version)) == 1
    assert town.controller.status["errors"] == {}


def test_a_move_in_the_ledger_that_was_not_shown_yet_is_shown(town: Town) -> None:
    town.move("champion", town.ledger.versions("toy")[1])  # the promoter was killed before it displayed
    town.controller.poll()
    assert town.shown == town.held == {"champion": "2", "previous": "1"}
    assert town.served == "2" and town.remarks("1") == town.remarks("2") == []


def test_a_hand_that_was_overtaken_by_the_ledger_is_told(town: Town) -> None:
    third = town.register()
    town.hand("champion", third.version)
    town.move("champion", town.ledger.versions("toy")[1])
    town.controller.poll()
    assert town.shown == town.held == {"champion": "2", "previous": "1"}
    (remark,) = town.remarks(third.version)
    assert "at the same time" in remark


def during_the_look(town: Town, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen between the controller's look at MLflow and its decision."""
    once = [act]
    original = Ledger.move

    def move(self: Ledger, *args: Any, **more: Any) -> Any:
        if more["actor"] == "mlflow-ui" and once:
            once.pop()()
        return original(self, *args, **more)

    monkeypatch.setattr(Ledger, "move", move)
    town.controller.poll()
    assert not once


def test_a_promoter_on_the_command_line_wins_over_one_in_mlflow(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    third = town.register()
    town.hand("champion", third.version)
    during_the_look(town, monkeypatch, lambda: town.move("champion", town.ledger.versions("toy")[1]))
    assert town.shown == town.held == {"champion": "2", "previous": "1"}
    assert any("the ledger has changed since" in remark for remark in town.remarks(third.version))


def test_two_promoters_of_one_version_agree(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.hand("champion", "2")
    during_the_look(town, monkeypatch, lambda: town.move("champion", town.ledger.versions("toy")[1]))
    assert town.shown == town.held == {"champion": "2", "previous": "1"}
    assert town.remarks("2") == [] and len(town.ledger.history("toy")) == 3


def test_a_promotion_shown_while_the_controller_looks_is_not_taken_for_a_hand(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    third, fourth, original, once = town.register(), town.register(), display.aliases, [True]

    def aliases(uri: str, model: str) -> dict[str, str]:
        if not once:
            return original(uri, model)
        once.pop()
        town.move("champion", third)
        display.show(town.uri, "toy", town.ledger)
        seen = original(uri, model)
        town.move("champion", fourth)
        return seen

    town.hand("challenger", "1")  # so that there is something to look at
    with monkeypatch.context() as looking:
        looking.setattr(display, "aliases", aliases)
        town.controller.poll()
    assert not once
    assert [move.actor for move in town.ledger.history("toy") if move.alias == "champion"] == ["test"] * 3
    assert town.held == town.shown == {"champion": "4", "challenger": "1", "previous": "3"}
    assert [town.remarks(version) for version in "1234"] == [[], [], [], []]


def test_who_moves_the_champion_again_at_once_gets_what_was_asked_last(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    third, publish, hands = town.register().version, Controller._publish, [0]

    def move_again(controller: Controller) -> None:
        publish(controller)
        if hands:
            hands.pop()
            town.hand("champion", third)

    town.hand("champion", "2")
    with monkeypatch.context() as granting:
        granting.setattr(Controller, "_publish", move_again)
        town.controller.poll()
    assert town.shown["champion"] == third, "it is not taken for something that the ledger has overtaken"
    town.controller.poll()
    assert town.shown == town.held == {"champion": third, "previous": "2"} and town.remarks(third) == []


def test_a_slow_display_holds_up_no_move_and_comes_before_a_newer_one(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    third, others, moved = town.register(), [], threading.Event()
    original = MlflowClient.set_registered_model_alias

    def promote_third() -> None:
        ledger = Ledger(town.place.ledger_url)
        ledger.move(
            "toy", "champion", "3", verdict=third.verdict, expected_generation=ledger.generation("toy"),
            actor="second", reason="race",
        )  # fmt: skip
        moved.set()
        display.show(town.uri, "toy", ledger)

    def slowly(client: MlflowClient, model: str, alias: str, version: str) -> None:
        if not others:
            others.append(threading.Thread(target=promote_third))
            others[0].start()
            assert moved.wait(10), "a move waits for MLflow"
            others[0].join(timeout=0.5)  # long enough for it to be through, if nothing held it up
        original(client, model, alias, version)

    town.move("champion", town.ledger.versions("toy")[1])
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", slowly)
    display.show(town.uri, "toy", town.ledger)
    others[0].join()
    assert town.shown == town.held == {"champion": "3", "previous": "2"}


def test_what_a_display_left_that_was_cut_off_is_nobodys_wish(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: Any) -> None:
        raise KeyboardInterrupt

    first, second = town.ledger.versions("toy")
    town.move("champion", second)
    with monkeypatch.context() as dying:
        dying.setattr(MlflowClient, "delete_registered_model_alias", cut_off)  # that of the challenger, after champion
        with pytest.raises(KeyboardInterrupt):
            display.show(town.uri, "toy", town.ledger)
    assert town.shown["champion"] == "2"
    town.move("champion", first, actor="rollback")
    town.controller.poll()
    assert town.shown == town.held == {"champion": "1", "previous": "2"}
    assert town.ledger.history("toy")[-1].actor == "rollback" and town.remarks("2") == []


def test_who_displays_does_not_wait_forever_for_another_one(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_schema, "DISPLAY_PATIENCE", 0.1)
    town.move("champion", town.ledger.versions("toy")[1])
    with town.ledger.displaying("toy", town.uri):
        with pytest.raises(AtelierError, match="MLflow is slow"):
            display.show(town.uri, "toy", Ledger(town.place.ledger_url))
        town.controller.poll()
        assert "MLflow is slow" in town.controller.status["errors"]["toy"]
    town.controller.poll()
    assert town.controller.status["errors"] == {}


def test_of_many_that_display_at_once_none_leaves_older_aliases(town: Town) -> None:
    versions = [*town.ledger.versions("toy"), *(town.register() for _ in range(3))]

    def promote(number: int) -> None:
        ledger = Ledger(town.place.ledger_url)
        for turn in range(4):
            version = versions[(number + turn) % len(versions)]
            with suppress(Superseded):
                ledger.move(
                    "toy", "champion", version.version, verdict=version.verdict,
                    expected_generation=ledger.generation("toy"), actor=f"promoter {number}", reason="race",
                )  # fmt: skip
                display.show(town.uri, "toy", ledger)

    with ThreadPoolExecutor(4) as promoters:
        list(promoters.map(promote, range(4)))
    assert len(town.ledger.history("toy")) > 5
    assert town.shown == town.held and town.ledger.displayed("toy", town.uri).done
    town.controller.poll()
    assert town.shown == town.held and town.served == town.held["champion"]
    assert all(move.actor != "mlflow-ui" for move in town.ledger.history("toy"))


def test_an_mlflow_that_is_down_is_told_once_and_everything_goes_on(
    town: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TIMEOUT": "1", "MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    town.move("champion", town.ledger.versions("toy")[1])
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        capsys.readouterr()
        for _ in range(3):
            town.controller.poll()
        assert capsys.readouterr().out.count("mlflow: ") == 1
        assert town.served == "2", "what is served does not wait for MLflow"
        assert "127.0.0.1:9" in json.loads(status_file(town.place).read_bytes())["errors"]["mlflow"]
    town.controller.poll()
    assert town.shown == town.held and town.controller.status["errors"] == {}


def test_a_ledger_that_is_locked_is_an_error_and_no_refusal(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: Any, **__: Any) -> Any:
        with Ledger("sqlite:////proc/no/such/ledger.db")._writing():
            pytest.fail("this cannot be opened")

    town.hand("champion", "2")
    with monkeypatch.context() as broken:
        broken.setattr(Ledger, "move", locked)
        town.controller.poll()
        assert "cannot be used" in town.controller.status["errors"]["toy"]
        assert town.shown["champion"] == "2" and town.remarks("2") == []
    town.controller.poll()
    assert town.held["champion"] == town.served == "2"


def test_a_ledger_put_back_from_a_backup_is_told_in_the_status_until_it_is_mended(town: Town) -> None:
    """Meanwhile everything else goes on, and what is served stays."""
    database = town.place.root / "ledger.db"
    backup = database.read_bytes()
    for version in reversed(town.ledger.versions("toy")):
        town.move("champion", version)
        town.controller.poll()
    database.write_bytes(backup)
    third = town.register()
    town.client.delete_registered_model_alias("toy", "previous")
    town.hand("challenger", third.version)
    for _ in range(2):
        town.controller.poll()
    told = json.loads(status_file(town.place).read_bytes())
    assert list(told["errors"]) == ["release"] and "a newer state of this ledger" in told["errors"]["release"]
    assert json.loads(town.place.release.read_bytes())["number"] == 4, "what is served stays"
    assert town.held["challenger"] == third.version, "and a person's wish is granted all the same"
    town.place.release.unlink()
    town.controller.poll()
    assert json.loads(town.place.release.read_bytes())["number"] == 3 and town.controller.status["errors"] == {}


def test_the_status_file_tells_what_was_done(town: Town) -> None:
    town.hand("champion", town.stranger())
    town.controller.poll()
    told = json.loads(status_file(town.place).read_bytes())
    assert told["polled"] and told["errors"] == {} and told["release"] == 2
    assert [action["what"] for action in told["actions"]][-2:] == ["refused", "put back"]


def test_a_controller_is_well_while_it_polls(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    assert town.controller.health()["well"] and not Controller(town.place).health()["well"]
    later = time.monotonic() + HANGING_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not town.controller.health()["well"]


@pytest.mark.slow
def test_a_second_controller_of_a_workspace_is_refused(town: Town) -> None:
    (town.place.project / "data.dvc").write_text("outs: []\n")
    command = [sys.executable, "-m", "flows.controller", "--port", "0", "--project", str(town.place.project)]
    environment = {"ATELIER_WORKSPACE": str(town.place.root), "PATH": "/usr/bin:/bin"}
    first = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and "every 1 s" in first.stdout.readline()
        second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2 and f"a controller already, process {first.pid}" in second.stdout
        first.terminate()
        assert first.wait(timeout=20) == 0
    finally:
        first.kill()
        first.wait()


def test_what_the_ledger_cannot_grant_is_told_as_one_paragraph(town: Town) -> None:
    with pytest.raises(AtelierError, match="refused: "):
        display.remark(town.uri, "toy", "99", "champion", "no such version")
