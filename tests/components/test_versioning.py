"""The door to DVC against real DVC repositories in temporary folders."""

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from components import manifest, versioning
from components.errors import AtelierError
from components.records import Artifact, Pointer
from components.store import digest_of
from components.versioning import Archive

ROOT = Path(__file__).resolve().parents[2]
FILES = {"a/one.bin": b"one", "a/sub/two.bin": b"two", "b/three.bin": b"three", "b/name é.bin": b"four"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose data/ DVC tracks and whose remote holds it; neither a git clone nor in DVC's cache."""
    project = tmp_path / "project"
    for name, content in FILES.items():
        (project / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "data" / name).write_bytes(content)
    Repo.init(str(project), no_scm=True).close()
    (project / ".dvc/config").write_text("[core]\n remote = r\n no_scm = true\n['remote \"r\"']\n url = ../../remote\n")
    dvc_add(project)
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc/cache")
    return project


def dvc_add(project: Path, target: str = "data") -> str:
    """What the user does; the name that DVC gives the target."""
    with chdir(project), Repo(str(project)) as repo:
        (stage,) = repo.add(target)
        repo.push()
        return str(stage.outs[0].hash_info.value)


def contents(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


class TestVersionOf:
    def test_is_what_dvc_would_write_for_the_source_alone(self, project: Path, tmp_path: Path) -> None:
        alone = tmp_path / "alone"
        for name, content in FILES.items():
            (alone / name).parent.mkdir(parents=True, exist_ok=True)
            (alone / name).write_bytes(content)
        Repo.init(str(alone), no_scm=True).close()
        with chdir(alone), Repo(str(alone)) as repo:
            names = {s.outs[0].def_path: s.outs[0].hash_info.value for s in repo.add(["a", "b"])}
        assert versioning.version_of(project, "data/a") == f"md5:{names['a']}"
        assert versioning.version_of(project, "data/b") == f"md5:{names['b']}"

    def test_of_the_whole_output_is_the_pointers_own(self, project: Path) -> None:
        assert versioning.version_of(project, "data") == f"md5:{manifest.pointer_md5(project / 'data.dvc')}"

    def test_of_one_file(self, project: Path) -> None:
        assert versioning.version_of(project, "data/a/one.bin") == "md5:f97c5d29941bfb1b2fdab0874906ab82"

    def test_changes_with_the_source_and_with_nothing_beside_it(self, project: Path) -> None:
        before = {name: versioning.version_of(project, f"data/{name}") for name in "ab"}
        versioning.pull(project, "data")
        (project / "data/b/five.bin").write_bytes(b"five")
        dvc_add(project)
        assert versioning.version_of(project, "data/a") == before["a"]
        assert versioning.version_of(project, "data/b") != before["b"]

    def test_of_an_untracked_source_is_of_its_content(self, project: Path) -> None:
        (project / "data/mine").mkdir(parents=True)
        (project / "data/mine/x").write_bytes(b"x")
        assert versioning.version_of(project, "data/mine") == digest_of(project / "data/mine")
        assert versioning.version_of(project, "data/mine/x").startswith("sha256:2d711642b726b044")

    def test_a_source_with_a_pointer_of_its_own(self, project: Path) -> None:
        (project / "own").mkdir()
        (project / "own/x").write_bytes(b"x")
        name = dvc_add(project, "own")
        assert versioning.version_of(project, "own") == f"md5:{name}"

    def test_an_unknown_source_names_the_nearest_in_the_manifest(self, project: Path) -> None:
        assert not (project / "data").exists()
        with pytest.raises(AtelierError, match=r"'data/aa' does not exist .*did you mean 'a'\? known: a, b"):
            versioning.version_of(project, "data/aa")

    @pytest.mark.parametrize("source", ["../outside", "data/../../x", "/etc", "s3://bucket/x", ".", "", "link/x"])
    def test_a_source_outside_the_project_is_refused(self, project: Path, source: str) -> None:
        (project / "link").symlink_to(project.parent)
        for question in (versioning.version_of, versioning.pull):
            with pytest.raises(AtelierError, match="not a path inside the project"):
                question(project, source)

    def test_a_pointer_that_is_not_of_dvc_3_is_named(self, project: Path) -> None:
        (project / "data.dvc").write_text("outs:\n- md5: 0123.dir\n  path: data\n")
        with pytest.raises(AtelierError, match=r"data\.dvc does not name the md5"):
            versioning.version_of(project, "data/a")

    def test_a_damaged_manifest_is_never_believed(self, project: Path) -> None:
        versioning.pull(project, "data")
        place = project / ".dvc/cache" / manifest.place_of(manifest.pointer_md5(project / "data.dvc"))
        content = place.read_bytes()
        place.unlink()
        place.write_bytes(content.replace(b"one.bin", b"six.bin"))
        with pytest.raises(AtelierError, match="is damaged"):
            versioning.version_of(project, "data/a")

    def test_a_cached_run_never_imports_dvc(self, project: Path) -> None:
        versioning.pull(project, "data/a")
        code = (
            "import sys; from pathlib import Path; from components import versioning as v; p = Path(sys.argv[1]);"
            "v.pull(p, 'data/a'); v.version_of(p, 'data/a'); v.commit_of(p); assert 'dvc' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code, str(project)], check=True, cwd=ROOT)


class TestPull:
    def test_brings_the_subtree_and_nothing_beside_it(self, project: Path) -> None:
        versioning.pull(project, "data/a")
        assert contents(project / "data") == {name: FILES[name] for name in ("a/one.bin", "a/sub/two.bin")}

    def test_leaves_the_other_subtree_where_it_is(self, project: Path) -> None:
        versioning.pull(project, "data/a")
        versioning.pull(project, "data/b")
        assert contents(project / "data") == FILES

    def test_replaces_what_is_missing(self, project: Path) -> None:
        versioning.pull(project, "data")
        (project / "data/a/one.bin").unlink()
        versioning.pull(project, "data/a")
        assert contents(project / "data") == FILES

    def test_follows_a_changed_pointer(self, project: Path) -> None:
        versioning.pull(project, "data")
        old = (project / "data.dvc").read_text()
        (project / "data/a/one.bin").unlink()
        (project / "data/a/one.bin").write_bytes(b"changed")
        (project / "data/a/new.bin").write_bytes(b"new")
        dvc_add(project)
        (project / "data.dvc").write_text(old)
        versioning.pull(project, "data/a")
        assert contents(project / "data/a") == {"one.bin": b"one", "sub/two.bin": b"two"}

    @pytest.mark.parametrize("name", ["one.bin", "extra.bin"])
    def test_never_overwrites_work_that_is_saved_nowhere(self, project: Path, name: str) -> None:
        versioning.pull(project, "data")
        (project / "data/a" / name).unlink(missing_ok=True)
        (project / "data/a" / name).write_bytes(b"my work")
        with pytest.raises(AtelierError, match=f"no copy of {name}"):
            versioning.pull(project, "data/a")
        assert (project / "data/a" / name).read_bytes() == b"my work"

    def test_a_remote_without_the_bytes_is_named(self, project: Path) -> None:
        shutil.rmtree(project.parent / "remote/files/md5/f9")
        with pytest.raises(AtelierError, match="DVC cannot bring the data"):
            versioning.pull(project, "data/a")

    def test_a_remote_that_is_gone_is_named(self, project: Path) -> None:
        shutil.rmtree(project.parent / "remote")
        with pytest.raises(AtelierError, match="no DVC remote holds the manifest"):
            versioning.pull(project, "data/a")

    def test_a_remote_with_damaged_bytes_is_found_out(self, project: Path) -> None:
        place = project.parent / "remote" / manifest.place_of("f97c5d29941bfb1b2fdab0874906ab82")
        place.chmod(0o644)
        place.write_bytes(b"eno")
        with pytest.raises(AtelierError, match=r"damaged|cannot bring"):
            versioning.pull(project, "data/a")

    def test_waits_for_the_lock_and_then_says_so(self, project: Path) -> None:
        with Repo(str(project)) as repo, repo.lock, pytest.raises(AtelierError, match="held the lock"):
            versioning.pull(project, "data/a", wait_seconds=0)
        versioning.pull(project, "data/a", wait_seconds=0)


class TestCommitOf:
    @pytest.fixture
    def clone(self, project: Path) -> Path:
        git(project, "init", "-q")
        git(project, "add", "data.dvc")
        git(project, "-c", "user.name=n", "-c", "user.email=n@n", "commit", "-qm", "data")
        return project

    def test_is_head_and_dirty_with_another_pointer(self, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a hook of another repository
        head = versioning.commit_of(clone)
        assert head is not None
        assert len(head) == 40
        (clone / "unrelated").write_text("")
        assert versioning.commit_of(clone, "data/a") == head
        (clone / "data.dvc").write_text((clone / "data.dvc").read_text() + "\n")
        assert versioning.commit_of(clone, "data/a") == f"{head}-dirty"

    def test_is_none_without_git_or_pointer(self, project: Path, clone: Path) -> None:
        assert versioning.commit_of(clone, "other") is None
        shutil.rmtree(clone / ".git")
        assert versioning.commit_of(project) is None


def git(folder: Path, *arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, env=environment)


class TestArchive:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "store" / "bundle"
        (folder / "sub").mkdir(parents=True)
        (folder / "config.json").write_text("{}\n")
        (folder / "sub" / "model.safetensors").write_bytes(os.urandom(100_000))
        (folder / "empty").write_bytes(b"")
        return folder

    @pytest.fixture
    def kept(self, folder: Path, archive: Archive) -> Pointer:
        return archive.keep(artifact_of(folder), folder)

    @pytest.fixture
    def archive(self, tmp_path: Path) -> Archive:
        return Archive(tmp_path / "dvc")

    def test_only_the_remote_and_the_pointer_are_needed(self, tmp_path: Path, folder: Path, kept: Pointer) -> None:
        before = contents(folder)
        shutil.move(tmp_path / "dvc" / "remote", tmp_path / "remote")
        shutil.rmtree(tmp_path / "dvc")
        shutil.rmtree(tmp_path / "store")
        Archive(tmp_path / "elsewhere", url=str(tmp_path / "remote")).bring(kept, tmp_path / "back")
        assert contents(tmp_path / "back") == before
        assert digest_of(tmp_path / "back") == kept.digest

    def test_keeping_again_changes_nothing(self, tmp_path: Path, folder: Path, archive: Archive, kept: Pointer) -> None:
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "dvc/remote").rglob("*") if p.is_file()}
        assert archive.keep(artifact_of(folder), folder) == kept
        assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "dvc/remote").rglob("*") if p.is_file()}

    def test_the_bytes_are_copied_once_and_not_linked(self, tmp_path: Path, folder: Path, kept: Pointer) -> None:
        copies = [p for p in (tmp_path / "dvc").rglob("*") if p.is_file() and p.stat().st_size == 100_000]
        assert len(copies) == 1
        assert copies[0].stat().st_nlink == 1  # a change of the store's file must not reach the archive

    def test_dvc_itself_understands_the_archive(self, tmp_path: Path, folder: Path, kept: Pointer) -> None:
        pointer = tmp_path / "dvc" / "bundle" / f"{kept.digest.removeprefix('sha256:')}.dvc"
        with chdir(tmp_path / "dvc"), Repo(str(tmp_path / "dvc")) as repo:
            repo.pull(targets=[str(pointer)])
            assert f"md5:{repo.stage.load_one(str(pointer)).outs[0].hash_info.value}" == kept.dvc
        assert contents(pointer.with_suffix("")) == contents(folder)

    def test_the_remote_of_its_config_is_used(self, tmp_path: Path, folder: Path, archive: Archive) -> None:
        config = tmp_path / "dvc/.dvc/config"
        archive.keep(artifact_of(folder), folder)
        config.write_text(config.read_text().replace("../remote", str(tmp_path / "moved")))
        archive.keep(artifact_of(folder), folder)
        assert contents(tmp_path / "moved") == contents(tmp_path / "dvc/remote")

    def test_a_folder_that_is_not_the_artifact_is_refused(self, folder: Path, archive: Archive) -> None:
        artifact = artifact_of(folder)
        (folder / "config.json").write_text("{ }\n")
        with pytest.raises(AtelierError, match="bytes are gone or changed"):
            archive.keep(artifact, folder)

    def test_damaged_bytes_are_found_out_and_nothing_is_left(
        self, tmp_path: Path, archive: Archive, kept: Pointer
    ) -> None:
        (large,) = (p for p in (tmp_path / "dvc/remote").rglob("*") if p.is_file() and p.stat().st_size == 100_000)
        large.chmod(0o644)
        large.write_bytes(bytes(100_000))
        with pytest.raises(AtelierError, match="is damaged"):
            archive.bring(kept, tmp_path / "out" / "back")
        assert list((tmp_path / "out").iterdir()) == []

    @pytest.mark.parametrize("suffix", ["", ".dir"])
    def test_missing_bytes_are_named_and_nothing_is_left(
        self, tmp_path: Path, archive: Archive, kept: Pointer, suffix: str
    ) -> None:
        lost = next(p for p in (tmp_path / "dvc/remote").rglob("*") if p.is_file() and p.suffix == suffix)
        lost.unlink()
        with pytest.raises(AtelierError, match="does not hold the bundle"):
            archive.bring(kept, tmp_path / "out" / "back")
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_manifest_cannot_write_outside_its_folder(self, tmp_path: Path, archive: Archive, kept: Pointer) -> None:
        (md5,) = (entry for name, entry in parse_kept(tmp_path, kept).items() if name == "config.json")
        hostile = {"../escaped": md5}
        name = manifest.name_of(hostile)
        place = tmp_path / "dvc/remote" / manifest.place_of(name)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(manifest.content_of(hostile))
        with pytest.raises(AtelierError, match="outside its folder"):
            archive.bring(kept.model_copy(update={"dvc": f"md5:{name}"}), tmp_path / "out" / "back")
        assert not (tmp_path / "out" / "escaped").exists()

    def test_an_empty_folder_is_filled_an_equal_one_left_and_another_refused(
        self, tmp_path: Path, folder: Path, archive: Archive, kept: Pointer
    ) -> None:
        to = tmp_path / "to"
        to.mkdir()
        archive.bring(kept, to)
        archive.bring(kept, to)
        assert contents(to) == contents(folder)
        (to / "mine").write_text("mine")
        with pytest.raises(AtelierError, match="move it away first"):
            archive.bring(kept, to)
        assert (to / "mine").read_text() == "mine"

    def test_a_remote_that_cannot_be_written_is_named(self, tmp_path: Path, folder: Path) -> None:
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(AtelierError, match=r"the archive .* does not answer"):
            Archive(tmp_path / "dvc", url=str(tmp_path / "file")).keep(artifact_of(folder), folder)

    def test_the_wait_for_another_writer_is_bounded(self, tmp_path: Path, folder: Path) -> None:
        archive = Archive(tmp_path / "dvc", wait_seconds=0.2)
        archive.root.mkdir()
        with held(archive.root / "lock"), pytest.raises(AtelierError, match=r"has been writing .* for 0\.2 s"):
            archive.keep(artifact_of(folder), folder)

    def test_parallel_processes_keep_safely(self, tmp_path: Path, archive: Archive) -> None:
        for number in range(3):
            (tmp_path / f"f{number}").mkdir()
            (tmp_path / f"f{number}" / "own").write_bytes(os.urandom(50_000))
            (tmp_path / f"f{number}" / "shared").write_bytes(b"the same in all")
        code = (
            "import sys; from pathlib import Path; from components.records import Artifact\n"
            "from components.store import digest_of; from components.versioning import Archive\n"
            "f = Path(sys.argv[2]); a = Artifact(kind='k', digest=digest_of(f))\n"
            "print(Archive(Path(sys.argv[1])).keep(a, f).model_dump_json())"
        )
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(archive.root), str(tmp_path / f"f{number}")],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(3)
        ]
        for number, run in enumerate(runs):
            output, _ = run.communicate(timeout=60)
            assert run.returncode == 0
            archive.bring(Pointer.model_validate_json(output), tmp_path / "back" / str(number))
            assert contents(tmp_path / "back" / str(number)) == contents(tmp_path / f"f{number}")


def artifact_of(folder: Path) -> Artifact:
    return Artifact(kind="bundle", digest=digest_of(folder))


def parse_kept(tmp_path: Path, kept: Pointer) -> dict[str, str]:
    name = kept.dvc.removeprefix("md5:")
    return manifest.parse((tmp_path / "dvc/remote" / manifest.place_of(name)).read_bytes(), name)


class held:
    """A file lock held by someone else, as long as the block runs."""

    def __init__(self, path: Path) -> None:
        self.stream = path.open("w")

    def __enter__(self) -> None:
        fcntl.flock(self.stream, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        self.stream.close()


def test_a_source_that_is_kept_as_another_kind_has_a_pointer_of_its_own(project: Path, tmp_path: Path) -> None:
    versioning.pull(project, "data/a")
    archive, version = Archive(tmp_path / "archive"), versioning.version_of(project, "data/a")
    one, other = (archive.keep_source(project, "data/a", version=version, kind=kind) for kind in ("data", "more-a"))
    assert (other.kind, other.dvc, other.digest) == ("more-a", one.dvc, one.digest)
    archive.drop([archive.root / "data" / f"{one.digest.removeprefix('sha256:')}.dvc"])
    archive.bring(other, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(project / "data/a")
