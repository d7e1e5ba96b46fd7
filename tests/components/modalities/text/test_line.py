"""A small source of texts through ingestion, validation and preparation, with a planted row for each check."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components import preprocessing
from components.errors import DataRejected
from components.ingestion import ingest
from components.modalities.text import codec, shards
from components.modalities.text.batch import TextSpec
from components.recipe import Data, HeldOut, Validate
from components.records import Validated
from components.store import Store
from components.validation import validate
from tests.components.modalities.text import corpus


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "false")


def clean(count: int = 40) -> list[bytes]:
    return [corpus.text(seed, 100).encode() for seed in range(count)]


def checked(project: Path, texts: list[bytes], *, at_most: float = 0.0, **columns: list[Any]) -> Validated:
    """Every fifth row is held out."""
    folder, store = project / "data" / "d", Store(project / ".atelier")
    folder.mkdir(parents=True)
    sides = ["held_out" if number % 5 == 4 else "train" for number in range(len(texts))]
    rows = {"id": [f"r{number}" for number in range(len(texts))], "text": texts, "split": sides, **columns}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    data = Data(source="data/d", held_out=HeldOut(column="split", value="held_out"))
    dataset = ingest(data, modality="text", project=project, store=store)
    return validate(dataset, Validate(), modality="text", reject_at_most=at_most, store=store)


def rejected(project: Path, validated: Validated) -> dict[str, str]:
    path = Store(project / ".atelier").path(validated.quarantine) / "quarantine.parquet"
    return {row["id"]: row["reason"] for row in pq.read_table(path).to_pylist()}


def test_texts_go_through_to_a_split_that_reads_them(tmp_path: Path) -> None:
    texts = clean()
    validated = checked(tmp_path, texts)
    assert validated.accepted == {"held_out": 8, "train": 32} and validated.rejected == {}
    store = Store(tmp_path / ".atelier")
    options: dict[str, Any] = {"context": 64, "tokenizer": "characters"}
    prepared = preprocessing.prepare(validated, options, modality="text", store=store)
    assert preprocessing.prepare(validated, options, modality="text", store=store) == prepared
    spec = TextSpec.model_validate(prepared.spec)
    split = shards.open_split(store.path(prepared.shards), "train")
    first = split.batch(torch.arange(len(split)))
    start = b"".join(codec.encode(first.rows(slice(0, 1)), spec))
    assert texts[0].startswith(start) and len(start) == 64
    assert shards.open_split(store.path(prepared.shards), "held_out").bytes == sum(map(len, texts[4::5]))


PLANTS = {
    "latin-1": ("Größe".encode("latin-1") * 9, "is not UTF-8: byte 0xf6 at offset 2 (invalid start byte)"),
    "empty": (b" \r\n ", "is empty: 3 characters and none of them visible"),
    "NUL": (b"ab\x00" * 30, "holds control characters, 33.33% of it, must be at most 0.1%"),
    "damaged": (
        "gr\ufffd\ufffde ".encode() * 30,
        "was damaged by an earlier conversion: 33.33% of its characters are U+FFFD, must be at most 0.1%",
    ),
    "address": (b"write to jo@example.org " * 9, "holds 9 e-mail addresses"),
    "phone": (b"call +49 30 901820 now, " * 2, "holds 2 phone numbers"),
    "card": (b"pay with 4111 1111 1111 1111.", "holds 1 numbers of payment cards"),
    "profane": (b"oh damn this bloody fog, " * 9, "is profane: 20.0% of its words, must be at most 5%"),
    "long line": (b"word " * 200_000, "has a line of 1000000 characters, must be at most 100000"),
    "twin": (clean(1)[0].replace(b"\n", b"  \r\n"), "is the same text as an earlier row"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_text_goes_to_quarantine_with_its_reason(plant: str, tmp_path: Path) -> None:
    payload, reason = PLANTS[plant]
    texts = clean()
    texts[7] = payload
    assert rejected(tmp_path, checked(tmp_path, texts, at_most=0.05)) == {"r7": reason}


def same_on_both_sides() -> list[bytes]:
    texts = clean()
    texts[9] = texts[0] + b"\n"
    return texts


def nearly_the_same() -> list[bytes]:
    texts = clean()
    texts[9] = texts[0].upper()
    return texts


def twice_in_other_words() -> list[bytes]:
    """Eight of forty say again what an earlier one of their side says, but for case and signs."""
    texts = clean()
    for number in range(20, 28):
        texts[number] = texts[number - 20].upper().replace(b".", b"!")
    return texts


def strays(kinds: list[str]) -> list[bytes]:
    """Two hundred English texts, and among them one of each other kind."""
    texts = [f"The {seed} houses of the village stand by the river. ".encode() * 2 for seed in range(200)]
    texts = [english + corpus.text(seed, 20).encode() for seed, english in enumerate(texts)]
    for number, kind in enumerate(kinds):
        texts[15 * number] = (kind * 30).encode()
    return texts


SCRIPTS = ["Добрый день. ", "今日は良い天気です。", "Καλημέρα σε όλους. ", "नमस्ते दुनिया। ", "สวัสดีชาวโลก ", "مرحبا بكم "]
LATIN = [
    "Guten Morgen, wie geht es Ihnen heute? ", "Buongiorno a tutti, come state oggi? ",
    "Bom dia, tudo bem com você? ", "Hyvää huomenta, mitä sinulle kuuluu? ", "Dzień dobry, jak się pan dzisiaj miewa? ",
]  # fmt: skip

WHOLE = {
    "near duplicates": (twice_in_other_words, r"nearly the same as earlier ones of their side \(8: r20; r21"),
    "languages": (lambda: strays(LATIN + SCRIPTS), r"in languages that hardly any other is in \(1\d: r0; r15"),
    "scripts": (lambda: strays(SCRIPTS), r"in scripts that hardly any other is in \(6: r0; r15"),
    "leak": (same_on_both_sides, r"held-out texts are in the training side too \(1: r9\)"),
    "near leak": (nearly_the_same, r"held-out texts are nearly the same as training ones \(1: r9\)"),
    "little": (lambda: clean(8), r"fewer than 10000 characters in all \(\d{4}\)"),
}


@pytest.mark.parametrize("plant", WHOLE)
def test_a_fault_of_all_texts_together_stops_the_run(plant: str, tmp_path: Path) -> None:
    make, message = WHOLE[plant]
    with pytest.raises(DataRejected, match=message):
        checked(tmp_path, make(), at_most=0.5)


def test_labels_are_asked_for_where_the_data_have_them(tmp_path: Path) -> None:
    labels: list[str | None] = ["prose" if number % 2 else "verse" for number in range(40)]
    labels[3] = None
    validated = checked(tmp_path, clean(), at_most=0.05, label=labels)
    assert validated.dataset.classes == ("prose", "verse") and "has no label" in rejected(tmp_path, validated)["r3"]
