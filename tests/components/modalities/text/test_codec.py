import torch

from components.closure import closure
from components.modalities.text import codec
from components.modalities.text.batch import TextSpec, Tokens
from components.modalities.text.tokenizers import ByteTokens, CharacterTokens


def test_rows_of_bytes_become_utf8_up_to_their_end() -> None:
    spec = TextSpec(tokenizer=ByteTokens(), context=4)
    rows = torch.tensor([[256, 0xC3, 0xA9, 256, 65], [65, 66, 0xE2, 0x82, 256]])
    assert codec.encode(Tokens(rows), spec) == ["é".encode(), "AB\ufffd".encode()]
    assert codec.MEDIA_TYPE == "text/plain; charset=utf-8" and codec.SUFFIX == ".txt"


def test_rows_of_characters_are_written_with_the_vocabulary_of_the_spec() -> None:
    spec = TextSpec(tokenizer=CharacterTokens(characters="abcé"), context=4)
    assert codec.encode(Tokens(torch.tensor([[3, 0, 5, 4, 1]])), spec) == ["éa\ufffd".encode()]
    again = TextSpec.model_validate(spec.model_dump(mode="json"))
    assert again == spec and again.vocabulary == 6


def test_serving_needs_none_of_the_platforms_libraries() -> None:
    reached = closure(["components.modalities.text.codec"])
    assert reached.versions().keys() == {"numpy", "pydantic", "safetensors", "tokenizers", "torch"}
