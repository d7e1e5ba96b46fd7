"""The whole line through the real command, in a workspace of its own, and what it leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components import manifest
from components.ledger import Ledger
from components.records import Artifact
from components.store import Store, digest_of
from flows import events, runs
from flows.workspace import Workspace
from tests.components.exported import exported, judge

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "flows" / "recipes" / "fashion-tiny.yaml"
ATELIER = Path(sys.executable).with_name("atelier")
CACHEABLE = {"ingest", "validate", "preprocess", "check candidates", "evaluate champion"} | {
    f"{stage} {candidate}" for stage in ("train", "bundle", "evaluate") for candidate in ("vae", "dcgan")
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Answer:
    """What a command came to: its exit code, its JSON, and what a person saw."""

    code: int
    json: dict[str, Any]
    seen: str

    def run(self) -> dict[str, Any]:
        (run,) = self.json["runs"]
        return dict(run)

    def cached(self) -> set[str]:
        return {stage["stage"] for stage in self.run()["stages"] if stage["cached"]}

    def ran(self) -> set[str]:
        return {stage["stage"] for stage in self.run()["stages"] if not stage["cached"]}


@dataclass(frozen=True)
class Place:
    """A project and its workspace."""

    root: Path
    project: Path = ROOT

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        return {**kept, "ATELIER_WORKSPACE": str(self.root)}

    def atelier(self, *arguments: str) -> Answer:
        done = subprocess.run(
            [str(ATELIER), *arguments, "--json"],
            cwd=self.project,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert "Traceback" not in done.stderr
        return Answer(done.returncode, json.loads(done.stdout), done.stderr)

    @property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.root / 'ledger.db'}")

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    @property
    def client(self) -> Any:
        from mlflow.tracking import MlflowClient

        uri = f"sqlite:///{self.root / 'mlflow.db'}"
        return MlflowClient(uri, registry_uri=uri)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("line") / "workspace")


@pytest.fixture(scope="module")
def first(place: Place) -> Answer:
    return place.atelier("run", "fashion-tiny")


@pytest.fixture(scope="module")
def second(first: Answer, place: Place) -> Answer:
    assert first.code == 0
    return place.atelier("run", "fashion-tiny")


def verdicts(answer: Answer) -> dict[str, dict[str, Any]]:
    return {verdict["candidate"]: verdict for verdict in answer.run()["verdicts"]}


def test_the_first_run_registers_the_best_candidate_that_passed(first: Answer) -> None:
    run = first.run()
    assert first.code == 0 and "error" not in first.json
    assert (run["model"], run["version"], run["alias"], run["created"]) == ("fashion-tiny", "1", "champion", True)
    assert {name: verdict["passed"] for name, verdict in verdicts(first).items()} == {"vae": True, "dcgan": False}
    assert not [stage for stage in run["stages"] if stage["failed"]] and not first.cached()


def test_a_person_sees_one_line_per_stage_and_nothing_of_the_vendors(first: Answer, place: Place) -> None:
    assert [line for line in first.seen.splitlines() if line.startswith("+ package")]
    assert not [word for word in ("INFO", "WARNING", "ERROR", "prefect.", "Ignoring") if word in first.seen]
    log = (place.root / "logs" / "atelier.log").read_text()
    assert "validate" in log and "Completed" in log


def test_the_ledger_holds_both_verdicts_and_the_move(first: Answer, place: Place) -> None:
    (version,) = place.ledger.versions("fashion-tiny")
    (move,) = place.ledger.history("fashion-tiny")
    assert (version.version, version.family, version.modality) == ("1", "vae", "image")
    assert (move.alias, move.version, move.verdict) == ("champion", "1", version.verdict)
    assert place.ledger.passing("fashion-tiny", verdicts(first)["dcgan"]["bundle"]["digest"]) is None
    kept = place.ledger.verdict(version.verdict)
    assert kept is not None and kept.model_dump(mode="json") == verdicts(first)["vae"]


def test_mlflow_has_the_version_its_alias_and_the_run_of_each_candidate(first: Answer, place: Place) -> None:
    version = place.client.get_model_version_by_alias("fashion-tiny", "champion")
    (entered,) = place.ledger.versions("fashion-tiny")
    assert str(version.version) == "1" and version.run_id == first.run()["run"]
    read = ("vae: ", "**copied at most 0.01** holds", "- licence: MIT", "- consent: ", "- from: ", "**Limits**")
    assert all(part in version.description for part in read), "whoever promotes reads the model card there"
    wanted = {"bundle": entered.bundle, "verdict": entered.verdict, "data": entered.data, "recipe": entered.recipe}
    assert {name: version.tags[f"atelier.{name}"] for name in wanted} == wanted
    experiment = place.client.get_experiment_by_name("fashion-tiny")
    runs = {run.data.tags["atelier.candidate"]: run for run in place.client.search_runs([experiment.experiment_id])}
    assert {name: run.data.tags["atelier.passed"] for name, run in runs.items()} == {"vae": "yes", "dcgan": "no"}
    assert {"scores/fd", "floor/fd", "cost/seconds"} <= runs["dcgan"].data.metrics.keys()
    images = {file.path for file in place.client.list_artifacts(runs["vae"].info.run_id, "images")}
    assert images == {"images/generated.png", "images/held_out.png", "images/nearest.png"}


def test_the_licence_of_the_data_goes_with_the_version_and_its_bento(first: Answer, place: Place) -> None:
    licence = place.ledger.pinned("fashion-tiny", "licence", "1")
    card = (ROOT / "data" / "fashion" / "README.md").read_text()
    assert licence is not None and f"licence: {licence}" in card
    assert place.client.get_model_version("fashion-tiny", "1").tags["atelier.licence"] == licence
    bento = place.root / "bentoml" / "bentos" / first.run()["bento"].replace(":", "/")
    assert licence in (bento / "README.md").read_text()
    assert json.loads((bento / "manifest.json").read_text())["licence"] == licence


def test_what_a_person_looks_at_is_there(first: Answer, place: Place) -> None:
    folder = place.root / "reports" / "fashion-tiny"
    pictures = {"vae.png", "dcgan.png", "held_out.png", "served.png"}
    assert {path.name for path in folder.iterdir()} == pictures | {"report.html"}
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    report = (folder / "report.html").read_text()
    assert all(f"<h3>{title}</h3>" in report for title in ("vae", "dcgan", "real, held out"))
    assert [f"<dd>{family}</dd>" in report for family in ("vae", "dcgan")] == [True, True], "what each candidate is"
    assert list((place.root / "store" / "docs").glob("*/index.html"))
    assert first.run()["bento"].startswith("fashion-tiny:v1-")
    assert (place.root / "bentoml" / "bentos" / first.run()["bento"].replace(":", "/")).is_dir()


def test_the_page_of_the_last_run_and_of_a_versions_own_are_found(first: Answer, place: Place) -> None:
    last, own = (Path(place.atelier("report", name).json["page"]) for name in ("fashion-tiny", "fashion-tiny@1"))
    assert last == place.root / "reports" / "fashion-tiny" / "report.html" != own
    assert own.read_bytes() == last.read_bytes()
    refused = place.atelier("report", "fashion-tyni")
    assert refused.code == 2 and "fashion-tiny" in refused.json["error"]


def test_a_second_run_skips_every_cacheable_stage_and_registers_nothing(second: Answer, place: Place) -> None:
    assert second.code == 0 and second.cached() >= CACHEABLE
    assert second.run()["created"] is False and second.run()["version"] == "1"
    assert len(place.ledger.versions()) == 1 and len(place.ledger.history("fashion-tiny")) == 1
    assert len(place.client.search_model_versions("name = 'fashion-tiny'")) == 1


def test_explain_says_what_a_run_would_do_and_does_nothing(second: Answer, place: Place) -> None:
    def fates(*arguments: str) -> dict[str, tuple[str, list[str]]]:
        answer = place.atelier("explain", "fashion-tiny", *arguments)
        assert answer.code == 0
        return {line["stage"]: (line["fate"], line["why"]) for line in answer.json["stages"]}

    before = digest_of(place.root / "store")
    unchanged = fates()
    assert {stage for stage, (fate, _) in unchanged.items() if fate == "cached"} >= CACHEABLE
    changed = fates("--set", "candidates.vae.train.steps=77")
    assert changed["train vae"] == ("runs", ["candidates.vae.train.steps: 200 became 77"])
    assert changed["evaluate vae"][0] == "waits" and changed["train dcgan"][0] == "cached"
    assert changed["register"][0] == "always"
    other = fates("--set", "evaluate.samples=300")  # the champion's scores are used again on the same terms only
    assert other["evaluate champion"] == ("runs", ["evaluate.samples: 256 became 300"])
    assert digest_of(place.root / "store") == before


def test_a_kept_result_that_was_cut_off_is_made_again(second: Answer, place: Place) -> None:
    results = list((place.root / "prefect" / "storage").glob("gate-*"))
    for result in results:
        result.write_bytes(result.read_bytes()[:100])
    again = place.atelier("run", "fashion-tiny")
    assert results and again.code == 0 and "gate vae" in again.ran() and "train vae" in again.cached()
    assert verdicts(again) == verdicts(second)


def test_each_run_leaves_a_record_of_what_its_stages_cost(second: Answer, place: Place) -> None:
    records = [json.loads(path.read_text()) for path in sorted((place.root / "records").iterdir())]
    stages = {stage["stage"]: stage for stage in records[0]["stages"]}
    assert stages["train vae"]["peak_memory"] > 100 * 2**20 and stages["validate"]["own_seconds"] > 0
    assert len(records) >= 2 and not stages["train vae"]["cached"]


def test_each_run_is_on_the_log_with_its_cause_and_its_end(second: Answer, place: Place) -> None:
    here = Workspace(place.project, place.root)
    newest, *_, oldest = runs.of(here, "fashion-tiny")
    assert newest.why == "by hand" and runs.last(here)["fashion-tiny"] == newest
    assert (oldest.outcome, oldest.exit_code) == ("passed", 0) and str(oldest.started) < str(oldest.ended)
    told = [event for event in events.since(here) if event.facts.get("run") == oldest.id]
    assert [(event.kind, event.model) for event in told] == [("run.ended", "fashion-tiny")]


def test_an_alias_that_a_crash_left_behind_is_mended_by_a_run(second: Answer, place: Place) -> None:
    (version,) = place.ledger.versions("fashion-tiny")
    place.ledger.move(  # as a run does that dies before MLflow is told
        "fashion-tiny", "challenger", "1", verdict=version.verdict, expected_generation=None, actor="test", reason="cut"
    )
    assert "challenger" not in place.client.get_registered_model("fashion-tiny").aliases
    assert place.atelier("run", "fashion-tiny").code == 0
    aliases = place.client.get_registered_model("fashion-tiny").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"champion": "1", "challenger": "1"}


def test_corrupt_bytes_run_their_own_stage_again_and_no_other(second: Answer, place: Place) -> None:
    bundle = place.store.path(Artifact.model_validate(verdicts(second)["dcgan"]["bundle"]))
    endpoint = bundle / "endpoint.json"
    endpoint.write_text(endpoint.read_text().replace("fashion-tiny", "fashion-tiby"))
    again = place.atelier("run", "fashion-tiny")
    assert again.code == 0 and "bundle dcgan" in again.ran()
    assert again.cached() >= CACHEABLE - {"bundle dcgan"}
    assert digest_of(bundle) == verdicts(second)["dcgan"]["bundle"]["digest"]


def test_another_budget_retrains_that_candidate_only(second: Answer, place: Place) -> None:
    other = place.atelier("run", "fashion-tiny", "--set", "candidates.vae.train.steps=30")
    assert {"train vae", "bundle vae", "evaluate vae"} <= other.ran()
    assert {"train dcgan", "bundle dcgan", "evaluate dcgan", "validate", "preprocess"} <= other.cached()
    assert other.code in (0, 4)  # so small a budget may fail its gates: here it is the cache that counts


def test_a_gate_that_nobody_passes_exits_with_4_and_registers_nothing(second: Answer, place: Place) -> None:
    before = len(place.ledger.versions())
    failed = place.atelier("run", "fashion-tiny", "--set", "gates.0.at_least=0.999")
    assert failed.code == 4 and "label_entropy at least 0.999" in failed.json["error"]
    assert len(place.ledger.versions()) == before
    here = Workspace(place.project, place.root)
    assert runs.last(here)["fashion-tiny"].outcome == "gates failed" and events.since(here)[-1].kind == "run.failed"
    assert "Gates" in failed.seen and "no: " in failed.seen
    report = (place.root / "reports" / "fashion-tiny" / "report.html").read_text()
    assert "label_entropy at least 0.999" in report and "nothing is registered" in report
    assert report.count("<dt>steps</dt>") == 2, "what each candidate cost is told of those that failed too"
    for verdict in failed.run()["verdicts"]:
        assert not verdict["passed"]
        found = place.client.search_runs(
            [place.client.get_experiment_by_name("fashion-tiny").experiment_id],
            f"tags.`atelier.bundle` = '{verdict['bundle']['digest']}'",
        )
        assert found and found[0].data.tags["atelier.passed"] == "no"


def test_pictures_that_a_teams_network_knows_fail_their_gate(second: Answer, place: Place, tmp_path: Path) -> None:
    network = tmp_path / "judge.pt2"
    asked = ("--set", f"moderation.images={{model: {network}, block: {{anything: 0}}}}")
    missing = place.atelier("run", "fashion-tiny", *asked)
    assert missing.code == 2 and "no such file" in missing.json["error"]
    assert not {"bundle vae", "train vae"} & {stage["stage"] for stage in missing.run()["stages"]}
    exported(network, judge(size=28, leaning=-3.0), size=28)  # no picture is so much darker on the left
    failed = place.atelier("run", "fashion-tiny", *asked)
    assert failed.code == 4 and "unsafe at most 0.01 (it is 1)" in failed.json["error"]
    assert "train vae" in failed.cached()
    report = (place.root / "reports" / "fashion-tiny" / "report.html").read_text()
    assert "<h2>Unsafe</h2>" in report


def test_one_bad_recipe_does_not_stop_the_next(second: Answer, place: Place, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(RECIPE.read_text().replace("family: vae", "family: vea"))
    answer = place.atelier("run", str(bad), "fashion-tiny")
    assert answer.code == 2
    broken, whole = answer.json["runs"]
    assert "did you mean 'vae'" in broken["error"] and broken["exit_code"] == 2
    assert "error" not in whole and whole["version"] == "1"


def test_ls_and_show_tell_the_ledger_as_json(second: Answer, place: Place) -> None:
    listed = place.atelier("ls")
    (model,) = listed.json["models"]
    assert listed.json["schema"] == 1 and (model["name"], model["modality"]) == ("fashion-tiny", "image")
    assert model["champion"] == "1" and model["versions"][0]["verdict"] == "passed"
    assert set(model["versions"][0]) == {"version", "family", "verdict", "created", "data", "model", "run", "retired"}
    shown = place.atelier("show", "fashion-tiny@1")
    assert shown.json["record"]["passed"] and shown.json["record"]["candidate"] == "vae"
    assert shown.json["run"] == model["versions"][0]["run"] and "champion" in shown.json["aliases"]
    missing = place.atelier("show", "fashion-tyni")
    assert missing.code == 2 and "did you mean 'fashion-tiny'" in missing.json["error"]


def test_doctor_finds_this_machine_good_but_for_what_it_says(place: Place) -> None:
    answer = place.atelier("doctor")
    bad = {check["check"] for check in answer.json["checks"] if not check["good"]}
    assert {"python", "packages", "project", "disk", "workspace", "ledger", "data"} <= {
        check["check"] for check in answer.json["checks"]
    }
    assert bad <= {"ports", "disk", "packages"} and answer.code == (2 if bad else 0)


def test_restore_brings_every_byte_back_without_store_and_cache(second: Answer, place: Place, tmp_path: Path) -> None:
    version = place.ledger.versions("fashion-tiny")[0]
    alone = Place(tmp_path / "workspace")
    shutil.copytree(place.root / "dvc", alone.root / "dvc")
    shutil.copy(place.root / "ledger.db", alone.root / "ledger.db")
    shutil.rmtree(alone.root / "dvc" / ".dvc" / "cache", ignore_errors=True)
    answer = alone.atelier("restore", "fashion-tiny@1", "--to", str(tmp_path / "back"))
    assert answer.code == 0 and {part["kind"] for part in answer.json["parts"]} == {"data", "shards", "bundle", "facts"}
    assert {part["kind"]: digest_of(Path(part["path"])) for part in answer.json["parts"]} == {
        pointer.kind: pointer.digest for pointer in version.pointers
    }
    kept = ROOT / "data" / "fashion"
    assert {path.name for path in kept.iterdir()} == {path.name for path in (tmp_path / "back" / "data").iterdir()}
    assert all((tmp_path / "back" / "data" / path.name).read_bytes() == path.read_bytes() for path in kept.iterdir())
    again = alone.atelier("restore", "fashion-tiny@1", "--to", str(tmp_path / "back"))
    assert again.code == 2 and "is not empty" in again.json["error"]


def test_a_challenger_is_promoted_and_rolled_back(first: Answer, second: Answer, place: Place) -> None:
    waiting = place.atelier("run", "fashion-tiny", "--set", "serve.max_samples=5").run()
    assert waiting["alias"] == "challenger" and "train vae" in {s["stage"] for s in waiting["stages"] if s["cached"]}
    promoted = place.atelier("promote", "fashion-tiny", "--reason", "sharper")
    assert promoted.code == 0 and promoted.json["version"] == waiting["version"]
    assert waiting["bento"] == promoted.json["bento"], "it was packaged when it was registered"
    release = json.loads((place.root / "serving" / "release.json").read_text())
    served = release["models"]["fashion-tiny"]
    assert (served["champion"], served["previous"]) == (waiting["version"], "1")
    assert release["number"] == promoted.json["generation"]
    aliases = place.client.get_registered_model("fashion-tiny").aliases
    assert {name: str(number) for name, number in aliases.items()} == {"champion": waiting["version"], "previous": "1"}
    again = place.atelier("promote", "fashion-tiny")
    assert again.code == 2 and "no challenger" in again.json["error"]
    shutil.rmtree(place.root / "bentoml" / "bentos" / "fashion-tiny" / first.run()["bento"].partition(":")[2])
    back = place.atelier("rollback", "fashion-tiny")  # a Bento that was lost is made again before anything moves
    assert (back.json["version"], back.json["bento"].startswith("fashion-tiny:v1-")) == ("1", True)
    assert (place.root / "bentoml" / "bentos" / back.json["bento"].replace(":", "/")).is_dir()
    release = json.loads((place.root / "serving" / "release.json").read_text())
    assert release["models"]["fashion-tiny"]["champion"] == "1"
    moves = place.atelier("history", "fashion-tiny").json["moves"][-2:]
    assert [(move["alias"], move["version"], move["reason"]) for move in moves] == [
        ("champion", waiting["version"], "sharper"),
        ("champion", "1", "rolled back by hand"),
    ]
    assert place.atelier("ls").json["models"][0]["champion"] == "1"


def test_a_lost_store_is_made_again_under_the_same_encoder(second: Answer, place: Place) -> None:
    shutil.rmtree(place.root / "store" / "encoder")
    again = place.atelier("run", "fashion-tiny")
    assert again.code == 0 and again.cached() >= CACHEABLE
    assert verdicts(again)["vae"]["scores"]["encoder"] == verdicts(second)["vae"]["scores"]["encoder"]


@pytest.fixture
def project(tmp_path: Path) -> Place:
    """A project of its own: pictures that are none, and a data.dvc whose remote is not there."""
    root = tmp_path / "project"
    (root / "flows" / "recipes").mkdir(parents=True)
    shutil.copy(ROOT / "data.dvc", root / "data.dvc")
    (root / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
    raw = yaml.safe_load(RECIPE.read_text())
    raw["data"]["source"] = "pictures"
    (root / "flows" / "recipes" / "torn.yaml").write_text(yaml.safe_dump(raw))
    (root / "pictures").mkdir()
    rows = 40
    columns = {
        "id": [str(i) for i in range(rows)],
        "image": [b"not a picture %d" % i for i in range(rows)],
        "label": [f"kind {i % 2}" for i in range(rows)],
        "split": ["held_out" if i % 4 == 0 else "train" for i in range(rows)],
    }
    pq.write_table(pa.table(columns), root / "pictures" / "rows.parquet")
    return Place(tmp_path / "workspace", root)


def know_what_lies_in_data(project: Path) -> None:
    """Put the manifest of `data` into DVC's cache, and none of its files."""
    name = manifest.pointer_md5(project / "data.dvc")
    place = Path("files/md5") / name[:2] / name[2:]
    (project / ".dvc" / "cache" / place).parent.mkdir(parents=True)
    shutil.copy(ROOT / "infra" / "starter-data" / place, project / ".dvc" / "cache" / place)


def test_data_that_is_rejected_exits_with_3_and_trains_nothing(project: Place) -> None:
    blind = project.atelier("run", "torn")
    assert blind.code == 2 and "remote" in blind.json["error"]  # whether rows are excluded lies in data, not to be had
    know_what_lies_in_data(project.project)
    answer = project.atelier("run", "torn")
    assert answer.code == 3 and "rejected" in answer.json["error"] and answer.run()["exit_code"] == 3
    last = answer.run()["stages"][-1]
    assert (last["stage"], last["cached"], last["failed"]) == ("validate", False, True)
    assert project.atelier("ls").json["models"] == []


def test_data_without_its_remote_is_told_in_one_paragraph(project: Place) -> None:
    shutil.copy(RECIPE, project.project / "flows" / "recipes" / "far.yaml")
    answer = project.atelier("run", "far")
    assert answer.code == 2 and "remote" in answer.json["error"] and "\n" not in answer.json["error"]


def test_ctrl_c_ends_a_run_with_130_and_leaves_no_server(place: Place, second: Answer) -> None:
    running = subprocess.Popen(
        [str(ATELIER), "run", "fashion-tiny", "--json"],
        cwd=ROOT, env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert running.stderr is not None
    while "ingest" not in running.stderr.readline():
        assert running.poll() is None
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the Prefect API beside it gets it too
    out, seen = running.communicate(timeout=60)
    assert running.returncode == 130 and json.loads(out)["exit_code"] == 130 and "Traceback" not in seen
    for _ in range(50):
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("something of the run still lives")
