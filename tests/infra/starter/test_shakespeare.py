"""The packed plays: whole, clean, and none of them in another."""

import re
from pathlib import Path

import pytest
import yaml

from components import manifest, versioning
from components.errors import AtelierError
from components.store import file_sha256
from infra.starter import shakespeare

LEFTOVERS = re.compile(
    r"gutenberg|\be-?text|copyright|public domain|small print|https?:|www\.|\bby william shakespeare|@|^the end$",
    re.IGNORECASE | re.MULTILINE,
)
FOLIO = re.compile(r"\b(haue|vpon|loue|giue|selfe|heere)\b", re.IGNORECASE)  # spellings of 1623
ACT = re.compile(r"^act (?:1|i|first)\b", re.IGNORECASE | re.MULTILINE)
SOURCE = Path(__file__).resolve().parents[3] / shakespeare.SOURCE

PLAY = """\
THE TEMPEST

by William Shakespeare




DRAMATIS PERSONAE

ALONSO, King of Naples\x20\x20



ACT 1

MASTER.
Boatswain!
@@@@

BOATSWAIN.
Here, master.




THE END"""


@pytest.fixture(scope="module")
def folder(clone: Path) -> Path:
    versioning.pull(clone, "data/shakespeare")
    return clone / "data" / "shakespeare"


@pytest.fixture(scope="module")
def plays(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_bytes().decode("utf-8") for path in sorted(folder.glob("*.txt"))}


def test_the_card_says_what_the_files_are(folder: Path, plays: dict[str, str]) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    facts = yaml.safe_load(card.split("---\n")[1])
    assert facts["sha256"] == {f"{name}.txt": file_sha256(folder / f"{name}.txt") for name in plays}
    lines, characters = sum(text.count("\n") for text in plays.values()), sum(map(len, plays.values()))
    assert facts["counts"] == {"plays": 37, "lines": lines, "characters": characters}
    assert f"37 plays, {lines:,} lines, {characters:,} characters" in card
    assert facts["licence"] == "public domain"
    assert {path.name for path in folder.iterdir()} == {*facts["sha256"], "README.md"}


def test_the_plays_are_there_by_readable_names_and_no_poem_is(plays: dict[str, str]) -> None:
    assert {"hamlet", "king_lear", "king_john", "titus_andronicus", "henry_vi_part_3"} <= plays.keys()
    assert not {name for name in plays if re.search("sonnet|lucrece|pilgrim|complaint|phoenix|gut", name)}


def test_each_is_nothing_but_the_play(plays: dict[str, str]) -> None:
    for name, text in plays.items():
        title, gap, also_gap, cast, *_ = text.split("\n")
        assert title.isupper() and not gap and not also_gap and shakespeare.CAST.fullmatch(cast), name
        assert ACT.search(text), name
        assert re.search(r"[\]}.']\n$", text), name
        assert not LEFTOVERS.search(text), name
        assert not FOLIO.search(text), name
    hamlet = plays["hamlet"]
    assert all(LEFTOVERS.search(hamlet + end) for end in ("THE END", "End of Project Gutenberg's Etext", "@@@"))
    assert FOLIO.search(f"{hamlet} We haue done our selfe wrong")


def test_each_is_plain_text_with_clean_line_ends(plays: dict[str, str]) -> None:
    for name, text in plays.items():
        assert re.fullmatch(r"[\n\x20-\x7e]+", text), name
        assert not re.search(r" \n|\n{4}|\n\n$", text), name


def test_no_passage_of_twenty_words_stands_in_two_plays(plays: dict[str, str]) -> None:
    assert shared_passages({**plays, "copy": plays["hamlet"][90_000:91_000]}) == {("copy", "hamlet")}  # it is seen
    assert not shared_passages(plays)


def shared_passages(texts: dict[str, str]) -> set[tuple[str, ...]]:
    seen: dict[int, str] = {}
    pairs = set()
    for name, text in texts.items():
        words = re.findall(r"[a-z']+", text.lower())
        for start in range(len(words) - 19):
            other = seen.setdefault(hash(tuple(words[start : start + 20])), name)
            if other != name:
                pairs.add(tuple(sorted((name, other))))
    return pairs


def test_what_is_not_the_play_is_taken_away() -> None:
    assert shakespeare.play_of(PLAY) == (
        "THE TEMPEST\n\n\nDRAMATIS PERSONAE\n\nALONSO, King of Naples\n\n\n"
        "ACT 1\n\nMASTER.\nBoatswain!\n\nBOATSWAIN.\nHere, master.\n"
    )
    assert shakespeare.play_of(PLAY.replace("\n", "\r\n")) == shakespeare.play_of(PLAY)


def test_what_has_no_cast_is_no_play() -> None:
    assert shakespeare.play_of("THE PHOENIX\n\nby William Shakespeare\n\n\nLet the bird of loudest lay,\n") is None
    assert shakespeare.play_of("Actus Primus.\n\nDramatis Personae\n") is None
    assert shakespeare.play_of("THE END\n") is None


def test_a_source_with_other_than_its_plays_is_refused(tmp_path: Path) -> None:
    (tmp_path / shakespeare.TEXTS).mkdir(parents=True)
    (tmp_path / shakespeare.TEXTS / "tempest_gut.txt").write_text(PLAY)
    (tmp_path / shakespeare.TEXTS / "tempest_gut_f.txt").write_text(PLAY)
    with pytest.raises(AtelierError, match=r"holds 1 plays, not 37.*shakespeare==0\.6.*--from shakespeare=DIR"):
        shakespeare.build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not SOURCE.is_dir(), reason="the source package shakespeare 0.6 is not unpacked here")
def test_rebuilding_gives_what_is_there_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    shakespeare.build(SOURCE, tmp_path / "shakespeare")
    assert manifest.entries_of(tmp_path / "shakespeare") == manifest.entries_of(folder)
