"""`atelier data add` in real git and DVC repositories: looked at, let in whole, in one commit of the pointer alone."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from dvc.repo import Repo

from components import changes, commits, data_card, exclusions, manifest, versioning
from components.errors import AtelierError, DataRejected
from flows import data_adding, events
from tests.flows.moving import Project, made, picture

FRESH = {"a": 100, "b": 101}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return made(tmp_path_factory.mktemp("begun") / "project")


@pytest.fixture
def project(begun: Project, tmp_path: Path) -> Project:
    shutil.copytree(begun.root, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def add(project: Project, *files: Path, to: str = "train/odd", **options: object) -> dict:
    return data_adding.add(project.place, project.recipe, files, to=to, say=lambda words: None, **options)


def test_new_files_join_in_one_commit_of_the_pointer_alone(project: Project) -> None:
    (project.root / "staged.txt").write_text("mine")
    project.git("add", "staged.txt")
    before = project.git("rev-parse", "HEAD")
    told = add(project, *project.offer(**FRESH))
    assert told["added"] == ["train/odd/a.png", "train/odd/b.png"]
    assert project.git("rev-parse", "HEAD~1") == before and project.git("rev-parse", "HEAD") == told["commit"]
    assert project.git("show", "--name-only", "--format=", "HEAD") == "data.dvc"
    assert project.git("status", "--porcelain") == "A  staged.txt"
    assert {"train/odd/a.png", "train/odd/b.png"} <= project.files()
    assert (project.root / "data/dots/train/odd/a.png").read_bytes() == picture(100)


def test_what_the_pointer_says_is_what_dvc_would_say(project: Project) -> None:
    add(project, *project.offer(**FRESH))
    ours = project.pointer
    with Repo(str(project.root)) as repo:
        assert repo.status() == {}
        repo.add(str(project.root / "data"))
    assert project.pointer == ours


def test_the_message_is_the_difference_of_the_data_cards(project: Project) -> None:
    add(project, *project.offer(**FRESH))
    body = project.git("log", "-1", "--format=%B")
    assert body.startswith("data: dots: 2 files more, 2 rows more")
    lines = " ".join(body.split())
    assert all(
        words in lines for words in ("rows 60 -> 62", "train 48 -> 50", "held_out 12 -> 12", "class odd 30 -> 32")
    )
    change = data_card.told(body)
    assert change is not None and change.before and change.after
    assert (change.before.rows, change.after.rows, change.after.duplicates) == (60, 62, 0)
    size = sum(path.stat().st_size for path in (project.root / "data/dots").rglob("*.png"))
    assert change.after.bytes == size and change.new == versioning.version_of(project.root, "data/dots")


@pytest.mark.slow
def test_every_model_that_takes_from_the_source_is_told(project: Project) -> None:
    other = project.recipe.with_name("other.yaml")
    other.write_text(project.recipe.read_text().replace("model: dots", "model: other"))
    elsewhere = project.recipe.with_name("elsewhere.yaml")
    elsewhere.write_text(
        project.recipe.read_text().replace("data/dots", "data/none").replace("model: dots", "model: no")
    )
    add(project, *project.offer(**FRESH))
    told = events.since(project.place)
    assert [(event.kind, event.model) for event in told] == [("data.changed", "dots"), ("data.changed", "other")]


def test_a_file_that_is_there_byte_for_byte_is_no_change(project: Project) -> None:
    before = project.git("rev-parse", "HEAD")
    told = add(project, project.write("p01.png", picture(1)))
    assert told["same"] == ["train/odd/p01.png"] and told["difference"] is None
    assert project.git("rev-parse", "HEAD") == before and not events.since(project.place)


def test_a_name_that_is_there_with_other_bytes_is_refused(project: Project) -> None:
    with pytest.raises(AtelierError, match=r"'train/odd/p01.png' is in 'data/dots' already, with other bytes"):
        add(project, project.write("p01.png", picture(500)))


def refused(project: Project, *files: Path, match: str, **options: object) -> Path:
    """The quarantine of a call that must change nothing."""
    before, pointer, there = project.git("rev-parse", "HEAD"), project.pointer, project.files()
    with pytest.raises(DataRejected, match=match):
        add(project, *files, **options)
    assert (project.git("rev-parse", "HEAD"), project.pointer, project.files()) == (before, pointer, there)
    assert not events.since(project.place)
    (quarantine,) = (project.place.incoming / "quarantine").iterdir()
    return quarantine


def test_one_bad_file_keeps_all_of_them_out_and_is_kept_with_its_reasons(project: Project) -> None:
    bad = project.write("bad.png", b"no picture")
    quarantine = refused(
        project, *project.offer(**FRESH), bad, match=r"1 of 3 files .*bad.png: does not decode.*--partial"
    )
    told = json.loads((quarantine / "reasons.json").read_text())
    assert list(told["rejected"]) == ["train/odd/bad.png"]
    assert (quarantine / "files/train/odd/bad.png").read_bytes() == b"no picture"


def test_with_partial_the_others_join(project: Project) -> None:
    bad = project.write("bad.png", b"no picture")
    told = add(project, *project.offer(**FRESH), bad, partial=True)
    assert told["added"] == ["train/odd/a.png", "train/odd/b.png"] and list(told["rejected"]) == ["train/odd/bad.png"]
    assert "train/odd/bad.png" not in project.files() and told["commit"]


@pytest.mark.parametrize("name", ["zz.png", "a.png"])  # after and before the other in the order of names
def test_the_same_picture_again_is_rejected_whatever_it_is_called(project: Project, name: str) -> None:
    refused(
        project, project.write(name, picture(3)), match=rf"{name}: is the same as train/odd/p03.png, which is there"
    )


def test_a_training_picture_that_is_held_out_is_rejected_by_its_name(project: Project) -> None:
    refused(project, project.write("leak.png", picture(4)), match=r"leak.png: is the same as test/even/p04.png")


@pytest.mark.slow
def test_two_new_files_of_one_picture_are_one_too_many(project: Project) -> None:
    refused(project, *project.offer(x=200, y=200), match=r"1 of 2 files .*y.png: is the same picture as an earlier row")


@pytest.mark.slow
def test_what_would_have_every_run_refuse_the_data_is_refused(project: Project) -> None:
    with pytest.raises(DataRejected, match=r"cannot join 'data/dots'.*a class has no rows|cannot join.*labels are out"):
        add(project, *project.offer(c=300), to="train/third")
    assert project.git("status", "--porcelain") == ""


def test_a_folder_keeps_its_places(project: Project) -> None:
    for number, name in enumerate(("train/odd/n1.png", "test/even/n2.png", ".hidden/x.png")):
        project.write(f"batch/{name}", picture(400 + number))
    told = add(project, project.root.parent / "new/batch", to="")
    assert told["added"] == ["test/even/n2.png", "train/odd/n1.png"]


def test_without_a_commit_the_pointer_is_left_to_the_person(project: Project) -> None:
    before = project.git("rev-parse", "HEAD")
    told = add(project, *project.offer(**FRESH), commit=False)
    assert told["commit"] is None and project.git("rev-parse", "HEAD") == before
    assert project.git("status", "--porcelain") == "M data.dvc"
    assert "train/odd/a.png" in project.files()
    with pytest.raises(AtelierError, match=r"data.dvc differs from the last commit"):
        add(project, *project.offer(c=102))


@pytest.mark.slow
def test_it_needs_the_manifest_alone_not_the_data_beside_it(project: Project) -> None:
    (project.root / "data/beside").mkdir()
    (project.root / "data/beside/x.txt").write_text("x")
    project.dvc_add()
    shutil.rmtree(project.root / "data")
    shutil.rmtree(project.root / ".dvc/cache")
    add(project, *project.offer(**FRESH))
    assert not (project.root / "data/beside").exists()
    versioning.pull(project.root, "data")
    assert (project.root / "data/beside/x.txt").read_text() == "x"


@pytest.mark.slow
def test_a_row_is_traced_to_the_file_that_holds_it(project: Project) -> None:
    shutil.rmtree(project.root / "data/dots")
    (project.root / "data/dots").mkdir(parents=True)
    table(project.root / "data/dots/first.parquet", range(60))
    project.dvc_add()
    good, bad = (project.write(f"{name}.parquet", b"") for name in ("good", "bad"))
    table(good, range(100, 110))
    table(bad, [*range(110, 119), 5])
    told = add(project, good, bad, to="", partial=True)
    assert told["added"] == ["good.parquet"]
    (reasons,) = told["rejected"].values()
    assert list(told["rejected"]) == ["bad.parquet"] and "n5-bad is the same as n5-first, which is there" in reasons[0]
    change = data_card.told(project.git("log", "-1", "--format=%B"))
    assert change and change.before and change.after and (change.before.rows, change.after.rows) == (60, 70)


def table(path: Path, numbers: Iterable[int]) -> None:
    rows = [
        {"id": f"n{n}-{path.stem}", "image": picture(n), "split": "test" if n % 5 == 4 else "train"} for n in numbers
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.slow
def test_a_block_of_a_text_is_traced_to_its_file(project: Project) -> None:
    words = [f"word{number}" for number in range(2000)]
    (project.root / "data/plays").mkdir()
    for number in range(4):
        text = "\n\n".join(" ".join(words[(i * 37 + number * 501) % 1990 :][:9]) for i in range(120))
        (project.root / f"data/plays/p{number}.txt").write_text(text)
    project.dvc_add()
    recipe = yaml.safe_load(project.recipe.read_text()) | {"modality": "text", "prepare": {}}
    recipe |= {"rank_by": "bits_per_byte", "candidates": {"lstm": {"family": "lstm", "train": {"steps": 2}}}}
    recipe["data"] = {"source": "data/plays", "held_out": {"share": 0.2, "by": "block"}}
    project.recipe.write_text(yaml.safe_dump(recipe))
    private = project.write("private.txt", b"write to ana.smith@example.org about the play of the evening\n")
    fine = project.write("fine.txt", "\n\n".join(" ".join(words[i * 13 :][:8]) for i in range(40)).encode())
    told = add(project, private, fine, to="", partial=True)
    assert told["added"] == ["fine.txt"] and "holds 1 e-mail" in told["rejected"]["private.txt"][0]


def test_what_is_excluded_does_not_come_back_under_another_name(project: Project) -> None:
    digest = hashlib.sha256(picture(700)).hexdigest()
    path = project.root / exclusions.file_of("data/dots")
    exclusions.write(path, [exclusions.Exclusion(source="data/dots", digest=digest, why="asked for by Ana")])
    project.dvc_add()
    refused(project, project.write("back.png", picture(700)), match=r"back.png: is excluded: asked for by Ana")


def started(project: Project, *files: Path) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("atelier")), "data", "add", "dots", "--to", "train/odd"]
    return subprocess.Popen(
        [*command, *map(str, files)], cwd=project.root, env=project.environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_second_one_waits_and_both_join(project: Project) -> None:
    both = [started(project, file) for file in (*project.offer(a=100), project.write("other/b.png", picture(101)))]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert sum("another change of the data is on" in told for _, told in answers) == 1
    assert {"train/odd/a.png", "train/odd/b.png"} <= project.files()
    assert len(project.git("log", "--format=%H").split()) == 3 and project.git("status", "--porcelain") == ""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("times", [pytest.param(2, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.soak)])
def test_killed_at_any_moment_the_data_are_as_they_were_or_as_they_will_be(
    begun: Project, tmp_path: Path, times: int
) -> None:
    chance, fates, took = random.Random(8), Counter[str](), 0.0
    for number in range(times):
        shutil.copytree(begun.root, tmp_path / f"{number}/project", symlinks=True)
        project = Project(tmp_path / f"{number}/project")
        old, files = project.pointer, project.offer(**FRESH)
        process, begin = started(project, *files), time.monotonic()
        watched = number % 2 == 0  # killed as the pointer changes; the others by lot before it
        until = begin + (60 if watched else chance.uniform(0.1, 0.9) * took)
        while time.monotonic() < until and process.poll() is None and not (watched and project.pointer != old):
            time.sleep(0.001)
        took = time.monotonic() - begin if watched else took
        time.sleep(chance.uniform(0, 0.03))
        with suppress(ProcessLookupError):  # it has come to its end already
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        (project.root / ".git/index.lock").unlink(missing_ok=True)  # what git asks a person to do
        fates["new" if project.pointer != old else "old"] += 1
        versioning.pull(project.root, "data/dots")  # as a run does: whole, old or new
        joined = {"train/odd/a.png", "train/odd/b.png"} & project.files()
        assert len(joined) == (2 if project.pointer != old else 0)
        add(project, *files)
        assert project.git("status", "--porcelain") == "" and len(project.git("log", "--format=%H").split()) == 2
        assert {"train/odd/a.png", "train/odd/b.png"} <= project.files()
        assert {event.kind for event in events.since(project.place)} == {"data.changed"}
    assert set(fates) == {"old", "new"}


def test_a_run_that_is_on_keeps_the_data_that_it_has_read(project: Project) -> None:
    version, there = versioning.version_of(project.root, "data/dots"), manifest.entries_of(project.root / "data/dots")
    add(project, *project.offer(**FRESH))
    kept = versioning.Archive(project.place.dvc).keep_source(project.root, "data/dots", version=version)
    assert kept.dvc == version
    versioning.Archive(project.place.dvc).bring(kept, project.root.parent / "back")
    assert manifest.entries_of(project.root.parent / "back") == there
    with pytest.raises(AtelierError, match=r"changed while the run was on it"):
        versioning.Archive(project.place.dvc).keep_source(project.root, "data/dots", version=f"md5:{'0' * 32}.dir")


class TestPlaces:
    def test_no_clone(self, project: Project) -> None:
        shutil.rmtree(project.root / ".git")
        with pytest.raises(AtelierError, match=r"is no git clone.*--no-commit"):
            add(project, *project.offer(**FRESH))
        assert add(project, *project.offer(**FRESH), commit=False)["added"]

    def test_a_detached_head(self, project: Project) -> None:
        project.git("checkout", "-q", "--detach")
        with pytest.raises(AtelierError, match=r"detached HEAD.*git switch -c NAME"):
            add(project, *project.offer(**FRESH))

    def test_a_merge_that_is_on(self, project: Project) -> None:
        (project.root / ".git/MERGE_HEAD").write_text(project.git("rev-parse", "HEAD"))
        with pytest.raises(AtelierError, match=r"a merge is going on"):
            add(project, *project.offer(**FRESH))

    def test_work_in_the_source_that_is_saved_nowhere(self, project: Project) -> None:
        path = project.root / "data/dots/train/odd/mine.png"
        path.write_bytes(picture(9999))
        with pytest.raises(AtelierError, match=r"differs from what its .dvc pointer names.*mine.png"):
            add(project, *project.offer(**FRESH))
        path.unlink()
        with pytest.raises(AtelierError, match=r"lies in the source already"):
            add(project, project.root / "data/dots/train/odd/p01.png")

    def test_a_hook_that_refuses_the_commit(self, project: Project) -> None:
        hook = project.root / ".git/hooks/pre-commit"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\necho 'not on a Saturday' >&2\nexit 1\n")
        hook.chmod(0o755)
        before = project.pointer
        with pytest.raises(AtelierError, match=r"not on a Saturday. Nothing was changed"):
            add(project, *project.offer(**FRESH))
        assert project.pointer == before and "train/odd/a.png" not in project.files()
        assert changes.cut_off(project.root) is None

    @pytest.mark.parametrize(
        ("source", "match"),
        [("https://example.org/d", "lies elsewhere, at https://example.org/d"), ("other/d", "no .dvc pointer names")],
    )
    def test_a_source_that_nothing_can_join(self, project: Project, source: str, match: str) -> None:
        project.recipe.write_text(project.recipe.read_text().replace("data/dots", source))
        with pytest.raises(AtelierError, match=match):
            add(project, *project.offer(**FRESH))

    @pytest.mark.parametrize(("to", "match"), [("../x", "no folder below"), ("/x", "no folder"), (".x", "no folder")])
    def test_a_place_outside_the_source(self, project: Project, to: str, match: str) -> None:
        with pytest.raises(AtelierError, match=match):
            add(project, *project.offer(**FRESH), to=to)


class TestCutOff:
    """A change is cut off between its steps; the next one goes on as if it had not been, or had been whole."""

    def cut(self, project: Project, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
        class Killed(BaseException):
            pass

        def die(*_: object, **__: object) -> None:
            raise Killed

        owner, name = at.split(".")
        files = project.offer(**FRESH)
        with monkeypatch.context() as patch:
            patch.setattr({"changes": changes, "commits": commits, "events": events}[owner], name, die)
            with pytest.raises(Killed):
                add(project, *files)

    def test_before_the_pointer_nothing_has_been(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        pointer, there = project.pointer, project.files()
        self.cut(project, monkeypatch, "changes.write_atomically")
        assert (project.pointer, project.files()) == (pointer, there)
        assert changes.cut_off(project.root) is None
        assert add(project, *project.offer(**FRESH))["commit"]

    def test_after_another_tool_was_cut_off_that_tells_nobody_the_next_change_goes_on(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "made").mkdir()
        (tmp_path / "made/samples.bin").write_bytes(b"made")
        with monkeypatch.context() as patch:
            patch.setattr(changes, "_place", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                changes.put(project.root, "data/synthetic-dots", tmp_path / "made", say=lambda words: None)
        assert changes.cut_off(project.root) is not None
        project.git("commit", "--quiet", "--all", "--message=its pointer")
        assert add(project, *project.offer(**FRESH))["commit"]

    @pytest.mark.parametrize("at", ["commits.commit", "changes._place", "events.tell"])
    def test_after_it_the_next_change_finishes(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, at: str
    ) -> None:
        self.cut(project, monkeypatch, at)
        assert changes.cut_off(project.root) is not None
        told = add(project, *project.offer(**FRESH))
        assert told["same"] == ["train/odd/a.png", "train/odd/b.png"]  # they are in, so that nothing is left to add
        assert project.git("status", "--porcelain") == "" and changes.cut_off(project.root) is None
        assert project.git("log", "-1", "--format=%s").startswith("data: dots: 2 files more")
        assert len(project.git("log", "--format=%H").split()) == 2
        assert [event.kind for event in events.since(project.place)] == ["data.changed"]

    def test_what_a_person_committed_meanwhile_is_not_committed_again(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.cut(project, monkeypatch, "commits.commit")
        project.git("commit", "-qam", "by hand")
        assert add(project, *project.offer(**FRESH))["difference"] is None
        assert project.git("log", "-1", "--format=%s") == "by hand"
        assert [event.kind for event in events.since(project.place)] == ["data.changed"]

    def test_what_a_person_took_back_meanwhile_has_not_been(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.cut(project, monkeypatch, "commits.commit")
        project.git("checkout", "-q", "data.dvc")
        assert changes.cut_off(project.root) is None
        assert add(project, *project.offer(**FRESH))["commit"]
        assert [event.kind for event in events.since(project.place)] == ["data.changed"]

    def test_a_run_in_between_takes_the_new_data_whole(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut(project, monkeypatch, "changes._place")
        versioning.pull(project.root, "data/dots")
        assert {"train/odd/a.png", "train/odd/b.png"} <= project.files()
        assert manifest.entries_of(project.root / "data/dots") == versioning.entries(project.root, "data/dots")
