"""The packed prompts: every one is whole, of one kind, and has its words."""

import csv
import gzip
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from components import manifest, versioning
from components.errors import AtelierError
from components.store import file_sha256
from infra.starter import prompts
from infra.starter.prompts import Prompt

NOTICE = (
    "Files: *\nLicense: CC-BY-SA-3.0\n\nLicense: CC-BY-SA-3.0\n THE WORK\n .\n 1. Definitions.\n\nLicense: GPL-2+\n No."
)


@pytest.fixture(scope="module")
def folder(clone: Path) -> Path:
    versioning.pull(clone, "data/prompts")
    return clone / "data" / "prompts"


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "metadata.csv").read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def sounds(folder: Path, rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    return {row["file_name"]: soundfile.read(folder / row["file_name"], dtype="int16")[0] for row in rows}


def test_the_card_says_what_the_files_are(
    folder: Path, rows: list[dict[str, str]], sounds: dict[str, np.ndarray]
) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    facts = yaml.safe_load(card.split("---\n")[1])
    assert facts["sha256"] == {"metadata.csv": file_sha256(folder / "metadata.csv")}
    assert facts["sound_sha256"] == prompts.sound_sha256(sounds.values())
    assert facts["counts"] == Counter(row["label"] for row in rows)
    assert facts["classes"] == sorted(facts["counts"])
    minutes = sum(map(len, sounds.values())) / 8000 / 60
    assert f"{len(rows)} recordings, {minutes:.1f} minutes" in card
    assert prompts.encoder_of((folder / rows[0]["file_name"]).read_bytes()) in card


def test_the_card_names_author_changes_and_the_whole_licence(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "CC-BY-SA-3.0" in card
    for part in (
        "Copyright: 2003-2010, Allison Smith",
        "Allison Smith (http://www.theivrvoice.com)",
        "Digium, Inc. (http://www.digium.com)",
        "converted from WAV to FLAC",
        "https://creativecommons.org/licenses/by-sa/3.0/us/legalcode",
        "1. Definitions.",
        "4. Restrictions.",
        "5. Representations, Warranties and Disclaimer.",
        "8. Miscellaneous.",
    ):
        assert part in card, part
    assert card.endswith("modified without the mutual written agreement of the Licensor and You.\n")


def test_every_file_has_its_row_and_every_row_its_file(folder: Path, rows: list[dict[str, str]]) -> None:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*(row["file_name"] for row in rows), "metadata.csv", "README.md"}
    assert len(rows) == len(found) - 2
    assert not [name for name in found if "silence" in name]


def test_every_prompt_is_8_khz_mono_flac_with_its_words(folder: Path, rows: list[dict[str, str]]) -> None:
    for row in rows:
        about = soundfile.info(folder / row["file_name"])
        assert (about.format, about.subtype, about.samplerate, about.channels) == ("FLAC", "PCM_16", 8000, 1), row
        assert row["text"] == prompts.words(row["text"]) != "", row
        inside = row["file_name"].split("/")
        assert row["label"] == (inside[0] if len(inside) == 2 else "phrases"), row


def test_no_take_is_there_twice_and_none_is_silent(sounds: dict[str, np.ndarray]) -> None:
    assert not [*prompts.same_takes(Prompt(name, samples, "") for name, samples in sounds.items())]
    assert min(np.abs(samples.astype(int)).max() for samples in sounds.values()) > 3000
    assert min(map(len, sounds.values())) > 0.2 * 8000


def test_a_take_rounded_anew_is_found() -> None:
    first = np.random.default_rng(0).integers(-20_000, 20_000, 4000).astype(np.int16)
    again, other = first + np.int16(3), -first
    takes = [Prompt("first", first, ""), Prompt("other", other, ""), Prompt("again", again, "")]
    assert [(a.name, b.name) for a, b in prompts.same_takes(takes)] == [("first", "again")]


@pytest.mark.parametrize(
    ("transcript", "said"),
    [
        (" at [@]", "at"),
        (" space [ ]", "space"),
        (' IAX (note: does not say "2")', "IAX"),
        ("after the tone.  When done hang up. (simple tone sound plays)", "after the tone. When done hang up."),
        (" [sound of monkeys screaming]", ""),
        (" <beep decending>", ""),
    ],
)
def test_notes_are_no_words(transcript: str, said: str) -> None:
    assert prompts.words(transcript) == said


def test_flac_loses_nothing_and_names_its_encoder() -> None:
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 4001).astype(np.int16)
    content = prompts.flac(samples)
    assert content == prompts.flac(samples)
    assert np.array_equal(soundfile.read(io.BytesIO(content), dtype="int16")[0], samples)
    assert prompts.encoder_of(content).startswith("reference libFLAC 1.")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What both packages would put into a folder, with four sounds."""
    place = tmp_path / "source"
    for name in (prompts.TRANSCRIPTS, prompts.NOTICE):
        (place / name).parent.mkdir(parents=True)
    listed = "; Sounds\n\nhello: Hello.\ndigits/1: one\nbeep: [a beep]\nsilence/1: (silence)\ngone: Not there.\n"
    (place / prompts.TRANSCRIPTS).write_bytes(gzip.compress(listed.encode()))
    (place / prompts.NOTICE).write_text(NOTICE)
    for seed, name in enumerate(("hello", "digits/1", "beep", "silence/1")):
        write_wav(place, name, seed=seed)
    return place


def write_wav(package: Path, name: str, *, seed: int, rate: int = 8000) -> None:
    path = package / prompts.SOUNDS / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).integers(-999, 999, 800).astype(np.int16), rate)


def test_a_small_package_is_built(package: Path, tmp_path: Path) -> None:
    prompts.build(package, tmp_path / "prompts")
    assert [*manifest.entries_of(tmp_path / "prompts")] == ["README.md", "digits/1.flac", "hello.flac", "metadata.csv"]
    metadata = (tmp_path / "prompts" / "metadata.csv").read_bytes()
    assert metadata == b"file_name,text,label\ndigits/1.flac,one,digits\nhello.flac,Hello.,phrases\n"
    card = (tmp_path / "prompts" / "README.md").read_text()
    assert card.endswith("\n\nTHE WORK\n\n1. Definitions.\n")
    assert "`beep`;" in card


def test_a_sound_of_another_rate_is_refused(package: Path, tmp_path: Path) -> None:
    write_wav(package, "hello", seed=0, rate=16000)
    with pytest.raises(AtelierError, match=r"hello\.wav has 16000 Hz"):
        prompts.build(package, tmp_path / "prompts")


def test_a_sound_without_a_transcript_is_refused(package: Path, tmp_path: Path) -> None:
    write_wav(package, "bye", seed=9)
    with pytest.raises(AtelierError, match=r"bye\.wav has no transcript"):
        prompts.build(package, tmp_path / "prompts")


def test_a_notice_without_the_licence_is_refused(package: Path, tmp_path: Path) -> None:
    (package / prompts.NOTICE).write_text("License: CC-BY-SA-3.0\n")
    with pytest.raises(AtelierError, match=r"does not hold the text of CC-BY-SA-3\.0"):
        prompts.build(package, tmp_path / "prompts")


@pytest.mark.skipif(not (prompts.SOURCE / prompts.SOUNDS).is_dir(), reason="Debian's asterisk-core-sounds are absent")
def test_rebuilding_gives_the_same_samples_and_with_the_same_encoder_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    prompts.build(prompts.SOURCE, tmp_path / "prompts")
    packed, built = manifest.entries_of(folder), manifest.entries_of(tmp_path / "prompts")
    assert built.keys() == packed.keys()
    assert built["metadata.csv"] == packed["metadata.csv"]
    before, after = (
        yaml.safe_load((place / "README.md").read_text().split("---\n")[1])["sound_sha256"]
        for place in (folder, tmp_path / "prompts")
    )
    assert before == after
    encoder = {prompts.encoder_of((place / "hello.flac").read_bytes()) for place in (folder, tmp_path / "prompts")}
    if len(encoder) == 1:
        assert built == packed
