"""Products are those of `F.linear`, whoever makes them, and so are their slopes."""

import pytest
import torch
from torch.nn import functional as F

from components import layers
from components.layers import product


@pytest.mark.parametrize("shape", [(48, 64), (4, 12, 64), (1, 64)])
def test_a_product_and_its_slopes_are_those_of_linear(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "SMALL", 0)
    found = []
    for multiply in (product, F.linear):
        chance = torch.Generator().manual_seed(0)
        inputs, weights = torch.randn(shape, generator=chance), torch.randn(40, 64, generator=chance)
        made = multiply(inputs.requires_grad_(), weights.requires_grad_())
        made.square().sum().backward()
        found.append([made, inputs.grad, weights.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_a_large_product_is_made_multiplied_and_a_small_or_rounded_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Size] = []
    multiplied = layers._multiplied
    monkeypatch.setattr(layers, "_multiplied", lambda *given: made.append(given[0].shape) or multiplied(*given))
    weights = torch.ones(256, 256)
    assert torch.equal(product(torch.ones(16, 256), weights), torch.full((16, 256), 256.0))
    assert made == ([torch.Size([16, 256])] if torch.backends.mkldnn.is_available() else [])
    made.clear()
    product(torch.ones(15, 256), weights)
    product(torch.ones(16, 256).double(), weights.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert product(torch.ones(16, 256), weights).dtype == torch.bfloat16
    assert not made


def test_a_row_of_a_product_hangs_on_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What texts written together rely on."""
    monkeypatch.setattr(layers, "SMALL", 0)
    chance = torch.Generator().manual_seed(0)
    weights = torch.randn(96, 64, generator=chance)
    for count in (3, 16):
        one, other = torch.randn(2, count, 64, generator=chance)
        other[1] = one[1]
        assert torch.equal(product(one, weights)[1], product(other, weights)[1])
