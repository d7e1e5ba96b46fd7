"""What a generator family promises: `Family` to training, `Sampler` to serving.

B rows of a batch. Every other shape is said in the docstring of its type.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from components.records import Strict

BUNDLE_FORMAT = 1
AVERAGED = (
    "network",
    "generator",
    "generators",
)  # what families call the network of which `average` is a moving average


class Config(Strict):
    """Architecture, loss and optimizer settings of one family."""


class Controls(Strict):
    """Sampling-time knobs of one family, with their ranges."""


class Spec(Strict):
    """The facts about prepared data that a network is built around."""

    @property
    def gives(self) -> bool:
        """Whether samples are made from rows that are given, such as degraded pictures to restore."""
        return False

    def given(self, rows: "Batch") -> "Batch | None":
        """What a model is given to make such rows from; None where it makes them from seeds alone."""
        return None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one modality; real rows and generated ones share the type. Tensors are [B, ...]."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same batch with every tensor changed; absent ones stay absent."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if value is not None})

    def to(self, device: torch.device) -> Self:
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, index: slice | Tensor) -> Self:
        return self.map(lambda tensor: tensor[index])

    def __len__(self) -> int:
        return len(next(value for field in fields(self) if (value := getattr(self, field.name)) is not None))


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimizer update inside a training step, made at every `every`-th step."""

    name: str
    optimizer: str
    every: int = 1
    clip_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """The scalar to minimise, and the named scalars to plot."""

    total: Tensor
    parts: Mapping[str, Tensor]


C = TypeVar("C", bound=Config)
K = TypeVar("K", bound=Controls)
S = TypeVar("S", bound=Spec)
B = TypeVar("B", bound=Batch)
B_co = TypeVar("B_co", bound=Batch, covariant=True)
K_contra = TypeVar("K_contra", bound=Controls, contravariant=True)


class Sampler(Protocol[B_co, K_contra]):
    """All that serving may know of a family."""

    modality: ClassVar[str]
    edits: ClassVar[bool]
    alike: ClassVar[tuple[str, ...]]

    consecutive: ClassVar[bool]

    def sample(
        self, seeds: Sequence[int], *, controls: Sequence[K_contra], conditions: Batch | None = None
    ) -> B_co: ...

    def refuse(self, controls: K_contra) -> None: ...

    def nats(self, rows: Any, memory: Any = None) -> tuple[Tensor, Any] | None: ...

    def stepper(self) -> "Stepper[K_contra] | None": ...


class Stepper(Protocol[K_contra]):
    """Samples that are made a token at a time, each in a slot of its own: one joins or leaves between two steps."""

    @property
    def free(self) -> int:
        """Slots without a sample."""

    def admit(self, seed: int, controls: K_contra) -> int:
        """The slot in which a sample is begun; a `ValueError` where none is free."""

    def evict(self, slot: int) -> None:
        """Free a slot whose sample nobody waits for any more."""

    def step(self) -> Sequence[tuple[int, int, bool]]:
        """The next token of every sample by its slot, and whether it is the last, which frees the slot."""


class Family(nn.Module, ABC, Generic[C, K, S, B]):
    """One way to generate: networks, optimizers, the phases of a step, their losses, and sampling."""

    modality: ClassVar[str]
    served: ClassVar[tuple[str, ...]]  # the sub-modules that sampling needs: the rest stays behind
    edits: ClassVar[bool] = False  # whether each sample is made from a given row, in `conditions`
    rows: ClassVar[int] = 8  # every forward pass of sampling runs at this many rows
    alike: ClassVar[tuple[str, ...]] = ()  # controls on which they must agree, as on a number of steps
    consecutive: ClassVar[bool] = False  # whether rows go on where those of the step before ended, to carry state

    def __init__(self, config: C, spec: S) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @abstractmethod
    def optimizers(self) -> Mapping[str, Optimizer]: ...

    def phases(self) -> Sequence[Phase]:
        return (Phase("main", optimizer="main"),)

    def differentiated_twice(self) -> Sequence[str]:
        """The networks whose gradients are part of a loss, as in a penalty on them: torch.compile cannot take those."""
        return ()

    @abstractmethod
    def loss(self, phase: str, batch: B, *, step: int, generator: torch.Generator) -> Loss:
        """The loss of one phase; all its noise is drawn from `generator`, on that generator's device."""

    def refuse(self, controls: K) -> None:
        """Raise an `AtelierError` where this model, built for its data, cannot honour such controls."""

    def nats(self, rows: B, memory: Any = None) -> tuple[Tensor, Any] | None:
        """How improbable rows are to the model, in nats [B] over all that it predicts of each; None where none can say.

        With it comes what the model remembers of them: the `memory` for rows that go on where these end.
        """
        return None

    def stepper(self) -> "Stepper[K] | None":
        """Slots in which samples are made a token at a time; None where they are made whole."""
        return None

    def after_step(self, step: int) -> None:
        """What follows a step outside of its gradients, such as a moving average."""

    @abstractmethod
    def draw(self, seeds: Sequence[int], controls: Sequence[K], conditions: Batch | None) -> B:
        """Exactly `rows` samples; row i depends on entry i of each argument only."""

    @torch.inference_mode()
    def sample(self, seeds: Sequence[int], *, controls: Sequence[K], conditions: Batch | None = None) -> B:
        """One sample per seed, on the CPU, equal to the byte whoever else is in the batch.

        Rows run padded to a fixed shape, since a kernel may round otherwise at another one. `conditions` holds the
        row that each sample is made from, where the family edits; others are given none.
        """
        self._refuse_unpaired(seeds, controls, conditions)
        device = next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))
        batches = []
        for start in range(0, len(seeds), self.rows):
            kept = range(start, min(start + self.rows, len(seeds)))
            index = [*kept] + [start] * (self.rows - len(kept))
            given = None if conditions is None else conditions.rows(torch.tensor(index)).to(device)
            drawn = self.draw([seeds[i] for i in index], [controls[i] for i in index], given)
            batches.append(drawn.rows(slice(len(kept))))
        return join(batches).to(torch.device("cpu"))

    def _refuse_unpaired(self, seeds: Sequence[int], controls: Sequence[K], conditions: Batch | None) -> None:
        if len(seeds) != len(controls):
            raise ValueError(f"{len(seeds)} seeds but {len(controls)} controls; give one of each per sample")
        if self.edits and (conditions is None or len(conditions) != len(seeds)):
            rows = 0 if conditions is None else len(conditions)
            raise ValueError(f"{len(seeds)} samples are asked for and {rows} rows given; give one to make each from")
        if not self.edits and conditions is not None:
            raise ValueError("this family makes its samples from seeds alone, and rows were given")

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Start from what `save` wrote of a model of this family; a `ValueError` where it has other weights.

        A network whose moving average is served starts from that too; what is not served starts afresh.
        """
        own = self.state_dict()
        served = {name: value for name, value in own.items() if name.split(".")[0] in self.served}
        shapes = [{name: tuple(value.shape) for name, value in each.items()} for each in (served, weights)]
        if shapes[0] != shapes[1]:
            other = sorted(name for name in {*served, *weights} if shapes[0].get(name) != shapes[1].get(name))
            told = ", ".join(f"{name} {shapes[1].get(name)} where this has {shapes[0].get(name)}" for name in other[:3])
            raise ValueError(f"{len(other)} weights are others: {told}")
        trained = {
            f"{twin}.{rest}": value
            for name, value in weights.items()
            for part, _, rest in [name.partition(".")]
            for twin in AVERAGED
            if part == "average" and f"{twin}.{rest}" in own
        }
        self.load_state_dict({**own, **weights, **trained})

    def save(self, directory: Path) -> None:
        """Write `model.safetensors` and `config.json` with only what is served."""
        weights = {k: v.contiguous() for k, v in self.state_dict().items() if k.split(".")[0] in self.served}
        card = {
            "format": BUNDLE_FORMAT,
            "family": type(self).__module__.rsplit(".", 1)[-1],
            "modality": self.modality,
            "config": self.config.model_dump(mode="json"),
            "spec": self.spec.model_dump(mode="json"),
            **({"edits": True} if self.edits else {}),
        }
        save_file(weights, directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")

    @classmethod
    def restore(cls, config: C, spec: S, weights: Path) -> Self:
        """The family as served: what `save` wrote, in evaluation mode."""
        family = cls(config, spec)
        for name in [name for name, _ in family.named_children() if name not in cls.served]:
            delattr(family, name)
        family.load_state_dict(load_file(weights), strict=True)
        return family.eval()


def join(batches: Sequence[B]) -> B:
    """The rows of all batches in order; all must carry the same tensors."""
    first = batches[0]
    present = [field.name for field in fields(first) if getattr(first, field.name) is not None]
    return replace(first, **{name: torch.cat([getattr(batch, name) for batch in batches]) for name in present})
