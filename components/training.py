"""One loop for every family: each step runs the family's phases in order."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer

from components import alarms, checkpoint, encoders, families, loading, modalities
from components.contract import Batch, Family, Loss, Phase, Spec
from components.controls import PublicControl
from components.errors import AtelierError
from components.recipe import Candidate, Recipe, Train
from components.records import Artifact, Beginning, Shards, Trained
from components.store import Store

POINTS = 200  # readings of the losses over a run: each waits for the device
AnyFamily = Family[Any, Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """A reading: steps done and to do, the rate in rows a second, seconds left, and the losses by `phase/part`."""

    step: int
    steps: int
    samples_per_second: float
    seconds_left: float
    losses: Mapping[str, float]


Report = Callable[[Progress], None]


class Stopped(Exception):
    """Training was told to stop; its checkpoint holds all that was done."""


@dataclass(frozen=True)
class Signs:
    """What a loop tells while it runs, and what it asks."""

    report: Report = lambda progress: None
    alive: Callable[[int], None] = lambda step: None
    stop: Callable[[], bool] = lambda: False


def refuse_unfit(
    recipe: Recipe, shards: Shards, beginnings: Mapping[str, Beginning] | None = None, *, store: Store | None = None
) -> None:
    """Raise an `AtelierError` where a candidate cannot be built for the prepared data, before any is trained.

    `beginnings` are the versions, in `store`, from which candidates go on, by their names.
    """
    for name, candidate in recipe.candidates.items():
        with torch.device("meta"):
            try:
                family = build(candidate, _spec(recipe.modality, shards))
                if beginnings and store and name in beginnings:
                    _begin(family, candidate, beginnings[name], store)
                for controls in _public(recipe.controls):
                    family.refuse(families.get(candidate.family).Controls.model_validate(controls))
            except AtelierError as error:
                raise AtelierError(f"candidates.{name}: {error}") from None


def train(
    name: str,
    candidate: Candidate,
    shards: Shards,
    *,
    job: str,
    modality: str,
    store: Store,
    checkpoints: Path,
    report: Report,
    encoder: Artifact | None = None,
    beginning: Beginning | None = None,
    alive: Callable[[int], None] = lambda step: None,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train one candidate on the training rows, from its last checkpoint where a run was cut off.

    `job` names what is trained, code and all: a checkpoint of another job is left alone, and of two processes with
    the same job the second waits. `alive` hears of every step; where `stop` says so, the loop saves a checkpoint and
    raises `Stopped`. The checkpoint stays: whoever keeps the record clears it. With an `encoder` the variety of samples
    is watched. `beginning` is the version whose weights it starts from.
    """
    kept, signs = checkpoints / job, Signs(report, alive, stop)
    settings = candidate.train
    torch.manual_seed(loading.seed_of(settings.seed, "initial weights"))
    family = build(candidate, _spec(modality, shards))
    if beginning is not None:
        _begin(family, candidate, beginning, store)
    parameters = sum(parameter.numel() for parameter in family.parameters() if parameter.requires_grad)
    part = modalities.part(modality, "shards")
    with checkpoint.held(kept):
        variety = _variety(candidate, family, shards, encoder, modality=modality, store=store)
        loop = Loop(family, settings, job=job, checkpoints=kept, signs=signs, variety=variety)
        split = part.open_split(store.path(shards.shards), "train")
        augment = part.open_augment(store.path(shards.shards))
        stopped = loop.run(lambda start: batches(family, split, settings, start=start, augment=augment))
        with store.writing("weights") as weights:
            family.eval().cpu().save(weights.directory)
        with store.writing("curves") as curves:
            (curves.directory / "curves.json").write_text(json.dumps(loop.curves))
    return Trained(
        candidate=name,
        family=candidate.family,
        weights=weights.artifact,
        curves=curves.artifact,
        seed=settings.seed,
        steps=loop.step,
        seconds=round(loop.seconds, 3),
        samples_per_second=round(loop.step * settings.batch_size / loop.seconds, 1),
        parameters=parameters,
        stopped="budget" if stopped else "time_limit",
        begun=None if beginning is None else beginning.name,
        warnings=tuple(loop.warnings),
    )


def batches(
    family: AnyFamily, split: loading.Split, settings: Train, *, start: int, augment: loading.Augment | None
) -> Iterator[Batch]:
    """The rows of every step from `start` on: in a fresh order each epoch, or as they follow on one another."""
    if family.consecutive:  # rows that are changed, each in its own way, would follow on nothing
        return loading.reading_on(split, size=settings.batch_size, start=start)
    return loading.batches(split, size=settings.batch_size, seed=settings.seed, start=start, augment=augment)


def _begin(family: AnyFamily, candidate: Candidate, beginning: Beginning, store: Store) -> None:
    """Take over the weights of a version; an `AtelierError` where they are those of another network."""
    if beginning.family != candidate.family:
        raise AtelierError(
            f"init: {beginning.name} is of the family {beginning.family!r}, not {candidate.family!r}. Name a version "
            "of that family, or leave init out."
        )
    weights = load_file(store.path(beginning.bundle) / "model.safetensors")
    try:
        family.begin(weights)
    except ValueError as error:
        raise AtelierError(
            f"init: {beginning.name} cannot be gone on from, {error}. Give the candidate the config that it was made "
            "with (`atelier show` tells it), and data of the same kind."
        ) from None


def _variety(
    candidate: Candidate, family: AnyFamily, shards: Shards, encoder: Artifact | None, *, modality: str, store: Store
) -> alarms.Variety | None:
    if encoder is None:
        return None
    return alarms.Variety.of(
        modalities.part(modality, "shards").open_split(store.path(shards.shards), "train"),
        cast(alarms.Encoder, encoders.load(encoder, shards.spec, modality=modality, store=store)),
        classes=len(shards.validated.dataset.classes),
        controls=families.get(candidate.family).Controls(),
        spec=family.spec,
    )


def build(candidate: Candidate, spec: Spec) -> AnyFamily:
    """The candidate's networks, freshly initialised from torch's global generator.

    An `AtelierError` where the data give rows to change and the family takes none, or the other way round.
    """
    module = families.get(candidate.family)
    _refuse_other_task(candidate.family, module.Model, spec)
    return module.Model(module.Config.model_validate(candidate.config), spec)


@dataclass
class Loop:
    """The training loop: its place, its curves (`phase/part`: step, unix seconds, value) and its pace."""

    family: AnyFamily
    settings: Train
    job: str = ""
    checkpoints: Path | None = None
    signs: Signs = Signs()
    step: int = 0
    seconds: float = 0.0
    curves: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)
    variety: alarms.Variety | None = None
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # it remembers the precision of the loop before
        self.accelerator = Accelerator(mixed_precision=_precision(self.settings))
        if self.accelerator.num_processes > 1:
            raise AtelierError("training runs in one process: start it without a launcher of several")
        self.family.to(self.accelerator.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizers = self.family.optimizers()
        for optimizer in self.optimizers.values():
            _fuse(optimizer)
        if _compiling(self.settings, self.accelerator.device):
            _compile(self.family)
        self.rates = {name: [group["lr"] for group in held.param_groups] for name, held in self.optimizers.items()}
        if self.checkpoints is not None:
            done = self._resumed(self.checkpoints)
            self.step, self.seconds, self.curves = done.step, done.seconds, done.curves or {}
        self.kept = self.step
        self.divergence = alarms.Divergence.of(self.curves)
        self.unread: dict[str, tuple[torch.Tensor, int]] = {}  # sums of each part since the last reading, on the device
        self.phases = self.family.phases()
        self.generator = torch.Generator(self.accelerator.device)

    def _resumed(self, checkpoints: Path) -> checkpoint.Progressed:
        try:
            return checkpoint.resume(checkpoints, self.job, self.family, self.optimizers)
        except (RuntimeError, ValueError) as error:  # names or shapes of weights, or of what an optimizer holds
            raise AtelierError(
                f"the checkpoint in {checkpoints} is of another family, config or spec than {_name(self.family)!r} "
                f"with {self.family.spec.model_dump(mode='json')}: {' '.join(str(error).split())[:400]}. Go back to "
                "what it was trained with, or remove that folder to start afresh."
            ) from None

    def run(self, batches: Callable[[int], Iterator[Batch]]) -> bool:
        """Train to the budget; False where the time limit came first. An alarm ends it by an `AtelierError`."""
        begun, first, settings = time.monotonic() - self.seconds, self.step, self.settings
        started = time.monotonic()
        every = max(1, settings.steps // POINTS)
        for batch in loading.moved(batches(first), self.accelerator.device):
            if self.step >= settings.steps or settings.seconds is not None and self.seconds >= settings.seconds:
                break
            self._gather(self.advance(batch))
            self.seconds = time.monotonic() - begun
            self.signs.alive(self.step)
            stopping, last = self.signs.stop(), self.step == settings.steps
            keeping = stopping or last or self.step % settings.checkpoint_every == 0
            if keeping or self.step % every == 0 or self.step == 1:  # the first is the scale of those that follow
                self._read((self.step - first) / (time.monotonic() - started))
            if keeping:
                self._keep()
            if stopping:
                raise Stopped
        self._take_readings()
        self._refuse_broken()
        self._refuse_diverged(patience=1)
        return self.step >= settings.steps

    def advance(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One step: every phase that is due. The losses stay on the device."""
        seed = loading.seed_of(self.settings.seed, "noise", self.step)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed visits every backend: 0.1 ms a step
        if self.generator.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        self.generator.manual_seed(seed)
        batch = batch.to(self.accelerator.device)
        self._set_rates(share_of_rate(self.settings, self.step))
        parts = {}
        for phase in self.phases:
            if self.step % phase.every == 0:
                loss = self._update(phase, batch)
                parts.update({f"{phase.name}/{name}": value.detach() for name, value in loss.parts.items()})
        self.family.after_step(self.step)
        self.step += 1
        return parts

    def _set_rates(self, share: float) -> None:
        for name, rates in self.rates.items():
            for group, rate in zip(self.optimizers[name].param_groups, rates, strict=True):
                group["lr"] = share * rate

    def _update(self, phase: Phase, batch: Batch) -> Loss:
        optimizer = self.optimizers[phase.optimizer]
        if len(self.optimizers) > 1:
            self.family.requires_grad_(False)
            for parameter in _parameters(optimizer):
                parameter.requires_grad_(True)
        with self.accelerator.autocast():
            loss: Loss = self.family.loss(phase.name, batch, step=self.step, generator=self.generator)
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss.total)
        clip_norm = self.settings.clip_norm if phase.clip_norm is None else phase.clip_norm
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(_parameters(optimizer), clip_norm)
        optimizer.step()
        return loss

    def _gather(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Add the losses of a step to what is unread, without waiting for the device."""
        for name, value in parts.items():
            total, count = self.unread.get(name, (0.0, 0))
            self.unread[name] = (total + value.float(), count + 1)

    def _read(self, pace: float) -> None:
        """Wait for the device, and tell what was unread: each part's mean over the steps since, of those it had."""
        losses = self._take_readings()
        self._refuse_diverged(patience=alarms.PATIENCE)
        left = (self.settings.steps - self.step) / pace
        self.signs.report(Progress(self.step, self.settings.steps, pace * self.settings.batch_size, left, losses))

    def _take_readings(self) -> dict[str, float]:
        losses = {name: float(total) / count for name, (total, count) in self.unread.items()}
        self.unread.clear()
        now = time.time()
        for name, value in losses.items():
            if not math.isfinite(value):
                raise self._diverged(f"{name} is {value}")
            self.curves.setdefault(name, []).append((self.step, now, value))
        self.divergence.take(losses)
        return losses

    def _keep(self) -> None:
        """Save a checkpoint of a model that no alarm suspects; the one before stays otherwise."""
        self._refuse_broken()
        suspect = self.divergence.found(patience=1) is not None or self._has_collapsed()
        if self.checkpoints is not None and not suspect:
            done = checkpoint.Progressed(self.step, self.seconds, self.curves)
            checkpoint.save(self.checkpoints, self.job, self.family, self.optimizers, done)
            self.kept = self.step

    def _refuse_broken(self) -> None:
        """Raise an `AtelierError` where a weight is no number: losses are read now and then only."""
        for name, tensor in self.family.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self._diverged(f"{name} is no finite number everywhere")

    def _refuse_diverged(self, *, patience: int) -> None:
        """Raise an `AtelierError` where a loss has been far beyond its own scale for so many readings on end."""
        if (found := self.divergence.found(patience=patience)) is not None:
            raise self._diverged(found)

    def _has_collapsed(self) -> bool:
        """Whether samples lack variety in a run that this may stop; an `AtelierError` where they have for long."""
        if self.variety is None or not self.variety.due(self.family, self.step, self.settings.steps, self.seconds):
            return False
        seen = self.variety.look(self.family)
        shown = ", ".join(f"{name} {value:.3g}" for name, value in seen.items())
        told = f"samples lost their variety: on a fixed sample {shown} at step {self.step} of {self.settings.steps}"
        stops = self.settings.alarms.collapse == "stop"
        ending = self.step == self.settings.steps
        collapsed = self.variety.poor >= (1 if ending else alarms.LOOKS_ON_END)
        if collapsed and stops:
            raise AtelierError(
                f"{told}.{self._healthy()} Lower the generator's learning rate, or let the "
                "candidate's other networks learn faster; `train.alarms.collapse: warn` would only put it on record."
            )
        if collapsed and not self.warnings:
            self.warnings.append(told)
        return stops and self.variety.poor > 0

    def _diverged(self, what: str) -> AtelierError:
        return AtelierError(
            f"training diverged: {what} at step {self.step} of {self.settings.steps}.{self._healthy()} Lower the "
            "learning rate in the candidate's config, give it `train.warmup`, or set train.precision to fp32."
        )

    def _healthy(self) -> str:
        """Where the last healthy state is, as a sentence."""
        if self.checkpoints is None or not self.kept:
            return ""
        return f" The checkpoint of step {self.kept}, before it, is kept in {self.checkpoints}."


def share_of_rate(settings: Train, step: int) -> float:
    """What is left of every learning rate at a step, from 0 to 1: a function of the step alone, so resuming is exact.

    The half cosine is that of arXiv:1608.03983 without restarts.
    """
    rise = min(1.0, (step + 1) / (settings.warmup + 1))
    if settings.schedule == "constant":
        return rise
    return rise * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _refuse_other_task(name: str, family: type[AnyFamily], spec: Spec) -> None:
    if family.edits and not spec.gives:
        raise AtelierError(
            f"the family {name!r} changes what it is given, and these data give it nothing: say what it is to undo, as "
            "in `prepare: {degrade: blur}`, or choose a family that makes samples from seeds alone."
        )
    if spec.gives and not family.edits:
        editing = [other for other in families.names() if families.get(other).Model.edits]
        raise AtelierError(
            f"the recipe's `prepare.degrade` asks for models that change what they are given, and the family {name!r} "
            f"takes nothing in: leave `degrade` out, or choose {' or '.join(editing)}."
        )


def _public(controls: Mapping[str, PublicControl]) -> Iterator[dict[str, Any]]:
    """The defaults of a recipe's controls, and each other choice that it offers."""
    defaults = {name: control.default for name, control in controls.items()}
    yield defaults
    for name, control in controls.items():
        yield from ({**defaults, name: choice} for choice in control.choices or ())


def _name(family: AnyFamily) -> str:
    return type(family).__module__.rsplit(".", 1)[-1]


def _parameters(optimizer: Optimizer) -> Sequence[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _fuse(optimizer: Optimizer) -> None:
    """Let all weights be updated in one go, where the optimizer can: on a CPU too, 3% to 25% of a step are saved."""
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"], group["foreach"] = True, False


def _compiling(settings: Train, device: torch.device) -> bool:
    if settings.compile == "auto":
        return device.type == "cuda" and find_spec("triton") is not None
    return settings.compile == "on"


def _compile(family: AnyFamily) -> None:
    """Compile each network that is trained and differentiated once, in place: the names of its weights stay."""
    for name, network in family.named_children():
        trained = any(parameter.requires_grad for parameter in network.parameters())
        if trained and name not in family.differentiated_twice():
            network.compile(dynamic=False)


def _precision(settings: Train) -> str:
    automatic = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return {"auto": automatic, "fp32": "no", "bf16": "bf16"}[settings.precision]


def _spec(modality: str, shards: Shards) -> Spec:
    spec: Spec = modalities.part(modality, "batch").SPEC.model_validate(shards.spec)
    return spec
