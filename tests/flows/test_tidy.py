"""What `atelier tidy` removes, and a planted fault for each thing that it must never remove."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from components import manifest, versioning
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.packaging import bento_model
from components.records import Artifact, Pointer, Scores, Verdict
from components.store import Store
from components.versioning import Archive
from flows import known, runs, tidy, turns
from flows.tidy import Item, Policy
from flows.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
ALL = Policy(keep=1, seconds=0.0)
RETIRE = Policy(keep=1, seconds=0.0, retire=True)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test has only just written counts as old."""
    monkeypatch.setattr(tidy, "YOUNG_SECONDS", 0.0)


class Yard:
    """A workspace with versions of `toy`, each with all that a real one leaves behind."""

    def __init__(self, root: Path) -> None:
        self.place = Workspace(root, root / "workspace")
        self.ledger, self.store, self.archive = (
            Ledger(self.place.ledger_url), Store(self.place.store), Archive(self.place.dvc)
        )  # fmt: skip
        self.versions = {version.version: version for version in self.ledger.versions()}

    def fill(self, *numbers: str) -> None:
        """Register those versions, the first as champion."""
        self.place.root.mkdir(parents=True, exist_ok=True)
        (self.place.project / "data.dvc").write_text("outs: []\n")
        self.data = self.put("data", "rows that all versions share")
        self.versions = {number: self.register(number) for number in numbers}
        self.point(numbers[0])

    def put(self, kind: str, words: str) -> Artifact:
        with self.store.writing(kind) as draft:
            (draft.directory / "file").write_text(words)
        return draft.artifact

    def register(self, number: str) -> Version:
        bundle = self.put("bundle", f"weights {number}")
        shared = self.archive.keep(self.data, self.store.path(self.data))
        pointers = (shared, self.archive.keep(bundle, self.store.path(bundle)))
        scores = Scores(
            bundle=bundle, encoder="e", held_out="h", samples=16, seeds=(0, 1), values={"fd": (1.0,)}, floor={},
            pictures=bundle,
        )  # fmt: skip
        verdict = Verdict(
            model="toy", candidate="c", family="vae", bundle=bundle, scores=scores, checks=(), rank=1.0, passed=True
        )
        model = self.place.bentos / "models" / bento_model("toy", bundle.digest).replace(":", "/")
        bento = self.place.bentos / "bentos" / "toy" / f"v{number}-0123456789ab"
        for folder, name in ((model, "model.yaml"), (bento, "bento.yaml")):
            folder.mkdir(parents=True)
            (folder / name).write_text(number)
            (folder.parent / "latest").write_text(folder.name)
        return self.ledger.enter(
            Version(
                model="toy", version=number, modality="image", family="vae", bundle=bundle.digest,
                verdict=self.ledger.record(verdict, run=f"run{number}"), data="md5:0", commit=None, recipe="sha256:0",
                run=f"run{number}", pointers=pointers, created=f"2026-01-0{number}T00:00:00Z",
            )
        )  # fmt: skip

    def point(self, number: str, alias: str = "champion") -> None:
        self.ledger.move(
            "toy", alias, number, verdict=self.versions[number].verdict,  # type: ignore[arg-type]
            expected_generation=self.ledger.generation("toy"), actor="test", reason="test",
        )  # fmt: skip

    def whole(self, number: str) -> bool:
        """Whether a version could be served and brought back: its Bento, its model, and every byte of its archive."""
        version = self.versions[number]
        bento = self.place.bentos / "bentos" / "toy" / f"v{number}-0123456789ab"
        model = self.place.bentos / "models" / bento_model("toy", version.bundle).replace(":", "/")
        with_all = (bento / "bento.yaml").is_file() and (model / "model.yaml").is_file()
        return with_all and all(self.brought(pointer) for pointer in version.pointers)

    def brought(self, pointer: Pointer) -> bool:
        folder = self.place.root / "back" / os.urandom(4).hex()
        try:
            self.archive.bring(pointer, folder)
        except AtelierError:
            return False
        return True

    def stage(self, model: str, name: str, *artifacts: Artifact) -> Path:
        """A kept result of a stage, as Prefect keeps it, and the note of its key."""
        path = self.place.prefect / "storage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"result": json.dumps([artifact.model_dump() for artifact in artifacts])}))
        note = self.place.keys / model / f"{name}.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"name": name, "asked": {}}))
        os.utime(note, (1, 1))
        return path

    def recipe(self, model: str, more: str = "") -> None:
        folder = self.place.project / known.FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{model}.yaml").write_text(f"model: {model}\n{more}")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "yard"
    root.mkdir()
    Yard(root).fill(*"12345")
    return root


@pytest.fixture
def yard(filled: Path, tmp_path: Path) -> Yard:
    return Yard(shutil.copytree(filled, tmp_path / "yard"))


def why(items: list[Item], part: str) -> dict[str, str]:
    return {item.name: item.why for item in items if item.part == part and not item.goes}


def gone(items: list[Item], part: str) -> set[str]:
    return {item.name for item in items if item.part == part and item.goes}


def test_nothing_changes_where_it_is_only_shown(yard: Yard) -> None:
    def everything() -> dict[str, bytes]:
        files = (path for path in yard.place.root.rglob("*") if path.is_file() and "ledger" not in path.name)
        return {str(path): path.read_bytes() for path in files}

    before = everything()
    assert [item for item in tidy.plan(yard.place, RETIRE) if item.goes]
    assert everything() == before and yard.ledger.retired() == set()


def test_what_may_still_be_promoted_or_rolled_back_to_stays_whole(yard: Yard) -> None:
    yard.point("2")  # 1 is previous now
    items = tidy.apply(yard.place, ALL)
    assert all(yard.whole(number) for number in "12345") and yard.ledger.retired() == set()
    assert why(items, "versions") == {
        "toy@1": "previous", "toy@2": "champion", "toy@5": "among the newest 1",
        "toy@3": "old: may still be promoted; --retire gives it up",
        "toy@4": "old: may still be promoted; --retire gives it up",
    }  # fmt: skip
    assert len(gone(items, "store")) == 2  # the copies of 3 and 4, which the archive has too


def test_versions_that_are_given_up_go_and_take_nothing_of_others_with_them(yard: Yard) -> None:
    yard.point("2")
    yard.point("3", "challenger")
    tidy.apply(yard.place, RETIRE)
    assert [number for number in "12345" if yard.whole(number)] == ["1", "2", "3", "5"]
    assert yard.ledger.retired() == {("toy", "4")}
    shared, own = yard.versions["4"].pointers
    assert yard.brought(shared) and not yard.brought(own), "the data are those of the other versions too"
    left = {path.stem for path in yard.place.dvc.glob("bundle/*.dvc")}
    assert left == {yard.versions[number].bundle.removeprefix("sha256:") for number in "1235"}
    assert (yard.place.bentos / "bentos" / "toy" / "latest").read_text() == "v5-0123456789ab"


def test_a_version_that_was_given_up_gets_no_alias_and_one_with_an_alias_is_not_given_up(yard: Yard) -> None:
    with pytest.raises(AtelierError, match="toy@1 is champion"):
        yard.ledger.retire("toy", "1", "test")
    yard.ledger.retire("toy", "4", "test")
    with pytest.raises(AtelierError, match="version 4 cannot become champion: it was given up"):
        yard.point("4")
    assert yard.ledger.current("toy")["champion"].version == "1"


def test_a_version_from_which_a_recipe_begins_stays(yard: Yard) -> None:
    yard.recipe("other", "candidates: {gpt: {init: toy@3}}\n")
    tidy.apply(yard.place, RETIRE)
    assert yard.whole("3") and not yard.whole("4") and ("toy", "3") not in yard.ledger.retired()


def test_what_is_young_stays(yard: Yard) -> None:
    items = tidy.apply(yard.place, Policy(keep=1, seconds=1e9, retire=True))
    assert not [item for item in items if item.goes] and all(yard.whole(number) for number in "12345")


def test_what_the_next_run_of_a_known_recipe_would_use_stays_and_what_no_recipe_would_goes(yard: Yard) -> None:
    yard.recipe("toy")
    mine, spare = yard.put("shards", "of a recipe"), yard.put("shards", "of one that is gone")
    used, unused = yard.stage("toy", "preprocess-1", mine), yard.stage("left", "preprocess-2", spare)
    items = tidy.apply(yard.place, ALL)
    assert used.is_file() and yard.store.holds(mine)
    assert not unused.exists() and not yard.store.holds(spare)
    assert why(items, "results") == {"preprocess-1": "the next run of toy would use it"}


def test_what_the_ledger_has_pinned_and_what_other_parts_name_stays(yard: Yard) -> None:
    encoder, reference = yard.put("encoder", "pinned"), yard.put("features", "what a monitor compares with")
    yard.ledger.pin("toy", "encoder", "k", encoder.digest)
    memory = yard.place.root / "monitor" / "toy" / "memory.json"
    memory.parent.mkdir(parents=True)
    memory.write_text(json.dumps({"reference": reference.digest}))
    tidy.apply(yard.place, RETIRE)
    assert yard.store.holds(encoder) and yard.store.holds(reference)


def test_the_only_copy_of_a_version_stays(yard: Yard) -> None:
    version = yard.versions["3"]
    (yard.place.dvc / "bundle" / f"{version.bundle.removeprefix('sha256:')}.dvc").unlink()
    items = tidy.apply(yard.place, ALL)
    assert yard.store.holds(Artifact(kind="bundle", digest=version.bundle))
    assert "the archive does not hold it" in why(items, "store").values()


def test_while_a_run_is_on_nothing_that_it_may_use_is_touched(yard: Yard) -> None:
    with turns.turn(yard.place.locks, "another", say=print):
        items = tidy.apply(yard.place, RETIRE, wait_seconds=0.0)
    assert {item.why for item in items if item.part in tidy.SHARED} == {"a run is on"}
    assert yard.ledger.retired() == set() and all(yard.whole(number) for number in "12345")


def test_a_run_that_begins_meanwhile_waits_until_it_is_tidy(yard: Yard) -> None:
    order: list[str] = []

    def run() -> None:
        with turns.turn(yard.place.locks, "toy", say=print):
            order.append("run")

    with turns.tidying(yard.place.locks, wait_seconds=0.0) as alone:
        assert alone
        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.2)
        order.append("tidied")
    thread.join(10)
    assert order == ["tidied", "run"]


def test_a_checkpoint_whose_training_is_on_stays(yard: Yard) -> None:
    for name in ("job-held", "job-left"):
        (yard.place.checkpoints / name).mkdir(parents=True)
        (yard.place.checkpoints / name / "state.json").write_text("{}")
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(yard.place.checkpoints / "job-held.lock")], stdout=subprocess.PIPE
    ) as training:
        assert training.stdout is not None
        training.stdout.readline()
        items = tidy.apply(yard.place, ALL)
        training.kill()
    assert why(items, "checkpoints") == {"job-held": "its training is on"}
    assert [path.name for path in yard.place.checkpoints.glob("*/")] == ["job-held"]


def test_an_archive_that_lost_a_manifest_of_what_is_kept_is_not_touched(yard: Yard) -> None:
    kept = yard.versions["5"].pointers[1]
    (yard.place.dvc / "remote" / manifest.place_of(kept.dvc.removeprefix("md5:"))).unlink()
    with pytest.raises(AtelierError, match="nothing can be removed safely"):
        tidy.apply(yard.place, RETIRE)
    assert all(yard.brought(yard.versions[number].pointers[1]) for number in "1234")


@pytest.mark.slow
def test_a_kill_at_any_moment_harms_nothing_and_the_next_tidying_ends_it(yard: Yard) -> None:
    code = (
        "from pathlib import Path; import sys; from flows import tidy; from flows.workspace import Workspace\n"
        "tidy.YOUNG_SECONDS = 0.0; print(1, flush=True)\n"
        "tidy.apply(Workspace(Path(sys.argv[1]), Path(sys.argv[2])), tidy.Policy(keep=1, seconds=0.0, retire=True))"
    )
    lot = random.Random(0)
    for _ in range(4):
        command = [sys.executable, "-c", code, str(yard.place.project), str(yard.place.root)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(lot.uniform(0, 1.2))
            process.send_signal(signal.SIGKILL)
        assert yard.whole("1") and yard.whole("5")
    tidy.apply(yard.place, RETIRE)
    assert [number for number in "12345" if yard.whole(number)] == ["1", "5"]
    objects = [path for path in (yard.place.dvc / "remote" / "files").rglob("*") if path.is_file()]
    assert len(objects) == 2 * 3, "two bundles and the shared data, a file and a manifest each"
    assert not [*(yard.place.store / "aside").glob("*"), *(yard.place.bentos / "aside").glob("*")]


def test_old_requests_go_and_younger_ones_stay(yard: Yard) -> None:
    yard.place.serving.mkdir()
    with closing(sqlite3.connect(yard.place.serving / "journal.db")) as base, base:
        for table in ("requests", "feedback", "preferences"):
            base.execute(f"CREATE TABLE {table} (time REAL)")
            base.executemany(f"INSERT INTO {table} VALUES (?)", [(time.time() - 7200,), (time.time(),)])
    tidy.apply(yard.place, Policy(seconds=3600.0))
    with closing(sqlite3.connect(yard.place.serving / "journal.db")) as base:
        for table in ("requests", "feedback", "preferences"):
            assert base.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,), table
        base.execute("DROP TABLE preferences")
    tidy.apply(yard.place, Policy(seconds=3600.0))  # a journal of before there were any


def test_pages_brought_for_old_versions_go_and_the_page_of_the_last_run_stays(yard: Yard) -> None:
    page = yard.place.reports / "toy" / "v2" / "report.html"
    page.parent.mkdir(parents=True)
    for path in (page, yard.place.reports / "toy" / "report.html", yard.place.reports / "toy" / "vae.png"):
        path.write_text("page")
    tidy.apply(yard.place, ALL)
    assert sorted(path.name for path in (yard.place.reports / "toy").iterdir()) == ["report.html", "vae.png"]


def test_of_records_the_newest_of_each_recipe_stay(yard: Yard) -> None:
    yard.place.records.mkdir()
    for day in range(4):
        for recipe in ("toy", "fashion-tiny"):
            path = yard.place.records / f"2026010{day}T000000.000000-{recipe}-77.json"
            path.write_text("{}")
            os.utime(path, (day, day))
    tidy.apply(yard.place, Policy(keep=2, seconds=0.0))
    left = sorted(path.name[:8] + path.name[23:-8] for path in yard.place.records.iterdir())
    assert left == ["20260102fashion-tiny", "20260102toy", "20260103fashion-tiny", "20260103toy"]


@pytest.mark.slow
def test_files_of_mlflow_go_but_for_those_of_versions_and_of_the_newest_runs(yard: Yard) -> None:
    from components.mlflow_database import make_whole

    make_whole(f"sqlite:///{yard.place.root / 'mlflow.db'}")
    names = ["run1", "spare", "on", "run5", "newest"]
    models = {number: yard.place.runs / "toy" / "models" / f"m-{number}" / "artifacts" for number in "45"}
    folders = {name: yard.place.runs / "toy" / name / "artifacts" for name in names}
    for folder in (*folders.values(), *models.values()):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    with closing(sqlite3.connect(yard.place.root / "mlflow.db")) as base, base:
        for number, folder in models.items():
            row = ("toy", int(number), folder.as_uri())
            base.execute("INSERT INTO model_versions (name, version, source) VALUES (?, ?, ?)", row)
        for start, name in enumerate(names):
            row = (name, "RUNNING" if name == "on" else "FINISHED", start)
            base.execute("INSERT INTO runs (run_uuid, status, start_time, experiment_id) VALUES (?, ?, ?, 0)", row)
    tidy.apply(yard.place, RETIRE)
    assert {name for name in names if folders[name].is_dir()} == {"run1", "on", "run5", "newest"}
    assert [number for number in models if models[number].is_dir()] == ["5"]


@pytest.mark.slow
def test_runs_of_prefect_go_but_for_scheduled_open_young_and_newest_ones(yard: Yard) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(yard.place.prefect)}
    environment.pop("PREFECT_API_URL", None)
    upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    subprocess.run(upgrade, env=environment, check=True, capture_output=True)
    old, now = "2020-01-01 00:00:00.000000", time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime())
    rows = [
        ("old", "COMPLETED", old), ("crashed", "CRASHED", old), ("scheduled", "SCHEDULED", old), ("on", "RUNNING", old),
        ("marked", "CANCELLED", old), ("young", "COMPLETED", now),
    ]  # fmt: skip
    with closing(sqlite3.connect(yard.place.prefect / "prefect.db")) as base, base:
        base.execute("INSERT INTO flow (id, name) VALUES ('f', 'train')")
        for run, state, ended in rows:
            base.execute(
                "INSERT INTO flow_run (id, name, flow_id, state_type, start_time, end_time) "
                "VALUES (?, 'r', 'f', ?, ?, ?)",
                (run, state, ended, ended),
            )
            base.execute(
                "INSERT INTO task_run (id, name, task_key, dynamic_key, flow_run_id) VALUES (?, 't', 'k', '0', ?)",
                (f"task of {run}", run),
            )
            base.execute(
                "INSERT INTO log (name, level, flow_run_id, message, timestamp) VALUES ('l', 1, ?, 'm', ?)",
                (run, ended),
            )
    yard.place.locks.mkdir(exist_ok=True)
    (yard.place.locks / "toy.flows").write_text("marked\n")
    items = tidy.apply(yard.place, Policy(keep=1, seconds=86400.0))
    assert gone(items, "Prefect") == {"old", "crashed"}
    with closing(sqlite3.connect(yard.place.prefect / "prefect.db")) as base:
        left = {row[0] for row in base.execute("SELECT id FROM flow_run")}
        assert left == {"scheduled", "on", "marked", "young"}
        assert {row[0] for row in base.execute("SELECT id FROM task_run")} == {f"task of {run}" for run in left}
        assert {row[0] for row in base.execute("SELECT flow_run_id FROM log")} == left


@pytest.mark.slow
def test_of_dvcs_cache_goes_only_what_no_pointer_names_and_the_remote_holds(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".dvc").mkdir(parents=True)
    remote = "['remote \"r\"']"
    (project / ".dvc" / "config").write_text(
        f"[core]\n    remote = r\n    no_scm = true\n{remote}\n    url = {tmp_path / 'remote'}\n"
    )
    dvc = [sys.executable, "-m", "dvc"]

    def add(words: str, *, push: bool) -> str:
        (project / "data").mkdir(exist_ok=True)
        (project / "data" / "file").write_text(words)
        for command in (["add", "data"], *([["push"]] if push else [])):
            subprocess.run([*dvc, *command], cwd=project, check=True, capture_output=True)
        return manifest.pointer_md5(project / "data.dvc")

    pushed, unsaved, now = add("old", push=True), add("saved nowhere", push=False), add("new", push=True)
    found = versioning.unused_cache(project, remove=True)
    cache = project / ".dvc" / "cache"
    assert pushed in found and len(found) == 2
    held = [(cache / manifest.place_of(name)).is_file() for name in (pushed, unsaved, now)]
    assert held == [False, True, True]


def test_ages_are_read_and_nonsense_is_refused() -> None:
    assert (tidy.age("30d"), tidy.age("12h"), tidy.age("0s")) == (30 * 86400.0, 12 * 3600.0, 0.0)
    with pytest.raises(AtelierError, match="no age"):
        tidy.age("soon")


def test_a_run_that_began_lately_makes_its_model_known(yard: Yard) -> None:
    mine = yard.put("shards", "of a recipe that lies elsewhere")
    yard.stage("far", "preprocess-3", mine)
    runs.begin(yard.place, model="far", recipe="/elsewhere/far.yaml", why="by hand")
    tidy.apply(yard.place, Policy(keep=1, seconds=3600.0))
    assert yard.store.holds(mine)
