"""Sources named by URLs: fetched once into the store, and kept from there."""

import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import fsspec
import pyarrow as pa
import pytest

from components import ingestion
from components.errors import AtelierError
from components.recipe import Data
from components.records import Artifact
from components.sources import remote
from components.store import Store, digest_of
from components.versioning import Archive
from tests.components.sources.ingested import fill, png, run, table

FILES: dict[str, bytes | str] = {f"{c}/{shade}.png": png(shade) for shade in range(20) for c in ("x", "ÿ z")}
README = "---\nlicence: CC0\n---\n"


@pytest.fixture
def memory(tmp_path: Path) -> str:
    """The URL of a folder in memory."""
    system = fsspec.filesystem("memory")
    place = f"/{tmp_path.name}"
    for name, content in (FILES | {"README.md": README}).items():
        system.pipe(f"{place}/{name}", content if isinstance(content, bytes) else content.encode())
    return f"memory:/{place}"


def test_a_folder_elsewhere_is_as_one_here(tmp_path: Path, memory: str) -> None:
    fill(tmp_path / "data/d", FILES | {"README.md": README})
    here, there = run(tmp_path), run(tmp_path, source=memory)
    assert (there.rows, there.classes, there.licence) == (here.rows, ("x", "ÿ z"), "CC0")
    assert (there.version, there.commit, there.source) == (here.version, None, memory)
    assert Store(tmp_path / ".atelier").holds(Artifact(kind="source", digest=there.version))


def test_it_is_fetched_again_only_when_its_listing_changes(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    real = remote._copy
    monkeypatch.setattr(
        remote, "_copy", lambda system, file, to, url: (copied.append(file.name), real(system, file, to, url))
    )
    first = run(tmp_path, source=memory)
    assert len(copied) == 41
    assert run(tmp_path, source=memory) == first
    assert len(copied) == 41
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/x/0.png", png(200))  # of the same size
    second = run(tmp_path, source=memory)
    assert len(copied) == 82
    assert second.version != first.version and second.rows != first.rows


def test_a_store_that_lost_the_bytes_fetches_them_again(tmp_path: Path, memory: str) -> None:
    first = run(tmp_path, source=memory)
    place = Store(tmp_path / ".atelier").path(Artifact(kind="source", digest=first.version))
    (place / "x/0.png").write_bytes(b"changed")
    assert run(tmp_path, source=memory) == first
    assert (place / "x/0.png").read_bytes() == png(0)


def test_the_archive_keeps_the_very_bytes(tmp_path: Path, memory: str) -> None:
    dataset = run(tmp_path, source=memory)
    archive = Archive(tmp_path / "dvc")
    store = Store(tmp_path / ".atelier")
    pointer = archive.keep_source(tmp_path, dataset.source, version=dataset.version, store=store)
    assert (pointer.kind, pointer.digest) == ("data", dataset.version)
    archive.bring(pointer, tmp_path / "back")
    assert digest_of(tmp_path / "back") == dataset.version
    assert (tmp_path / "back/ÿ z/3.png").read_bytes() == png(3)


def test_files_and_archives_have_urls_too(tmp_path: Path) -> None:
    place = fill(tmp_path / "elsewhere", FILES)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        for name, content in FILES.items():
            packed.writestr(name, content)
    folder, archive = (
        run(tmp_path, source=f"file://{place}"),
        run(tmp_path, source=f"zip://::file://{tmp_path}/all.zip"),
    )
    assert folder.version == archive.version == digest_of(place)
    part = run(tmp_path, source=f"zip://x::file://{tmp_path}/all.zip")
    assert (part.count, part.classes) == (20, ())


def test_one_file_elsewhere_is_a_source(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", {"a.txt": "".join(f"line {number}\n" for number in range(3000))})
    dataset = run(tmp_path, source=f"file://{tmp_path}/elsewhere/a.txt", modality="text")
    assert {name.split(":")[0] for name in table(tmp_path, dataset)["id"]} == {"a.txt"}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_web_server_is_a_source_and_its_secrets_are_not_written_down(tmp_path: Path) -> None:
    place = fill(tmp_path / "elsewhere", FILES)
    fill(place, {"rows.jsonl": '{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n' * 9})
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: _Quiet(*given, directory=str(place)))
    Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    try:
        pictures = run(tmp_path, source=f"http://{host}/", kind="images")
        assert table(tmp_path, pictures)["payload"] == [*(png(n) for n in sorted(range(20), key=str))] * 2
        dataset = run(tmp_path, source=f"http://ann:hunter22@{host}/rows.jsonl?key=t0psecret", modality="text")
        assert (dataset.source, dataset.count) == (f"http://{host}/rows.jsonl", 27)
        with pytest.raises(AtelierError) as refused:
            run(tmp_path, source=f"http://ann:hunter22@{host}/gone.jsonl?key=t0psecret")
    finally:
        server.shutdown()
        server.server_close()
    assert "404" in str(refused.value)
    written = b"".join(path.read_bytes() for path in (tmp_path / ".atelier").rglob("*") if path.is_file())
    for secret in ("hunter22", "t0psecret"):
        assert secret not in str(refused.value)
        assert secret.encode() not in written


class _Asked(BaseHTTPRequestHandler):
    """Rows that hang on the query; with what tells versions apart, which does not, where `tag` is set."""

    tag: str | None = None
    sent: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())
        self.sent.append(self.path)

    def _answer(self) -> bytes:
        content = "".join(f'{{"text": "{self.path[-1]}.{row}"}}\n' for row in range(9)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if self.tag is not None:
            self.send_header("ETag", self.tag)
        self.end_headers()
        return content

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a server whose bytes hang on the query."""
    monkeypatch.setattr(_Asked, "sent", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Asked)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/rows.jsonl"
    server.shutdown()
    server.server_close()


def test_urls_that_differ_in_their_query_alone_are_not_mixed_up(
    tmp_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Asked, "tag", '"same"')
    store = Store(tmp_path / ".atelier")
    first, other, again = (remote.fetch(f"{asked}?page={page}", store) for page in (1, 2, 1))
    assert first == again != other
    assert (store.path(other) / "rows.jsonl").read_text().startswith('{"text": "2.0"}\n')
    assert _Asked.sent == ["/rows.jsonl?page=1", "/rows.jsonl?page=2"]
    assert b"page" not in b"".join(path.read_bytes() for path in (store.root / "listings").iterdir())


def test_a_url_that_tells_no_versions_apart_is_downloaded_once_a_run(tmp_path: Path, asked: str) -> None:
    first = run(tmp_path, source=f"{asked}?page=1", modality="text")
    assert _Asked.sent == ["/rows.jsonl?page=1"]
    assert run(tmp_path, source=f"{asked}?page=1", modality="text") == first
    assert len(_Asked.sent) == 2


def test_a_listing_that_changes_while_it_is_read_is_told_without_a_download(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, copied = ingestion._write, []
    monkeypatch.setattr(remote, "_copy", lambda *given, copy=remote._copy: (copied.append(given[1].name), copy(*given)))

    def meanwhile(batches: Iterable[pa.RecordBatch], directory: Path) -> Counter[str]:
        sides = real(batches, directory)
        fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/x/0.png", png(200))
        return sides

    monkeypatch.setattr(ingestion, "_write", meanwhile)
    with pytest.raises(AtelierError, match="changed while it was read: its listing is another now"):
        run(tmp_path, source=memory)
    assert len(copied) == 41
    assert not (tmp_path / ".atelier/rows").exists()


def test_a_recipe_is_written_down_without_the_secrets_of_its_source() -> None:
    data = Data(source="zip://a::s3://key:secret@bucket/b.zip?versionId=77")
    assert data.model_dump()["source"] == "zip://a::s3://bucket/b.zip"
    assert "secret" not in repr(data) + data.model_dump_json()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("s3://bucket/place", r"needs the package 's3fs' for s3://, which is not installed"),
        ("zip://::s3://bucket/a.zip", r"needs the package 's3fs'"),
        ("memry://a", "unknown protocol 'memry'; did you mean 'memory'"),
        ("memory://nothing/here", r"'memory://nothing/here' cannot be fetched \(FileNotFoundError"),
        ("file:///nothing/here", r"cannot be fetched \(FileNotFoundError"),
        ("http://127.0.0.1:9/rows.parquet", r"cannot be fetched \(Client"),
    ],
)
def test_what_cannot_be_reached_is_told(tmp_path: Path, source: str, told: str) -> None:
    with pytest.raises(AtelierError, match=told):
        run(tmp_path, source=source)


def test_no_name_leads_out_of_the_store(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        packed.writestr("a.png", png(1))
        packed.writestr("../../../evil.png", png(2))
    with pytest.raises(AtelierError, match=r"holds '\.\./\.\./\.\./evil\.png', which is no name of a file inside it"):
        run(tmp_path, source=f"zip://::file://{tmp_path}/evil.zip")
    assert not list(tmp_path.rglob("evil.png"))


def test_a_link_elsewhere_is_refused(tmp_path: Path) -> None:
    place = fill(tmp_path / "elsewhere", FILES)
    (place / "z.png").symlink_to("/etc/passwd")
    with pytest.raises(AtelierError, match=r"holds the link 'z\.png'"):
        run(tmp_path, source=f"file://{place}")


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    fill(tmp_path, {"a.zip": b"PK no archive"})
    with pytest.raises(AtelierError, match=r"a\.zip' cannot be fetched \(BadZipFile: File is not a zip file"):
        run(tmp_path, source=f"zip://::file://{tmp_path}/a.zip")
