"""`atelier data exclude`: rows that no later run uses, in real repositories, and the versions trained on them."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from components import data_card, exclusions, ingestion, modalities, rows, validation
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.recipe import load
from components.records import Pointer, Validated
from components.store import Store
from components.versioning import Archive
from flows import data_adding, data_removal, events
from tests.flows.moving import Project, made, passed, picture

WHY = "asked for by the person shown"
NAME = "train/odd/p03.png"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return made(tmp_path_factory.mktemp("begun") / "project")


@pytest.fixture
def project(begun: Project, tmp_path: Path) -> Project:
    shutil.copytree(begun.root, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def exclude(project: Project, *named: str, why: str = WHY, **options: object) -> dict:
    return data_removal.exclude(project.place, project.recipe, named, why=why, say=lambda words: None, **options)


def validated(project: Project) -> Validated:
    """What the stages of a run make of the recipe's data now."""
    recipe, store = load(project.recipe), Store(project.place.store)
    dataset = ingestion.ingest(recipe.data, modality="image", project=project.root, store=store)
    return validation.validate(dataset, recipe.validation, modality="image", reject_at_most=0.2, store=store)


def names(project: Project, told: Validated) -> set[str]:
    batches = rows.read(Store(project.place.store).path(told.dataset.rows))
    return {name for batch in batches for name in batch["id"].to_pylist()}


def digests(number: int) -> tuple[str, str]:
    payload = picture(number)
    return hashlib.sha256(payload).hexdigest(), modalities.part("image", "rows").content_digest(payload)


@pytest.mark.parametrize(
    "named", [NAME, f"data/dots/{NAME}", digests(3)[0], digests(3)[1]], ids=["file", "path", "bytes", "content"]
)
def test_a_row_is_named_by_its_file_its_id_or_a_digest(project: Project, named: str) -> None:
    (one,) = exclude(project, named)["excluded"]
    assert (one["row"], one["digest"], one["content"], one["source"]) == (NAME, *digests(3), "data/dots")


def test_it_holds_in_every_later_run_under_any_name_and_format(project: Project) -> None:
    assert NAME in names(project, validated(project))
    exclude(project, NAME)
    after = validated(project)
    assert NAME not in names(project, after) and after.dataset.excluded == {WHY: 1}
    assert after.accepted == {"train": 47, "held_out": 12}
    image = io.BytesIO()
    Image.open(io.BytesIO(picture(3))).save(image, "bmp")
    file = project.write("other.bmp", image.getvalue())
    with pytest.raises(AtelierError, match=rf"is excluded: {WHY}"):
        data_adding.add(project.place, project.recipe, [file], to="train/odd", say=lambda words: None)


def test_it_is_one_commit_that_says_what_is_excluded_and_why(project: Project) -> None:
    told = exclude(project, NAME, "train/even/p00.png")
    body = project.git("log", "-1", "--format=%B")
    assert project.git("rev-parse", "HEAD") == told["commit"] and project.git("status", "--porcelain") == ""
    assert project.git("show", "--name-only", "--format=", "HEAD") == "data.dvc"
    assert body.startswith("data: dots: 2 rows excluded") and WHY in body
    change = data_card.told(body)
    assert change is not None and change.excluded == 2
    listed = data_removal.listed(project.place, project.recipe)["exclusions"]
    assert [one["row"] for one in listed] == [NAME, "train/even/p00.png"]


def test_it_travels_with_the_data(project: Project) -> None:
    exclude(project, NAME)
    shutil.rmtree(project.root / "data")
    assert NAME not in names(project, validated(project))
    (project.root / "data/exclusions/dots.jsonl").unlink()
    assert NAME not in names(project, validated(project))


def test_excluding_again_changes_nothing(project: Project) -> None:
    exclude(project, NAME)
    before = project.git("rev-parse", "HEAD")
    told = exclude(project, NAME, why="once more")
    assert (told["excluded"], told["already"], told["commit"]) == ([], 1, None)
    assert project.git("rev-parse", "HEAD") == before


def test_a_digest_that_is_not_there_now_is_kept_out_if_it_comes(project: Project) -> None:
    digest, _ = digests(800)
    exclude(project, digest)
    with pytest.raises(AtelierError, match=rf"is excluded: {WHY}"):
        data_adding.add(project.place, project.recipe, project.offer(back=800), to="train/odd", say=lambda words: None)


@pytest.mark.parametrize(
    ("named", "why", "match"),
    [
        ("train/odd/p3.png", WHY, r"no row of that name: unknown row 'train/odd/p3.png'; did you mean"),
        (NAME, "  ", r"--why says nothing"),
        ("../../data.dvc", WHY, r"no row of that name"),
    ],
)
def test_what_cannot_be_excluded_is_told(project: Project, named: str, why: str, match: str) -> None:
    before = project.git("rev-parse", "HEAD")
    with pytest.raises(AtelierError, match=match):
        exclude(project, named, why=why)
    assert project.git("rev-parse", "HEAD") == before


def test_everywhere_holds_for_other_sources_too(project: Project) -> None:
    exclude(project, NAME, everywhere=True)
    assert exclusions.holding(project.root, "data/other") and exclusions.holding(project.root, "https://x.org/y")


def test_a_row_of_a_further_source_is_excluded_there(project: Project) -> None:
    more = project.root / "data/more"
    for number in range(900, 920):
        label = "odd" if number % 2 else "even"
        (more / label).mkdir(parents=True, exist_ok=True)
        (more / label / f"m{number}.png").write_bytes(picture(number))
    project.dvc_add()
    raw = yaml.safe_load(project.recipe.read_text())
    raw["data"]["more"] = [{"source": "data/more", "at_most": 0.5}]
    project.recipe.write_text(yaml.safe_dump(raw))
    (one,) = exclude(project, "odd/m901.png", of="data/more")["excluded"]
    assert one["source"] == "data/more" and validated(project).dataset.excluded == {WHY: 1}
    with pytest.raises(AtelierError, match=r"--from: dots takes no rows from it: .*did you mean 'data/more'"):
        exclude(project, "odd/m903.png", of="data/moer")


def test_a_source_at_a_url_is_excluded_from_as_well(project: Project) -> None:
    outside = project.root.parent / "outside"
    shutil.copytree(project.root / "data/dots", outside)
    raw = yaml.safe_load(project.recipe.read_text())
    raw["data"]["source"] = f"file://{outside}"
    project.recipe.write_text(yaml.safe_dump(raw))
    exclude(project, NAME)
    after = validated(project)
    assert NAME not in names(project, after) and after.dataset.excluded == {WHY: 1}


def test_it_is_told_to_whoever_listens_and_retraining_only_where_it_is_asked_for(project: Project) -> None:
    exclude(project, NAME)
    assert [(event.kind, event.model) for event in events.since(project.place)] == [("row.excluded", "dots")]
    exclude(project, "train/odd/p01.png", retrain=True)
    assert [event.kind for event in events.since(project.place)][1:] == ["row.excluded", "data.changed"]
    assert WHY in events.since(project.place)[-1].why
    raw = yaml.safe_load(project.recipe.read_text()) | {"retrain": {"data": True}}
    project.recipe.write_text(yaml.safe_dump(raw))
    exclude(project, "train/odd/p07.png")
    assert [event.kind for event in events.since(project.place)][3:] == ["row.excluded", "data.changed"]


def registered(project: Project, version: str, told: Validated, *, facts: bool = True, files: bool = True) -> None:
    """A version in the ledger as a run leaves it; without `facts`, as runs left it before they were kept."""
    recipe, store, archive = load(project.recipe), Store(project.place.store), Archive(project.place.dvc)
    pointers: list[Pointer] = []
    if files:
        pointers.append(archive.keep_source(project.root, recipe.data.source, version=told.dataset.version))
    if facts:
        pointers.append(archive.keep(told.facts, store.path(told.facts)))
    verdict = passed(version)
    ledger = Ledger(project.place.ledger_url)
    ledger.enter(
        Version(
            model="dots", version=version, modality="image", family="vae", bundle=verdict.bundle.digest,
            verdict=ledger.record(verdict, run="r"), data=told.dataset.version, commit=None, recipe="sha256:r",
            run="r", pointers=tuple(pointers), created=f"2026-01-0{version}T00:00:00Z",
        )
    )  # fmt: skip


def fates(told: dict) -> dict[str, str]:
    return {one["version"]: one["fate"] for one in told["versions"]}


def test_it_lists_the_versions_that_were_trained_on_the_row_and_says_how_it_knows(project: Project) -> None:
    told = validated(project)
    registered(project, "1", told)
    registered(project, "2", told, facts=False)
    registered(project, "3", told, facts=False, files=False)
    Ledger(project.place.ledger_url).pin("dots", "init", "4", "dots@1")
    first = exclude(project, NAME)
    assert fates(first) == {"1": "trained", "2": "trained", "3": "unknown"}
    registered(project, "4", validated(project))  # after it, but it went on from version 1
    registered(project, "5", validated(project))
    again = exclude(project, NAME)
    assert fates(again) == {"1": "trained", "2": "trained", "3": "unknown", "4": "trained"}
    assert "went on from dots@1" in next(one["how"] for one in again["versions"] if one["version"] == "4")


def test_held_out_rows_were_measured_with_and_rejected_ones_left_unused(project: Project) -> None:
    (project.root / "data/dots/train/odd/zz.png").write_bytes(b"no picture")
    project.dvc_add()
    registered(project, "1", validated(project))
    assert fates(exclude(project, "test/even/p04.png")) == {"1": "measured"}
    assert fates(exclude(project, hashlib.sha256(b"no picture").hexdigest())) == {"1": "unused"}


def test_the_facts_come_from_the_archive_where_the_store_has_lost_them(project: Project) -> None:
    told = validated(project)
    registered(project, "1", told)
    shutil.rmtree(Store(project.place.store).path(told.facts))
    assert fates(exclude(project, NAME)) == {"1": "trained"}
    shutil.rmtree(project.place.dvc / "remote")
    answer = exclude(project, "train/odd/p01.png")
    assert fates(answer) == {"1": "unknown"} and "archive" in answer["versions"][0]["how"]


@pytest.mark.slow
def test_the_commands_speak_to_people_and_to_programs(project: Project) -> None:
    registered(project, "1", validated(project))
    seen = project.atelier("data", "exclude", "dots", NAME, "--why", WHY).stdout
    assert f"{NAME} is excluded from data/dots" in seen and "trained on it" in seen and "dots@1" in seen
    told = json.loads(project.atelier("data", "exclusions", "--json").stdout)
    assert [one["why"] for one in told["exclusions"]] == [WHY]
    assert WHY in " ".join(project.atelier("data", "exclusions", "dots").stdout.split())
    refused = project.atelier("data", "exclude", "dots", "none", "--why", "x", "--json", code=2)
    assert json.loads(refused.stdout)["error"]
