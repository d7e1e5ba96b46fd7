"""Every text comes back from its tokens; what a vocabulary does not hold is shown, not lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import TypeAdapter, ValidationError

from components.errors import AtelierError
from components.modalities.text.tokenizers import ByteTokens, CharacterTokens, PieceTokens, Tokenizer, learn

BYTES = ByteTokens()
ABC = CharacterTokens(characters="abcé")


def test_bytes_are_their_own_tokens_and_end_is_the_one_behind_them() -> None:
    assert BYTES.encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert (BYTES.size, BYTES.end) == (257, 256)


def test_characters_are_numbered_in_order_then_come_end_and_unknown() -> None:
    assert ABC.encode("cab").tolist() == [2, 0, 1]
    assert (ABC.size, ABC.end, ABC.unknown) == (6, 4, 5)
    assert ABC.encode("é~z\x00").tolist() == [3, 5, 5, 5]
    assert ABC.decode(ABC.encode("a~c")) == "a\ufffdc"


@given(some.text())
def test_any_text_comes_back_from_its_bytes(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text)) == text


@given(some.text(min_size=1))
def test_a_text_comes_back_from_the_characters_learnt_of_it(text: str) -> None:
    tokenizer = learn("characters", iter([text[:3], text[3:]]))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and ids.max() < tokenizer.end


@given(some.lists(some.integers(0, 256)))
def test_any_row_of_tokens_is_a_text_that_can_be_written(ids: list[int]) -> None:
    BYTES.decode(ids).encode()


def test_a_row_is_read_from_behind_its_first_end_to_the_next() -> None:
    end = BYTES.end
    assert BYTES.decode([end, 72, 105, end, 88, end]) == "Hi"
    assert BYTES.decode([72, 105, end, end]) == "Hi"
    assert BYTES.decode([end, end, 72]) == BYTES.decode([end]) == BYTES.decode([]) == ""


def test_half_a_character_is_shown_as_what_it_is() -> None:
    assert BYTES.decode([97, 0xC3]) == "a\ufffd"
    assert BYTES.decode([0xA9, 98]) == "\ufffdb"
    assert BYTES.decode([0xE2, 0x82, 98]) == "\ufffdb"


@pytest.mark.parametrize("tokenizer", [BYTES, ABC])
def test_a_lone_surrogate_is_named_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at character 2"):
        tokenizer.encode("ab\ud800")


@pytest.mark.parametrize("tokenizer", [BYTES, ABC])
def test_a_tokenizer_travels_as_json(tokenizer: Tokenizer) -> None:
    kind: TypeAdapter[Tokenizer] = TypeAdapter(Tokenizer)
    assert kind.validate_json(kind.dump_json(tokenizer)) == tokenizer


@pytest.mark.parametrize("characters", ["", "ba", "aab"])
def test_a_vocabulary_out_of_order_is_refused(characters: str) -> None:
    with pytest.raises(ValidationError):
        CharacterTokens(characters=characters)


def test_nothing_is_learnt_from_nothing() -> None:
    with pytest.raises(AtelierError, match="holds no characters"):
        learn("characters", iter(["", ""]))
    assert learn("bytes", iter([])) == BYTES


def test_ids_are_whole_numbers() -> None:
    assert all(np.issubdtype(tokenizer.encode("abc").dtype, np.integer) for tokenizer in (BYTES, ABC))


@pytest.fixture(scope="module")
def pieces() -> PieceTokens:
    learnt = learn("bpe", iter(["the cat and the dog and the bird. " * 20, "naïve naïve café"]), vocabulary=300)
    assert isinstance(learnt, PieceTokens)
    return learnt


def test_pieces_are_learnt_from_what_comes_often_and_the_same_each_time(pieces: PieceTokens) -> None:
    assert 257 < pieces.size <= 300 and pieces.end == pieces.size - 1
    assert len(pieces.encode("the cat and the dog")) <= 6
    again = learn("bpe", iter(["the cat and the dog and the bird. " * 20, "naïve naïve café"]), vocabulary=300)
    assert again == pieces == TypeAdapter(Tokenizer).validate_json(pieces.model_dump_json())


@given(text=some.text())
def test_any_text_comes_back_from_its_pieces(pieces: PieceTokens, text: str) -> None:
    ids = pieces.encode(text)
    assert pieces.decode(ids) == text and not (ids == pieces.end).any()


@given(data=some.data())
@pytest.mark.parametrize("kind", ["bytes", "characters", "bpe"])
def test_a_row_told_piece_by_piece_is_the_row_told_whole(pieces: PieceTokens, kind: str, data: some.DataObject) -> None:
    tokenizer: Tokenizer = {"bytes": BYTES, "characters": ABC, "bpe": pieces}[kind]
    ids = data.draw(some.lists(some.integers(0, tokenizer.size - 1).filter(lambda token: token != tokenizer.end)))
    tell = tokenizer.pieces()
    assert "".join(map(tell, [*ids, tokenizer.end])) == tokenizer.decode(ids)


def test_merges_of_what_comes_later_are_refused() -> None:
    with pytest.raises(ValidationError, match="the token 257 merges 97 and 258"):
        PieceTokens(merges=((97, 98), (97, 258)))
