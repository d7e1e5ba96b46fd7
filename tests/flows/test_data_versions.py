"""`atelier data status`, `diff`, `history`, `pull` and `push` in real git and DVC repositories."""

import hashlib
import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from components import exclusions, manifest, versioning
from components.errors import AtelierError
from components.ledger import Ledger, Version
from flows import data_adding, data_versions
from tests.flows.moving import Project, made, passed, picture


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project to which two pictures were added after the first commit."""
    project = made(tmp_path_factory.mktemp("begun") / "project")
    files = project.offer(a=100, b=101)
    data_adding.add(project.place, project.recipe, files, to="train/odd", say=lambda words: None)
    return project


@pytest.fixture
def project(begun: Project, tmp_path: Path) -> Project:
    shutil.copytree(begun.root, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def mine(project: Project) -> Path:
    """A remote of the person's own, outside of the repository."""
    remote = project.root.parent / "mine"
    config = project.root / ".dvc/config"
    config.write_text(config.read_text().replace("remote = starter", "remote = mine"))
    config.write_text(config.read_text() + f"['remote \"mine\"']\n    url = {remote}\n")
    return remote


class TestStatus:
    def test_tells_what_the_remote_lacks_and_that_it_is_read_only(self, project: Project) -> None:
        told = data_versions.status(project.place)
        assert told["clean"] and not told["cut_off"] and told["commit"] == project.git("rev-parse", "HEAD")
        (source,) = told["sources"]
        assert (source["source"], source["files"], source["missing"]) == ("data/dots", 62, [])
        assert told["remote"]["read_only"] and told["remote"]["lacks"] == 3  # two pictures and the manifest

    def test_names_what_differs_from_the_pointer(self, project: Project) -> None:
        folder = project.root / "data/dots/train/odd"
        (folder / "mine.png").write_bytes(picture(900))
        (folder / "p01.png").unlink()
        (folder / "p03.png").unlink()
        (folder / "p03.png").write_bytes(picture(901))
        (source,) = data_versions.status(project.place)["sources"]
        assert (source["added"], source["changed"]) == (["dots/train/odd/mine.png"], ["dots/train/odd/p03.png"])
        assert source["missing"] == ["dots/train/odd/p01.png"]
        assert not data_versions.status(project.place)["clean"]

    def test_a_source_that_was_never_brought_is_no_difference(self, project: Project) -> None:
        shutil.rmtree(project.root / "data")
        told = data_versions.status(project.place)
        assert told["clean"] and told["sources"][0]["here"] is False

    def test_counts_what_is_excluded(self, project: Project) -> None:
        one = exclusions.Exclusion(source="data/dots", digest="0" * 64, why="asked for")
        exclusions.write(project.root / exclusions.file_of("data/dots"), [one])
        assert data_versions.status(project.place)["excluded"] == {"data/dots": 1}


class TestDiff:
    def test_of_two_commits_is_told_from_their_manifests_with_the_numbers_of_the_commit(self, project: Project) -> None:
        shutil.rmtree(project.root / "data")
        (source,) = data_versions.diff(project.place, "HEAD~1", "HEAD")["sources"]
        assert source["added"] == ["train/odd/a.png", "train/odd/b.png"]
        assert not source["removed"] and not source["changed"]
        assert [numbers["rows"] for numbers in source["numbers"]] == [60, 62]
        assert not (project.root / "data").exists()

    def test_of_the_last_commit_and_the_pointer_as_it_is(self, project: Project) -> None:
        assert data_versions.diff(project.place, None, None)["sources"] == []
        files = project.offer(c=102)
        data_adding.add(project.place, project.recipe, files, to="train/odd", commit=False, say=lambda words: None)
        (source,) = data_versions.diff(project.place, None, None)["sources"]
        assert source["added"] == ["train/odd/c.png"] and source["numbers"][1] is None

    def test_a_name_with_brackets_is_shown_as_it_is(self, project: Project) -> None:
        (file,) = project.offer(c=102)
        file = file.rename(file.with_name("[old] c.png"))
        data_adding.add(project.place, project.recipe, [file], to="train/odd", say=lambda words: None)
        shown = Console(file=StringIO(), width=200)
        shown.print(data_versions.shown_diff(data_versions.diff(project.place, "HEAD~1", "HEAD")))
        assert "train/odd/[old] c.png" in shown.file.getvalue()

    def test_backwards_what_came_is_what_goes(self, project: Project) -> None:
        (source,) = data_versions.diff(project.place, "HEAD", "HEAD~1")["sources"]
        assert source["removed"] == ["train/odd/a.png", "train/odd/b.png"]
        assert [numbers["rows"] for numbers in source["numbers"]] == [62, 60]

    @pytest.mark.parametrize("revision", ["no-such", "--output=x", "HEAD~99"])
    def test_what_names_no_commit_is_told(self, project: Project, revision: str) -> None:
        with pytest.raises(AtelierError, match=r"names no commit"):
            data_versions.diff(project.place, revision, None)


def registered(project: Project, version: str, commit: str | None) -> None:
    """A version in the ledger that was trained on the data of a commit."""
    verdict = passed(version)
    ledger = Ledger(project.place.ledger_url)
    project.place.root.mkdir(exist_ok=True)
    digest = ledger.record(verdict, run="r")
    ledger.enter(
        Version(
            model="dots", version=version, modality="image", family="vae", bundle=verdict.bundle.digest,
            verdict=digest, data="md5:x.dir", commit=commit, recipe="sha256:r", run="r", pointers=(),
            created="2026-01-01T00:00:00Z",
        )
    )  # fmt: skip


class TestHistory:
    def test_tells_each_change_and_the_versions_that_were_trained_on_it(self, project: Project) -> None:
        first, second = project.git("rev-parse", "HEAD~1"), project.git("rev-parse", "HEAD")
        (project.root / "code.txt").write_text("no data")
        project.git("add", "code.txt")
        project.git("commit", "-qm", "code alone")
        registered(project, "1", first)
        registered(project, "2", second)
        registered(project, "3", project.git("rev-parse", "HEAD"))
        registered(project, "4", f"{second}-dirty")
        told = data_versions.history(project.place, limit=None)["commits"]
        assert [entry["commit"] for entry in told] == [second, first]
        assert [entry["trained"] for entry in told] == [["dots@2", "dots@3"], ["dots@1"]]
        assert told[0]["change"] == "dots: 2 files more, 2 rows more" and told[1]["change"] == "60 added"
        assert [entry["commit"] for entry in data_versions.history(project.place, limit=1)["commits"]] == [second]

    def test_without_git_there_is_none(self, project: Project) -> None:
        shutil.rmtree(project.root / ".git")
        with pytest.raises(AtelierError, match=r"no git clone"):
            data_versions.history(project.place, limit=None)


class TestPullAndPush:
    def test_the_starter_remote_is_never_pushed_to(self, project: Project) -> None:
        before = sorted((project.root / "infra/starter").rglob("*"))
        with pytest.raises(AtelierError, match=r"lies in the repository itself.*dvc remote add -d mine"):
            data_versions.push(project.place, everything=False)
        assert sorted((project.root / "infra/starter").rglob("*")) == before

    def test_a_push_brings_everything_to_the_remote_of_ones_own(self, project: Project) -> None:
        mine(project)
        shutil.rmtree(project.root / "data")
        cached(project, picture(3)).unlink()  # it is in the starter remote alone now
        told = data_versions.push(project.place, everything=False)
        assert told["pushed"] == told["there"] == 63
        assert data_versions.push(project.place, everything=False)["pushed"] == 0
        assert data_versions.status(project.place)["remote"]["lacks"] == 0
        assert data_versions.push(project.place, everything=True)["pushed"] == 1  # the first commit's manifest

    def test_what_was_pushed_can_be_pulled_by_another_clone(self, project: Project) -> None:
        mine(project)
        data_versions.push(project.place, everything=False)
        shutil.rmtree(project.root / "infra/starter")
        shutil.rmtree(project.root / "data")
        shutil.rmtree(project.root / ".dvc/cache")
        told = data_versions.pull(project.place, ["dots"])
        assert len(project.files()) == 62
        assert told["pulled"] == {"data/dots": versioning.version_of(project.root, "data/dots")}

    def test_what_the_default_remote_lacks_comes_from_another(self, project: Project) -> None:
        mine(project)  # which is empty
        shutil.rmtree(project.root / "data")
        cached(project, picture(3)).unlink()
        data_versions.pull(project.place, [])
        assert len(project.files()) == 62

    def test_what_is_nowhere_is_told_and_nothing_is_pushed(self, project: Project) -> None:
        remote = mine(project)
        shutil.rmtree(project.root / "data")
        cached(project, picture(100)).unlink()  # never pushed anywhere
        with pytest.raises(AtelierError, match=r"1 objects .* neither in DVC's cache here nor in a remote"):
            data_versions.push(project.place, everything=False)
        assert not remote.exists() or not [path for path in remote.rglob("*") if path.is_file()]

    def test_without_a_remote_a_push_says_how_to_add_one(self, project: Project) -> None:
        (project.root / ".dvc/config").write_text("[core]\n    analytics = false\n")
        with pytest.raises(AtelierError, match=r"no default DVC remote"):
            data_versions.push(project.place, everything=False)
        assert data_versions.status(project.place)["remote"] is None

    def test_an_unknown_source_is_told_with_those_there_are(self, project: Project) -> None:
        with pytest.raises(AtelierError, match=r"'data/dot'.*There are: dots"):
            data_versions.pull(project.place, ["dot"])


def cached(project: Project, content: bytes) -> Path:
    return project.root / ".dvc/cache" / manifest.place_of(hashlib.md5(content).hexdigest())


@pytest.mark.slow
def test_each_command_prints_json_alone_and_a_page_for_a_person(project: Project) -> None:
    assert json.loads(project.atelier("data", "status", "--json").stdout)["clean"]
    assert json.loads(project.atelier("data", "diff", "HEAD~1", "--json").stdout)["sources"]
    assert json.loads(project.atelier("data", "history", "--json").stdout)["commits"]
    assert json.loads(project.atelier("data", "pull", "--json").stdout)["pulled"]
    assert "remote add" in json.loads(project.atelier("data", "push", "--json", code=2).stdout)["error"]
    assert "62" in project.atelier("data", "status").stdout
    assert "train/odd/a.png" in project.atelier("data", "diff", "HEAD~1").stdout
    assert "2 rows more" in project.atelier("data", "history").stdout
