"""Excluded rows, through real ingestion and validation: by what is in them, whatever they are called."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from components import exclusions, ingestion, modalities, rows, validation
from components.errors import AtelierError
from components.exclusions import Exclusion
from components.recipe import Data, HeldOut, Validate
from components.records import Dataset
from components.store import Store

WHY = "asked for by the person shown"
DATA = Data(source="data/d", held_out=HeldOut(share=0.3, by="digest"))


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8))


def encoded(image: Image.Image, form: str = "png") -> bytes:
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "data/d").mkdir(parents=True)
    for number in range(60):
        (tmp_path / f"data/d/p{number:02}.png").write_bytes(encoded(picture(number)))
    return tmp_path


def exclusion(number: int, *, source: str = "data/d", why: str = WHY, by: str = "both") -> Exclusion:
    payload = encoded(picture(number))
    content = modalities.part("image", "rows").content_digest(payload)
    digest = hashlib.sha256(payload).hexdigest()
    return Exclusion(
        source=source, why=why, digest=None if by == "content" else digest, content=None if by == "digest" else content
    )


def exclude(project: Path, *found: Exclusion) -> None:
    for one in found:
        path = project / exclusions.file_of(one.source)
        exclusions.write(path, [*exclusions.read(path), one])


def run(project: Path, data: Data = DATA) -> Dataset:
    return ingestion.ingest(data, modality="image", project=project, store=Store(project / ".atelier"))


def test_a_name_with_another_end_of_line_in_it_does_not_stop_every_run(tmp_path: Path) -> None:
    one = exclusion(1).model_copy(update={"row": "a\u2028b\x85c.png"})
    exclusions.write(tmp_path / "d.jsonl", [one, exclusion(2)])
    assert exclusions.read(tmp_path / "d.jsonl") == [one, exclusion(2)]


def ids(project: Path, dataset: Dataset) -> list[str]:
    batches = rows.read(Store(project / ".atelier").path(dataset.rows))
    names: list[str] = pa.Table.from_batches(batches, rows.SCHEMA)["id"].to_pylist()
    return names


@pytest.mark.parametrize("by", ["digest", "content", "both"])
def test_an_excluded_row_is_on_no_side_and_is_told(project: Path, by: str) -> None:
    before = run(project)
    exclude(project, exclusion(7, by=by))
    after = run(project)
    assert set(ids(project, before)) - set(ids(project, after)) == {"p07.png"}
    assert (after.count, after.excluded) == (59, {WHY: 1})


def test_the_same_row_under_another_name_or_in_another_format_is_excluded_too(project: Path) -> None:
    exclude(project, exclusion(7))
    (project / "data/d/other.png").write_bytes(encoded(picture(7)))
    (project / "data/d/other.bmp").write_bytes(encoded(picture(7), "bmp"))
    after = run(project)
    assert not {"p07.png", "other.png", "other.bmp"} & set(ids(project, after))
    assert after.excluded == {WHY: 3}


def test_what_is_excluded_by_its_bytes_alone_leaves_the_same_in_another_format(project: Path) -> None:
    exclude(project, exclusion(7, by="digest"))
    (project / "data/d/other.bmp").write_bytes(encoded(picture(7), "bmp"))
    assert "other.bmp" in ids(project, run(project))


@pytest.mark.parametrize(
    ("source", "holds"), [("data/d", True), ("*", True), ("data/e", False), ("data", True), ("data/d/sub", True)]
)
def test_it_holds_for_its_source_what_that_is_a_part_of_and_where_it_says_all(
    project: Path, source: str, holds: bool
) -> None:
    exclude(project, exclusion(7, source=source))
    assert bool(run(project).excluded) is holds


def test_it_holds_for_a_source_at_a_url(project: Path) -> None:
    url = f"file://{project}/data/d"
    data = Data(source=url, held_out=DATA.held_out)
    exclude(project, exclusion(7, source=url))
    after = run(project, data)
    assert "p07.png" not in ids(project, after) and after.excluded == {WHY: 1}
    assert exclusions.file_of(url).startswith("data/exclusions/url-")


def test_the_record_of_the_source_tells_what_is_excluded_and_is_as_before_where_nothing_is(project: Path) -> None:
    store = Store(project / ".atelier")
    before = ingestion.bring(DATA, project=project, store=store)
    assert "excluded" not in before.model_dump() and "excluded" not in run(project).model_dump()
    exclude(project, exclusion(7))
    first = ingestion.bring(DATA, project=project, store=store)
    exclude(project, exclusion(8, why="its licence ended"))
    second = ingestion.bring(DATA, project=project, store=store)
    assert first.excluded and second.excluded and len({None, first.excluded, second.excluded}) == 3
    assert ingestion.known(DATA, project=project) == second
    assert before.version == first.version == second.version


def test_an_exclusion_that_comes_while_rows_are_read_stops_the_run(project: Path) -> None:
    store = Store(project / ".atelier")
    source = ingestion.bring(DATA, project=project, store=store)
    exclude(project, exclusion(7))
    with pytest.raises(AtelierError, match="what is excluded is another now"):
        ingestion.ingest(DATA, modality="image", project=project, store=store, source=source)


def test_a_commit_of_other_data_while_rows_are_read_stops_nothing(project: Path) -> None:
    store = Store(project / ".atelier")
    source = ingestion.bring(DATA, project=project, store=store)
    before = source.model_copy(update={"commit": "0" * 40})
    assert ingestion.ingest(DATA, modality="image", project=project, store=store, source=before).count == 60


def test_a_line_that_is_no_exclusion_stops_every_run(project: Path) -> None:
    exclude(project, exclusion(7))
    path = project / "data/exclusions/d.jsonl"
    path.write_text(path.read_text() + '{"source": "data/d", "digest": "short", "why": ""}\n')
    with pytest.raises(AtelierError, match=r"d\.jsonl, line 2 is no exclusion .*dvc checkout data"):
        run(project)


def test_where_everything_is_excluded_the_run_says_so(project: Path) -> None:
    exclude(project, *(exclusion(number) for number in range(60)))
    with pytest.raises(AtelierError, match="every row of 'data/d' is excluded"):
        run(project)


def test_adding_what_is_there_adds_nothing() -> None:
    known, fresh = exclusions.with_more([exclusion(1)], [exclusion(1, why="again"), exclusion(2), exclusion(2)])
    assert (len(known), len(fresh)) == (2, 1)


def test_validation_shows_them_on_its_page(project: Path) -> None:
    exclude(project, exclusion(7))
    store = Store(project / ".atelier")
    validated = validation.validate(run(project), Validate(), modality="image", reject_at_most=0.01, store=store)
    page = (store.path(validated.docs) / "index.html").read_text()
    assert "Excluded rows" in page and WHY in page
    assert sum(validated.accepted.values()) == 59


@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_a_modality_tells_the_content_alone_as_among_its_facts(modality: str) -> None:
    import soundfile

    sound = io.BytesIO()
    soundfile.write(sound, np.sin(np.arange(8000) / 9), 8000, format="WAV")
    payloads = {"image": encoded(picture(1)), "text": b"a line \r\nand another\n", "audio": sound.getvalue()}
    part = modalities.part(modality, "rows")
    whole = part.content_digest(payloads[modality])
    assert whole is not None and whole == part.facts(payloads[modality])["content_digest"]
    assert part.content_digest(b"\xff\x00\xfe none") is None


def test_a_file_of_them_is_json_lines_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    exclusions.write(path, [exclusion(1), exclusion(2)])
    assert [json.loads(line)["why"] for line in path.read_text().splitlines()] == [WHY, WHY]
    assert exclusions.read(path) == [exclusion(1), exclusion(2)]
