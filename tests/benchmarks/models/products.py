"""A family that draws nothing: a white picture after so many matrix products. It has the cost that a benchmark wants.

It is no family of the repository: whoever wants it puts this folder into the path of `components.families`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch.optim import Optimizer

from components import contract
from components.contract import Batch, Family, Loss
from components.modalities.image.batch import Images, ImageSpec

SIDE = 256  # of the matrices: about half a millisecond on one core, as a layer of a small network has it


class Config(contract.Config):
    products: int = 0  # of one forward pass; none is the empty model
    rows: int = 1  # that share it


class Controls(contract.Controls):
    pass


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ()

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        self.rows = config.rows
        self._factors = torch.full((2, SIDE, SIDE), 1 / SIDE)
        self._product = torch.empty(SIDE, SIDE)

    def optimizers(self) -> Mapping[str, Optimizer]:
        raise NotImplementedError("it is never trained")

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        raise NotImplementedError("it is never trained")

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        for _ in range(self.config.products):
            torch.mm(self._factors[0], self._factors[1], out=self._product)
        return Images(torch.ones(len(seeds), self.spec.channels, self.spec.size, self.spec.size))
