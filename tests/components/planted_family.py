"""A family with planted faults: of each twenty samples one is a training row, one is far from all, one repeats."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from components import bundle, families, modalities
from components.controls import PublicControl
from components.records import Artifact, Shards
from components.store import Store

FAMILY = '''
"""A fault, planted: seeds that leave 0, 1 and 2 over twenty give a training row, stripes, and always the same noise."""

import torch
from torch import nn

from components import contract
from components.modalities.image.batch import ANY, Images, ImageSpec


class Config(contract.Config):
    rows: int
    faults: bool = True
    same: bool = False  # always the same noise
    shift: int = 0


class Controls(contract.Controls):
    label: str = ANY


class Model(contract.Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("kept",)

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.kept = nn.Module()
        self.kept.register_buffer("pixels", torch.zeros(config.rows, spec.channels, spec.size, spec.size))

    def optimizers(self):
        return {}

    def loss(self, phase, batch, *, step, generator):
        raise NotImplementedError

    def draw(self, seeds, controls, conditions):
        return Images(torch.stack([self.one(seed, asked.label) for seed, asked in zip(seeds, controls)]))

    def one(self, seed, label):
        kind = 2 if self.config.same else seed % 20 if self.config.faults else 19
        if kind == 0:
            return self.kept.pixels[seed // 20 % len(self.kept.pixels)]
        if kind == 1:
            return torch.ones(1, 12, 12) * (1 - 2 * (torch.arange(12) % 2)) * (1 - seed % 2**20 / 2**21)
        generator = torch.Generator().manual_seed(2 if kind == 2 else seed + self.config.shift)
        bright = label == "light" if label != ANY else seed % 2
        levels = torch.randint(0, 120, (1, 12, 12), generator=generator) + 130 * bright
        return levels / 127.5 - 1
'''


@contextmanager
def planted(folder: Path) -> Iterator[None]:
    """The family `planted`, as a file that a person adds."""
    (folder / "planted.py").write_text(FAMILY)
    families.__path__.append(str(folder))
    try:
        yield
    finally:
        families.__path__.remove(str(folder))
        sys.modules.pop("components.families.planted", None)


def bundled(
    shards: Shards, store: Store, *, model: str = "shades", labels: bool = True, **config: bool | int
) -> Artifact:
    """A bundle of it that holds the training rows; its endpoint offers the label, or nothing."""
    module = families.get("planted")
    spec = modalities.part("image", "batch").SPEC.model_validate(shards.spec)
    split = modalities.part("image", "shards").open_split(store.path(shards.shards), "train")
    model_ = module.Model(module.Config(rows=len(split), **config), spec).eval()
    model_.kept.pixels.copy_(split.batch(torch.arange(len(split))).pixels)  # type: ignore[union-attr,operator]
    with store.writing("weights") as draft:
        model_.save(draft.directory)
    offered = {"label": PublicControl(default="any", choices=("any", "light", "dark"))} if labels else {}
    return bundle.assemble(draft.artifact, bundle.EndpointCard(model=model, controls=offered), store)
