"""Named changes of training sounds, each drawn anew for every batch. B batch, T samples.

A step is one mapping of a recipe: `{gain: 6}`, up to that many dB louder or softer, and `{shift: 0.1}`, up to that many
seconds later. Neither loses sound: nothing is made so loud that it clips, nor moved out of its window.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from pydantic import JsonValue

from components.modalities.audio.batch import Waves
from components.spelling import unknown

Step = Callable[[Waves, torch.Generator], Waves]


class Augment:
    """The steps of a recipe in order; all randomness comes from the generator that a call brings."""

    def __init__(self, steps: Sequence[Mapping[str, JsonValue]], *, rate: int) -> None:
        self._steps = [_parse(step, rate) for step in steps]

    def __call__(self, waves: Waves, generator: torch.Generator) -> Waves:
        for step in self._steps:
            waves = step(waves, generator)
        return waves


def _parse(step: Mapping[str, JsonValue], rate: int) -> Step:
    """The function of one step; a `ValueError` names what it takes."""
    if len(step) != 1:
        raise ValueError(f"each augment step is one name and one value, as in {{gain: 6}}, not {dict(step)}")
    ((name, value),) = step.items()
    if name not in STEPS:
        raise ValueError(unknown("augment step", name, STEPS))
    most, unit, make = STEPS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ValueError(f"{name} is {value!r}; it takes a number over 0 and up to {most} {unit}")
    return make(value, rate)


def _gain(decibels: float, rate: int) -> Step:
    """By up to that much either way, evenly in dB, as far as the row's peak leaves room."""

    def apply(waves: Waves, generator: torch.Generator) -> Waves:
        drawn_B = (2 * torch.rand(len(waves), generator=generator) - 1) * decibels
        room_B = 1 / waves.samples.abs().amax(dim=1).clamp(min=1e-9)
        factor_B = torch.minimum(10 ** (drawn_B / 20), room_B)
        return replace(waves, samples=waves.samples * factor_B[:, None])

    return apply


def _shift(seconds: float, rate: int) -> Step:
    """Later by up to that much, with silence before it, as far as the row's window has room.

    A row that was moved continues none any more, so that `places` are left out.
    """

    def apply(waves: Waves, generator: torch.Generator) -> Waves:
        width = waves.samples.shape[1]
        room_B = (width - waves.lengths).clamp(max=round(seconds * rate))
        offset_B = (torch.rand(len(waves), generator=generator) * (room_B + 1)).long().clamp(max=room_B)
        source_BT = torch.arange(width) - offset_B[:, None]
        moved_BT = waves.samples.gather(1, source_BT.clamp(min=0)).masked_fill(source_BT < 0, 0)
        return replace(waves, samples=moved_BT, lengths=waves.lengths + offset_B, places=None)

    return apply


STEPS: Mapping[str, tuple[int, str, Callable[[float, int], Step]]] = {
    "gain": (24, "dB", _gain),
    "shift": (60, "seconds", _shift),
}
