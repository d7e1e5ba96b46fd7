"""What the families of text share in their contract tests: rows of a small corpus, and drawing at a fixed width."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from components.contract import Batch
from components.controls import PublicControl
from components.decoding import Decoder
from components.errors import AtelierError
from components.modalities.text.batch import TextSpec, Tokens
from components.modalities.text.tokenizers import CharacterTokens
from tests.components.families.family_contract import FamilyContract

LETTERS = CharacterTokens(characters="\n abcdefgh")
CONTEXT = 12


class Letters:
    """An encoder of texts whose features are how often each token stands there; class 1 has many of the first half."""

    def features(self, batch: Any) -> torch.Tensor:
        return torch.nn.functional.one_hot(batch.tokens, LETTERS.size).float().mean(dim=1)

    def labels(self, features_BD: torch.Tensor) -> torch.Tensor:
        return (features_BD[:, : LETTERS.size // 2].sum(dim=1) > 0.5).long()


class TextFamilyContract(FamilyContract):
    """The contract, and what a family that writes token by token adds to it."""

    spec = TextSpec(tokenizer=LETTERS, context=CONTEXT)
    falling = "main/loss"
    alarm = Letters()
    public: ClassVar[tuple[str, PublicControl, Any]] = ("temperature", PublicControl(default=1.0, at_most=2.0), 0.0)

    def real(self, count: int) -> Tokens:
        """Rows of a tune of seven letters, each where it stands in a stream."""
        stream = torch.tensor(LETTERS.encode("abcdefg" * 100))
        places = torch.arange(count) * CONTEXT
        return Tokens(stream[places[:, None] + torch.arange(CONTEXT + 1)], places)

    def build(self, seed: int = 0) -> Any:
        """Networks of some spread: those that begin at zero write the same whatever they read."""
        family = super().build(seed)
        for weights in family.parameters():
            if weights.ndim > 1 and not weights.any():
                torch.nn.init.normal_(weights, std=0.3)
        return family

    def sharp(self) -> Any:
        """A model that minds what it reads, as no fresh one does, and hardly ever ends a text."""
        family = self.build().eval()
        with torch.no_grad():
            for weights in family.network.parameters():
                weights.mul_(3.0)
            if hasattr(family.network, "bias"):
                family.network.bias[LETTERS.end] = -20.0
        return family

    def draw(self, family: Any, seeds: Sequence[int], rows: Sequence[int] | None = None, **controls: Any) -> Batch:
        """Texts of at most 20 tokens, filled up to that width, which is else that of the longest."""
        return widened(super().draw(family, seeds, rows, **{"max_tokens": 20, **controls}))

    def text(self, family: Any, seed: int, **controls: Any) -> str:
        (row,) = family.sample([seed], controls=[self.control(**controls)]).tokens.numpy()
        return str(LETTERS.decode(row))

    def test_a_saved_model_samples_the_same_through_the_door_of_serving(self, tmp_path: Any) -> None:
        import json

        from components import bundle, sampling

        family = self.build().eval()
        family.save(tmp_path)
        controls = {"max_tokens": {"default": 20}}
        (tmp_path / "endpoint.json").write_text(json.dumps({"model": "m", "controls": controls}))
        assert bundle.read(tmp_path)[1].model == "m"
        drawn = widened(sampling.load(tmp_path).sample([5, 6]))
        assert torch.equal(drawn.tokens, self.draw(family, [5, 6]).tokens)

    def test_one_more_token_is_foretold_as_by_reading_them_all(self) -> None:
        """The memory that decoding keeps stands for all that was read, in any slot, however much that is."""
        family, tokens = self.build().eval(), self.real(1).tokens[0]
        with torch.inference_mode():
            for length in (1, 2, CONTEXT - 1, CONTEXT):
                whole = family.network(tokens[None, :length])
                whole = whole[0] if isinstance(whole, tuple) else whole
                memory = family.memory(family.rows)
                family.read(memory, 2, tokens[: length - 1])
                pending = torch.full((family.rows,), int(tokens[length - 1]))
                torch.testing.assert_close(family.advance(memory, pending)[2], whole[0, -1], atol=1e-5, rtol=1e-4)

    def test_rows_are_as_improbable_as_the_loss_says(self) -> None:
        family, rows = self.build().eval(), self.real(4)
        nats, _ = family.nats(rows)
        loss = family.loss("main", rows, step=0, generator=torch.Generator()).total
        assert nats.shape == (4,)
        assert nats.sum().item() / (4 * CONTEXT) == pytest.approx(loss.item(), rel=1e-5)

    def test_a_text_goes_on_from_its_prompt_though_others_are_written_beside_it(self) -> None:
        family = self.sharp()
        alone = self.text(family, 3, prompt="abc", max_tokens=9)
        controls = [self.control(prompt=prompt, max_tokens=9) for prompt in ("", "abc", "h" * 40)]
        rows = family.sample([1, 3, 5], controls=controls).tokens.numpy()
        assert LETTERS.decode(rows[1]) == alone
        assert self.text(family, 3, prompt="cba", max_tokens=9) != alone

    def test_more_texts_than_slots_and_longer_ones_than_the_model_looks_back_on_are_written(self) -> None:
        family = self.sharp()
        count = 2 * family.rows + 3
        controls = [self.control(max_tokens=5 * CONTEXT + seed % 3) for seed in range(count)]
        rows = family.sample(range(count), controls=controls).tokens
        assert rows.shape[0] == count and rows.shape[1] > 2 * CONTEXT
        assert LETTERS.decode(rows[7].numpy()) == self.text(family, 7, max_tokens=5 * CONTEXT + 1)

    def test_temperature_0_and_a_single_choice_take_the_likeliest_token(self) -> None:
        family = self.build().eval()
        greedy = self.text(family, 1, temperature=0.0, max_tokens=15)
        assert greedy == self.text(family, 2, temperature=0.0, max_tokens=15)
        assert greedy == self.text(family, 3, top_k=1, max_tokens=15)
        assert greedy == self.text(family, 4, top_p=1e-6, max_tokens=15)
        assert len({self.text(family, seed, max_tokens=15) for seed in range(5)}) > 1

    def test_a_penalty_keeps_tokens_from_coming_back(self) -> None:
        family = self.build().eval()
        written = self.text(family, 1, repetition_penalty=10.0, temperature=0.0, max_tokens=4)
        assert len(set(written)) == len(written)

    def test_no_text_is_empty_and_no_unknown_token_is_written(self) -> None:
        family = self.build().eval()
        rows = family.sample(range(64), controls=[self.control(max_tokens=3)] * 64).tokens
        assert (rows[:, 0] != LETTERS.end).all() and (rows != LETTERS.unknown).all()

    def test_an_evicted_text_leaves_no_trace(self) -> None:
        family = self.build().eval()
        decoder = Decoder(family)
        first = decoder.admit(1, self.control(prompt="abc", max_tokens=50))
        for _ in range(3):
            decoder.step()
        decoder.evict(first)
        assert decoder.free == family.rows
        second = decoder.admit(3, self.control(max_tokens=9))
        written = [token for _ in range(9) for slot, token, _ in decoder.step() if slot == second]
        assert LETTERS.decode(np.array(written)) == self.text(family, 3, max_tokens=9)

    @pytest.mark.parametrize(
        ("prompt", "named"), [("abXcYX", "'X' (U+0058), 'Y' (U+0059)"), ("a\ud800", "lone surrogate U+D800")]
    )
    def test_a_prompt_that_cannot_be_read_is_refused(self, prompt: str, named: str) -> None:
        with pytest.raises(AtelierError) as refused:
            self.build().refuse(self.control(prompt=prompt))
        assert named in str(refused.value)


def widened(rows: Batch) -> Tokens:
    assert isinstance(rows, Tokens)
    return Tokens(torch.nn.functional.pad(rows.tokens, (0, 20 - rows.tokens.shape[1]), value=LETTERS.end))
