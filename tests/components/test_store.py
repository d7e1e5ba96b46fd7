import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.errors import AtelierError
from components.records import Artifact
from components.store import Store, digest_of, write_atomically


def put(store: Store, content: bytes = b"hello", name: str = "a.txt") -> Artifact:
    with store.writing("thing") as draft:
        (draft.directory / name).write_bytes(content)
    return draft.artifact


def test_the_same_bytes_have_one_place_and_other_bytes_or_names_another(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert put(store) == put(store)
    assert len({put(store).digest, put(store, b"other").digest, put(store, name="b.txt").digest}) == 3
    assert (store.path(put(store)) / "a.txt").read_bytes() == b"hello"


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with Store(tmp_path).writing("thing") as draft:
            (draft.directory / "a.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_changed_bytes_are_seen_and_mended_by_writing_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = put(store)
    assert store.holds(artifact)
    (store.path(artifact) / "a.txt").write_text("forged")
    assert not store.holds(artifact)
    assert put(store) == artifact
    assert store.holds(artifact)


def test_a_missing_artifact_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="Run the recipe again"):
        Store(tmp_path).path(Artifact(kind="thing", digest="sha256:00"))


def test_many_writers_of_the_same_bytes_all_succeed(tmp_path: Path) -> None:
    store, found = Store(tmp_path), []
    threads = [threading.Thread(target=lambda: found.append(put(store, b"x" * 10**5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert store.holds(found[0])
    assert not list((tmp_path / "aside").iterdir())


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = put(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            put(store, b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert store.holds(kept)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_writer_killed_in_the_middle_leaves_no_artifact(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from components.store import Store\n"
        "with Store(Path(sys.argv[1])).writing('thing') as draft:\n"
        "    (draft.directory / 'a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": "."})
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "thing").exists()


def test_write_atomically_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [other.name for other in path.parent.iterdir()] == ["file"]


def test_many_threads_write_one_file_at_once(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([n]) * 65536 for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda content: [write_atomically(path, content) for _ in range(10)], contents))
    assert path.read_bytes() in contents
    assert [other.name for other in tmp_path.iterdir()] == ["file"]


def test_a_private_file_is_private_and_another_follows_the_umask(tmp_path: Path) -> None:
    write_atomically(tmp_path / "private", b"key", mode=0o600)
    write_atomically(tmp_path / "public", b"page")
    (tmp_path / "plain").touch()
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes["private"] == 0o600
    assert modes["public"] == modes["plain"]


def test_a_digest_depends_on_names_and_bytes_and_not_on_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, names in ((one, "ab"), (two, "ba")):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
    assert digest_of(one) == digest_of(two)
    (two / "a").rename(two / "c")
    assert digest_of(one) != digest_of(two)
