"""Text files cut into blocks that stay where they are."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.recipe import HeldOut
from components.sources.text import LEAST, MOST, cut
from tests.components.sources.ingested import BY_SPLIT, fill, run, table

BY_BLOCK = HeldOut(share=0.1, by="block")


def prose(size: int, *, seed: int = 0, paragraph: int = 300, end: str = "\n") -> bytes:
    """Words in paragraphs of about so many bytes."""
    draw = random.Random(seed)
    written, length = [], 0
    while length < size:
        words = [f"w{draw.randrange(10_000)}" for _ in range(max(1, paragraph // 6))]
        lines = [" ".join(words[start : start + 8]) for start in range(0, len(words), 8)]
        written.append(end.join(lines) + end + end)
        length += len(written[-1])
    return "".join(written).encode()[:size]


def blocks(text: bytes, *, chunk: int = 1000) -> list[bytes]:
    return list(cut(text[start : start + chunk] for start in range(0, len(text), chunk)))


SHAPES = {
    "paragraphs": prose(200_000),
    "lines that end in CRLF": prose(200_000, end="\r\n"),
    "no blank lines": prose(200_000).replace(b"\n\n", b"\n"),
    "one line": prose(200_000).replace(b"\n", b" "),
    "one word": random.Random(0).randbytes(100_000).hex().encode(),
    "words of three bytes a letter": "".join(
        chr(random.Random(i).randrange(0x4E00, 0x9FFF)) for i in range(50_000)
    ).encode(),
    "bytes that are no text": random.Random(1).randbytes(100_000),
    "nothing but blanks": b" " * 50_000,
    "nothing but one byte of the middle of a letter": b"\x80" * 50_000,
}


class TestCut:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_block_but_the_last_is_within_bounds_and_nothing_is_lost(self, shape: str) -> None:
        found = blocks(SHAPES[shape])
        assert b"".join(found) == SHAPES[shape]
        assert all(LEAST <= len(block) <= MOST for block in found[:-1])
        assert 0 < len(found[-1]) <= MOST

    @pytest.mark.parametrize("shape", SHAPES)
    def test_how_the_bytes_arrive_changes_nothing(self, shape: str) -> None:
        assert blocks(SHAPES[shape], chunk=977) == blocks(SHAPES[shape], chunk=2**20)

    def test_the_mean_is_as_documented(self) -> None:
        text = prose(2_000_000)
        assert len(text) / len(blocks(text)) == pytest.approx(2300, rel=0.1)

    @pytest.mark.parametrize("shape", ["paragraphs", "lines that end in CRLF"])
    def test_blocks_end_at_blank_lines(self, shape: str) -> None:
        assert all(block.endswith((b"\n\n", b"\r\n\r\n")) for block in blocks(SHAPES[shape])[:-1])

    def test_no_letter_is_cut_in_two(self) -> None:
        for block in blocks(SHAPES["words of three bytes a letter"]):
            block.decode()

    @pytest.mark.parametrize("shape", list(SHAPES)[:7])
    @pytest.mark.parametrize("place", [0, 0.5])
    def test_a_change_moves_only_the_blocks_near_it(self, shape: str, place: float) -> None:
        text = SHAPES[shape]
        at = int(len(text) * place)
        before, after = blocks(text), blocks(text[:at] + b"Some words that were not there." + text[at:])
        assert len(set(after) - set(before)) <= 10
        assert before[-5:] == after[-5:]

    def test_a_large_text_is_a_stream(self) -> None:
        taken = 0

        def endless() -> Iterator[bytes]:
            nonlocal taken
            while True:
                taken += 1
                yield prose(100_000, seed=taken)

        stream = cut(endless())
        for _ in range(10):
            next(stream)
        assert taken == 1


class TestRows:
    def test_blocks_of_all_files_are_rows_with_stable_ids(self, tmp_path: Path) -> None:
        fill(tmp_path / "data/d", {"a.txt": prose(30_000), "b/c.md": prose(30_000, seed=1), "README.md": "# card"})
        dataset = run(tmp_path, BY_BLOCK, modality="text")
        found = table(tmp_path, dataset)
        assert b"".join(found["payload"]) == prose(30_000) + prose(30_000, seed=1)
        assert len(set(found["id"])) == dataset.count
        fill(tmp_path / "data/d", {"a.txt": b"A new beginning.\n\n" + prose(30_000)})
        again = table(tmp_path, run(tmp_path, BY_BLOCK, modality="text"))
        assert len(set(again["id"]) - set(found["id"])) <= 3
        assert set(zip(found["id"], found["split"], strict=True)) & set(zip(again["id"], again["split"], strict=True))

    def test_a_share_of_the_blocks_all_over_the_corpus_is_held_out(self, tmp_path: Path) -> None:
        fill(tmp_path / "data/d", {f"{n}.txt": prose(200_000, seed=n) for n in range(5)})
        found = table(tmp_path, run(tmp_path, BY_BLOCK, modality="text"))
        held_out = [name for name, side in zip(found["id"], found["split"], strict=True) if side == "held_out"]
        assert len(held_out) / len(found["id"]) == pytest.approx(0.1, abs=0.05)
        assert {name.split(".")[0] for name in held_out} == set("01234")

    def test_equal_blocks_of_one_file_have_ids_of_their_own(self, tmp_path: Path) -> None:
        fill(tmp_path / "data/d", {"a.txt": prose(5_000), "b.txt": (b"x" * 600 + b"\n\n") * 20})
        found = table(tmp_path, run(tmp_path, HeldOut(column="file", value="a.txt"), modality="text"))
        assert len(set(found["id"])) == len(found["id"])
        assert any(name.endswith("-2") for name in found["id"])

    def test_folders_may_be_splits_and_a_file_a_side(self, tmp_path: Path) -> None:
        fill(tmp_path / "data/d", {"train/a.txt": "one", "test/a.txt": "two", "train/empty.txt": ""})
        found = table(tmp_path, run(tmp_path, BY_SPLIT, modality="text"))
        assert list(zip(found["payload"], found["split"], strict=True)) == [(b"two", "held_out"), (b"one", "train")]

    def test_what_is_not_utf8_stays_for_the_checks_to_reject(self, tmp_path: Path) -> None:
        fill(tmp_path / "data/d", {"a.txt": b"caf\xe9", "b.txt": "café"})
        found = table(tmp_path, run(tmp_path, HeldOut(column="file", value="a.txt"), modality="text"))
        assert found["payload"] == [b"caf\xe9", "café".encode()]

    def test_one_file_is_a_source(self, tmp_path: Path) -> None:
        fill(tmp_path / "data", {"a.txt": prose(50_000)})
        dataset = run(tmp_path, HeldOut(share=0.5, by="block"), source="data/a.txt", modality="text")
        assert dataset.source == "data/a.txt" and dataset.count > 10
