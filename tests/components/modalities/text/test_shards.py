"""Shards hold the texts that went in: known tokens, order, sides, digest; windows leave no token out."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from components.contract import join
from components.errors import AtelierError
from components.loading import batches
from components.modalities.text.batch import TextSpec, Tokens
from components.modalities.text.shards import Prepare, Split, open_augment, open_split, write
from components.modalities.text.tokenizers import ByteTokens, CharacterTokens
from components.rows import Row
from components.store import digest_of
from tests.components.modalities.text import corpus

END = ByteTokens().end
SIDES = ("train", "held_out")


def given(texts: list[str | bytes]) -> list[Row]:
    """Every third row is held out."""
    return [
        Row(
            f"row-{i}",
            text if isinstance(text, bytes) else text.encode(),
            i % 2,
            None,
            "held_out" if i % 3 == 2 else "train",
        )
        for i, text in enumerate(texts)
    ]


def written(directory: Path, rows: list[Row], *, classes: tuple[str, ...] = (), **prepare: object) -> TextSpec:
    directory.mkdir(exist_ok=True)
    counts = {side: count for side in SIDES if (count := sum(row.split == side for row in rows))}
    return write(iter(rows), directory, prepare=Prepare.model_validate(prepare), classes=classes, counts=counts)


def windows(split: Split) -> torch.Tensor:
    return split.batch(torch.arange(len(split))).tokens


def test_a_side_is_its_documents_in_order_with_an_end_around_each(tmp_path: Path) -> None:
    spec = written(tmp_path, given(["ab", "\ufeffc\r\nd", "e\u0301", "fg"]), context=2)
    assert spec == TextSpec(tokenizer=ByteTokens(), context=2)
    train, held_out = open_split(tmp_path, "train"), open_split(tmp_path, "held_out")
    assert train.stream.tolist() == [END, 97, 98, END, 99, 10, 100, END, 102, 103, END]
    assert train.starts.tolist() == [1, 4, 8] and train.bytes == 7
    assert held_out.stream.tolist() == [END, 0xC3, 0xA9, END] and held_out.bytes == 2


def test_every_token_of_a_window_is_predicted_once(tmp_path: Path) -> None:
    written(tmp_path, given([corpus.text(seed, 50) for seed in range(6)]), context=16)
    split = open_split(tmp_path, "train")
    tokens = windows(split)
    assert tokens.shape == (len(split), 17) and tokens.dtype == torch.int64
    assert len(split.stream) - 1 - tokens[:, 1:].numel() in range(16)
    assert tokens[:, 1:].flatten().tolist() == split.stream[1 : tokens[:, 1:].numel() + 1].tolist()
    assert torch.equal(tokens[1:, 0], tokens[:-1, -1])


def test_windows_come_in_the_order_of_the_index_and_from_any_place(tmp_path: Path) -> None:
    written(tmp_path, given([corpus.text(0, 100)] * 3), context=8)
    split = open_split(tmp_path, "train")
    batch = split.batch(torch.tensor([5, 0, 5]))
    assert batch.places is not None and batch.places.tolist() == [40, 0, 40]
    assert torch.equal(batch.tokens[0], batch.tokens[2]) and not torch.equal(batch.tokens[0], batch.tokens[1])
    assert split.at(torch.tensor([3])).tokens[0].tolist() == split.stream[3:12].tolist()
    last = len(split.stream) - 9
    assert split.at(torch.tensor([last])).tokens[0, -1] == END


def test_tokens_are_read_from_the_disk_and_as_small_as_they_can_be(tmp_path: Path) -> None:
    for kind, size in (("bytes", 2), ("characters", 1)):
        written(tmp_path / kind, given([corpus.text(0, 50)] * 3), context=8, tokenizer=kind)
        split = open_split(tmp_path / kind, "train")
        assert isinstance(split.stream, np.memmap) and split.stream.itemsize == size
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    spec = written(tmp_path / "many", given([many] * 3), context=8, tokenizer="characters")
    assert spec.vocabulary == 302
    assert open_split(tmp_path / "many", "train").stream[1:4].tolist() == [0, 1, 2]


def test_characters_are_those_of_the_training_side_alone(tmp_path: Path) -> None:
    spec = written(tmp_path, given(["ba", "cab\n", "xay"]), context=2, tokenizer="characters")
    assert spec.tokenizer == CharacterTokens(characters="\nabc")
    held_out = windows(open_split(tmp_path, "held_out"))
    assert spec.tokenizer.decode(held_out[0]) == "\ufffda" and held_out.tolist() == [[4, 5, 1], [1, 5, 4]]


def test_steps_of_one_epoch_read_every_part_of_the_stream_on_and_on(tmp_path: Path) -> None:
    written(tmp_path, given([corpus.text(seed, 50) for seed in range(6)]), context=16)
    split = open_split(tmp_path, "train")
    each = len(split) // 4
    steps = [split.batch(split.consecutive(step, size=4)) for step in range(each)]
    for before, after in pairwise(steps):
        assert before.places is not None and after.places is not None
        assert torch.equal(after.places, before.places + 16)
        assert torch.equal(after.tokens[:, 0], before.tokens[:, -1])
    read = torch.cat([split.consecutive(step, size=4) for step in range(each)])
    assert sorted(read.tolist()) == list(range(4 * each))
    assert torch.equal(split.consecutive(each, size=4), split.consecutive(0, size=4))
    with pytest.raises(AtelierError, match=r"only \d+ windows"):
        split.consecutive(0, size=len(split) + 1)


def test_a_window_has_the_label_of_what_it_predicts_first(tmp_path: Path) -> None:
    rows = [Row("a", b"aaa", 0, None, "train"), Row("b", b"bbb", 1, None, "train")]
    spec = written(tmp_path, rows, classes=("x", "y"), context=2)
    assert spec.classes == ("x", "y")
    batch = open_split(tmp_path, "train").at(torch.tensor([0, 1, 3, 4, 6]))  # E a a a E b b b E
    assert batch.labels is not None and batch.labels.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(AtelierError, match="the row 'c' has the label 2"):
        written(tmp_path / "c", [Row("c", b"ccc", 2, None, "train")], classes=("x", "y"), context=2)


def test_without_classes_there_are_no_labels(tmp_path: Path) -> None:
    written(tmp_path, given(["abc"] * 3), context=2)
    assert open_split(tmp_path, "train").batch(torch.tensor([0])).labels is None


def test_the_loader_takes_the_windows_as_rows(tmp_path: Path) -> None:
    written(tmp_path, given([corpus.text(seed, 50) for seed in range(3)]), context=16)
    split = open_split(tmp_path, "train")
    stream = batches(split, size=4, seed=0, start=0)
    epoch = join([next(stream) for _ in range(len(split) // 4)])
    assert isinstance(epoch, Tokens) and epoch.places is not None
    assert len(set(epoch.places.tolist())) == len(epoch) == len(split) // 4 * 4


def test_the_same_rows_give_the_same_digest_and_others_another(tmp_path: Path) -> None:
    rows = given([corpus.text(seed, 30) for seed in range(5)])
    for name in "ab":
        written(tmp_path / name, rows, context=16, tokenizer="characters")
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")
    written(tmp_path / "c", [rows[1], rows[0], *rows[2:]], context=16, tokenizer="characters")
    assert digest_of(tmp_path / "c") != digest_of(tmp_path / "a")


def test_the_texts_themselves_do_not_stay(tmp_path: Path) -> None:
    written(tmp_path, given(["abc"] * 3), context=2)
    written(tmp_path / "labelled", given(["abc"] * 3), classes=("a", "b"), context=2)
    files = {"index.json", *(f"{side}.{name}" for side in SIDES for name in ("tokens", "starts"))}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == files
    labels = {f"{side}.labels" for side in SIDES}
    assert {path.name for path in (tmp_path / "labelled").iterdir()} == files | labels


def test_an_empty_document_is_two_ends(tmp_path: Path) -> None:
    written(tmp_path, given(["", "a", "bc"]), context=2)
    assert open_split(tmp_path, "train").stream.tolist() == [END, END, 97, END]


def test_a_side_that_holds_no_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match=r"held_out side has 5 tokens, but a window of prepare\.context 5 needs 6"):
        written(tmp_path, given(["abcdef", "abc", "abc"]), context=5)


def test_no_text_is_augmented(tmp_path: Path) -> None:
    written(tmp_path, given(["abc"] * 3), context=2)
    assert open_augment(tmp_path) is None


@pytest.mark.parametrize("mistake", [{"context": 0}, {"tokenizer": "words"}, {"size": 28}])
def test_a_mistaken_preparation_is_refused(mistake: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Prepare.model_validate(mistake)
