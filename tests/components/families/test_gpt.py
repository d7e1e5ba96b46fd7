import math

import pytest
import torch
from pydantic import ValidationError

from components.families import gpt
from tests.components.families.text_rows import LETTERS, TextFamilyContract


class TestGpt(TextFamilyContract):
    family = "gpt"
    config = {"layers": 2, "heads": 2, "width": 16}

    def test_a_fresh_model_is_undecided(self) -> None:
        """Its blocks begin as the identity, so that the loss of any row is nearly the logarithm of the vocabulary."""
        fresh = gpt.Model(gpt.Config(layers=3, heads=2, width=64), self.spec)
        loss = fresh.loss("main", self.real(8), step=0, generator=torch.Generator()).total
        assert loss.item() == pytest.approx(math.log(LETTERS.size), abs=0.3)

    def test_no_token_knows_what_comes_after_it(self) -> None:
        family, tokens = self.build().eval(), self.real(2).tokens[:, :-1]
        changed = tokens.clone()
        changed[:, 7:] = (changed[:, 7:] + 1) % LETTERS.size
        one, other = family.network(tokens), family.network(changed)
        torch.testing.assert_close(one[:, :7], other[:, :7])
        assert not torch.allclose(one[:, 7:], other[:, 7:])

    def test_a_turn_changes_no_length_and_only_distance_counts(self) -> None:
        angle = gpt.rotations(20, 8)
        query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
        turned = [gpt.turned(value[None], angle.cos(), angle.sin()) for value in (query, key)]
        assert turned[0].norm(dim=1).tolist() == pytest.approx([query.norm().item()] * 20, rel=1e-5)
        products = [(turned[0][at + 3] @ turned[1][at]).item() for at in range(17)]
        assert products == pytest.approx([products[0]] * 17, rel=1e-4, abs=1e-5)

    @pytest.mark.parametrize(("preset", "weights"), [("tiny", 0.8e6), ("small", 10.7e6), ("124M", 85e6)])
    def test_presets_have_the_sizes_that_they_are_known_for(self, preset: str, weights: float) -> None:
        with torch.device("meta"):
            model = gpt.Model(gpt.Config(preset=preset), self.spec)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(weights, rel=0.03)

    def test_what_is_given_stands_over_the_preset(self) -> None:
        config = gpt.Config(preset="small", layers=2)
        assert (config.layers, config.heads, config.width) == (2, 6, 384)
        assert gpt.Config.model_validate(config.model_dump()) == config

    def test_heads_that_do_not_divide_the_width_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="width 20 must be a multiple of twice the heads, 8"):
            gpt.Config(width=20, heads=4)
