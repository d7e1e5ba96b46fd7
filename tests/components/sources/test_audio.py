"""Folders of recordings; what they share with pictures is tested there."""

import io
import wave
from pathlib import Path

import pytest

from components.errors import AtelierError
from tests.components.sources.ingested import BY_SPLIT, fill, run, table


def wav(tone: int) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes([tone, 0] * 80))
    return written.getvalue()


@pytest.mark.parametrize("column", ["text", "transcription"])
def test_metadata_says_what_is_spoken(tmp_path: Path, column: str) -> None:
    said = f'file_name,{column},split\nb/one.WAV,"hello, you",train\ntwo.wav,bye,test\n'
    fill(tmp_path / "data/d", {"metadata.csv": said, "b/one.WAV": wav(1), "two.wav": wav(2), "LICENSE": "CC0"})
    found = table(tmp_path, run(tmp_path, BY_SPLIT, modality="audio"))
    assert (found["id"], found["text"]) == (["b/one.WAV", "two.wav"], ["hello, you", "bye"])
    assert found["payload"] == [wav(1), wav(2)]


def test_without_metadata_a_sub_folder_is_a_class(tmp_path: Path) -> None:
    files = {f"{side}/{who}/{n}.wav": wav(n) for side in ("train", "test") for who in ("ann", "bob") for n in range(3)}
    fill(tmp_path / "data/d", files)
    dataset = run(tmp_path, BY_SPLIT, modality="audio")
    found = table(tmp_path, dataset)
    assert dataset.classes == ("ann", "bob")
    assert found["text"] == [None] * 12
    assert found["split"] == ["held_out"] * 6 + ["train"] * 6


def test_a_recording_that_no_row_names_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "data/d", {"metadata.csv": "file_name\na.wav\n", "a.wav": wav(1), "b.flac": b"fLaC"})
    with pytest.raises(AtelierError, match=r"no row of metadata\.csv in 'data/d' names 'b\.flac'"):
        run(tmp_path, modality="audio")
