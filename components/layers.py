"""The few pieces that families use identically. B batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALL = 2**20  # multiplications below which what a call adds is more than what it saves


def seeded_normal(seeds: Sequence[int], *shape: int) -> Tensor:
    """Standard normal noise [B, *shape] on the CPU; row i comes from seed i alone."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def normal_like(reference: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard normal noise of that shape on the reference's device, drawn where the generator lives."""
    return torch.randn(*shape, generator=generator, device=generator.device).to(reference.device)


@torch.no_grad()
def average_into(average: nn.Module, current: nn.Module, *, decay: float) -> None:
    """Move an exponential moving average of weights one step; buffers are copied as they are."""
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(current.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
    for mine, other in zip(average.buffers(), current.buffers(), strict=True):
        mine.copy_(other)


def product(inputs: Tensor, weights: Tensor) -> Tensor:
    """Inputs [..., I] times weights [O, I] as `F.linear` gives them, by whatever is faster here.

    On a CPU torch hands float32 to MKL, which uses half the width of the vectors of AMD's: oneDNN takes half the time.
    """
    multiply: Callable[..., Tensor] = _ByOneDnn.apply if _suits(inputs, weights) else F.linear
    return multiply(inputs, weights)


class Product(nn.Linear):
    """A linear layer without a bias whose products are those of `product`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return product(inputs, self.weight)


class _ByOneDnn(torch.autograd.Function):
    """A product by oneDNN, and those of its slopes."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weights)
        return _multiplied(inputs, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        (inputs, weights), (slope,) = ctx.saved_tensors, slopes
        flat_NO, flat_NI = slope.flatten(0, -2), inputs.flatten(0, -2)
        return _multiplied(slope, weights.T), _multiplied(flat_NO.T, flat_NI.T)


def _multiplied(inputs: Tensor, weights: Tensor) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weights, None, "none", [], "")
    return made


def _suits(inputs: Tensor, weights: Tensor) -> bool:
    """Whether oneDNN is there, and the product large enough and of float32."""
    if inputs.device.type != "cpu" or inputs.numel() * len(weights) < SMALL or torch.is_autocast_enabled("cpu"):
        return False
    has: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has and inputs.dtype == weights.dtype == torch.float32
