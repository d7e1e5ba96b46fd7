"""The one door of serving: a bundle's folder in, encoded samples out."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from components import bundle, controls, families, inspection, modalities
from components.contract import Batch, Sampler, Stepper, join
from components.errors import AtelierError
from components.records import Strict
from components.spelling import unknown
from components.store import digest_of

__all__ = ["Batch", "Ending", "Endpoint", "Writing", "join", "load"]

Ending = Literal["stop", "length", "content_filter"]  # the model ended the sample; its last token; what is blocked


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A loaded bundle: what it is called, what it may be asked, and how to ask it."""

    card: bundle.EndpointCard
    family: str
    modality: str
    media_type: str
    parameters: int
    controls: type[Strict]  # the public controls, typed: a request's schema
    spec: Any  # of its modality: what the samples look like, such as their size
    rows: int  # samples of one forward pass, which costs the same with fewer
    _sampler: Sampler[Any, Any]
    _family_controls: type[Strict]
    _codec: Any
    _device: str = "cpu"
    _inspector: inspection.Inspector | None = None

    @property
    def edits(self) -> bool:
        """Whether each sample is made from a row that is given, as by image to image."""
        return self._sampler.edits

    def sample(
        self,
        seeds: Sequence[int],
        requests: Sequence[Mapping[str, Any]] | None = None,
        given: Batch | None = None,
    ) -> Batch:
        """One row per seed as tensors; `requests` holds each row's public controls, the defaults where left out.

        `given` holds the row that each is made from where the model edits; a `ValueError` where it lacks or is there
        for nothing.
        """
        requests = [{}] * len(seeds) if requests is None else requests
        typed = [self._family_controls(**self.checked(asked)) for asked in requests]
        rows: Batch = self._sampler.sample(seeds, controls=typed, conditions=given)
        return rows

    @torch.inference_mode()
    def nats(self, rows: Batch, memory: Any = None) -> tuple[torch.Tensor, Any] | None:
        """How improbable real rows are to the model, as `Family.nats` tells it: [B] on the CPU, and a memory."""
        told = self._sampler.nats(rows.to(torch.device(self._device)), memory)
        return None if told is None else (told[0].cpu(), told[1])

    def generate(
        self,
        seeds: Sequence[int],
        requests: Sequence[Mapping[str, Any]] | None = None,
        given: Batch | None = None,
    ) -> list[bytes]:
        """One encoded sample per seed, in the media type of the modality."""
        return self.encode(self.sample(seeds, requests, given))

    def encode(self, rows: Batch) -> list[bytes]:
        """Each row in the media type of the modality, such as PNG."""
        encoded: list[bytes] = self._codec.encode(rows, spec=self.spec)
        return encoded

    def features(self, sample: bytes) -> dict[str, float]:
        """An encoded sample in a few numbers that say nothing of its contents, the same for every family."""
        told: dict[str, float] = modalities.part(self.modality, "features").features(sample)
        return told

    def read(self, payload: bytes) -> Batch:
        """What a caller gives, as one row to edit; a `ValueError` of one sentence where it cannot be read."""
        if not self.edits:
            raise AtelierError(f"{self.card.model} makes its samples from seeds alone, and takes nothing in")
        row: Batch = self._codec.read(payload, self.spec)
        return row

    @property
    def inspects(self) -> bool:
        """Whether a network looks at what it makes, and at what it is given."""
        return self._inspector is not None

    def shown(self, rows: Batch) -> list[tuple[str, ...]]:
        """What of the recipe's moderation each row shows, by its names; nothing where no network looks."""
        return [()] * len(rows) if self._inspector is None else self._inspector.shown(rows)

    def shown_by(self, samples: Sequence[bytes]) -> list[tuple[str, ...]]:
        """The same of samples as `encode` gives them."""
        return self.shown(join([self._codec.read(sample, self.spec) for sample in samples]))

    def example(self) -> Batch | None:
        """A row to try an editing model with, such as for warmth; None for one that takes none."""
        return self.read(self._codec.example(self.spec.model_dump())) if self.edits else None

    def writing(self) -> "Writing | None":
        """Slots in which samples are made piece by piece; None for a model that makes them whole."""
        stepper = self._sampler.stepper()
        if stepper is None:
            return None
        return Writing(stepper, self._family_controls, lambda: self._codec.pieces(self.spec), self.spec.tokenizer.end)

    def bucket(self, controls: Mapping[str, Any]) -> Hashable:
        """What rows must agree on to share a forward pass; `controls` as `checked` gives them."""
        return tuple(controls.get(name) for name in self._sampler.alike)

    def checked(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The public controls of one row, complete and in range; an `AtelierError` names the first mistake.

        A whole number may stand for a fraction. Nothing else is converted: neither "1.2" nor true is a number.
        """
        for name in asked:
            if name not in self.controls.model_fields:
                raise AtelierError(unknown("control", name, self.controls.model_fields))
        try:
            values = self.controls.model_validate(asked, strict=True).model_dump()
            for name, control in self.card.controls.items():
                _refuse_no_number(name, values[name])
                control.check(name, values[name])
            typed = self._family_controls(**values)
        except ValidationError as error:
            mistake = error.errors()[0]
            name = ".".join(map(str, mistake["loc"]))
            raise AtelierError(f"the control {name} is {mistake['input']!r}: {mistake['msg']}") from None
        except ValueError as error:
            raise AtelierError(f"the control {error}") from None
        self._sampler.refuse(typed)
        return values


class Writing:
    """Samples of one model that are made piece by piece; one joins or leaves between any two steps."""

    def __init__(
        self, stepper: Stepper[Any], controls: type[Strict], pieces: Callable[[], Callable[[int], str]], end: int
    ) -> None:
        self._stepper, self._controls, self._pieces, self._end = stepper, controls, pieces, end
        self._told: dict[int, Callable[[int], str]] = {}

    @property
    def free(self) -> int:
        """Slots without a sample."""
        return self._stepper.free

    @property
    def taken(self) -> int:
        """Slots with one."""
        return len(self._told)

    def admit(self, seed: int, controls: Mapping[str, Any]) -> int:
        """The slot of a new sample; `controls` as `Endpoint.checked` gives them."""
        slot = self._stepper.admit(seed, self._controls(**controls))
        self._told[slot] = self._pieces()
        return slot

    def evict(self, slot: int) -> None:
        """Free a slot whose sample nobody waits for any more."""
        self._stepper.evict(slot)
        del self._told[slot]

    def step(self) -> list[tuple[int, str, Ending | None]]:
        """The next piece of every sample by its slot, which may be empty, and how it ended, which frees the slot."""
        steps: list[tuple[int, str, Ending | None]] = []
        for slot, token, last in self._stepper.step():
            piece = self._told[slot](token)
            if not last:
                steps.append((slot, piece, None))
                continue
            ended = token == self._end
            rest = "" if ended else self._told[slot](self._end)
            del self._told[slot]
            steps.append((slot, piece + rest, "stop" if ended else "length"))
        return steps


def _refuse_no_number(name: str, value: Any) -> None:
    """Raise a `ValueError` for NaN and the infinities, which no comparison with a bound keeps out for sure."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be a finite number")


def load(directory: Path, *, digest: str | None = None, device: str | None = None) -> Endpoint:
    """The endpoint of a bundle; its bytes are checked against `digest`, where given, before any is parsed.

    It draws on `device`: where none is named, on the GPU if there is one. On another device the same seed is another
    sample by a rounding.
    """
    if digest is not None and (found := digest_of(directory)) != digest:
        raise AtelierError(
            f"the bundle in {directory} does not match its digest: {found} instead of {digest}. Its bytes were "
            "changed or lost; bring it back with `atelier restore`, and do not serve what lies there."
        )
    model, endpoint = bundle.read(directory)
    family = families.get(model.family)
    batch, codec = modalities.part(model.modality, "batch"), modalities.part(model.modality, "codec")
    try:
        spec = batch.SPEC.model_validate(model.spec)
        sampler = family.Model.restore(
            family.Config.model_validate(model.config),
            spec,
            directory / "model.safetensors",
        )
    except (RuntimeError, ValidationError) as error:
        raise AtelierError(
            f"the weights of {endpoint.model} in {directory} do not fit the code of {model.family!r} as it is now: "
            f"{' '.join(str(error).split())}. Give what changed a family name of its own, or undo it."
        ) from None
    there = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Endpoint(
        card=endpoint,
        family=model.family,
        modality=model.modality,
        media_type=codec.MEDIA_TYPE,
        parameters=sum(parameter.numel() for parameter in sampler.parameters()),
        controls=controls.schema(endpoint.controls),
        spec=spec,
        rows=sampler.rows,
        _sampler=sampler.to(there),
        _family_controls=family.Controls,
        _codec=codec,
        _device=there,
        _inspector=inspection.of_bundle(endpoint.moderation.images, directory),
    )
