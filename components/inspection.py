"""Pictures looked at by the network that a recipe's moderation names: what of it each of them shows.

The same network judges what a model generates before it is registered, and each picture that is given or answered when
it is served.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components import handed
from components.errors import AtelierError
from components.loading import Split
from components.moderation import Pictures

STEM = "inspector"  # of its file in a bundle


@dataclass(frozen=True, slots=True)
class Inspector:
    """What pictures may not show, and what sees it."""

    policy: Pictures
    _sees: Callable[[Tensor], Tensor]

    def shown(self, rows: Any) -> list[tuple[str, ...]]:
        """The names of what each picture shows, in the order of the policy; an `AtelierError` where nothing tells."""
        sure_BK = self._sees(rows.pixels)
        last = max(self.policy.block.values())
        if sure_BK.shape[1] <= last:
            raise AtelierError(
                f"moderation.images.block names the class {last}, and {self.policy.model} tells of {sure_BK.shape[1]}, "
                "counted from 0. Name the places of what it tells of."
            )
        if not ((sure_BK >= 0) & (sure_BK <= 1)).all():  # NaN too
            raise AtelierError(
                f"moderation.images.model {self.policy.model} gives {sure_BK.min():.3g} to {sure_BK.max():.3g}, and "
                "not how sure it is, between 0 and 1. Export it with its softmax or sigmoid."
            )
        seen_BK = sure_BK >= self.policy.at_least
        return [
            tuple(name for name, place in self.policy.block.items() if seen_K[place]) for seen_K in seen_BK.unbind()
        ]


def of_file(policy: Pictures, path: Path) -> Inspector:
    """An inspector by a file, wherever it lies; an `AtelierError` where it is not there or no network."""
    if not path.is_file():
        raise AtelierError(
            f"moderation.images.model names {policy.model}, and there is no such file in {path.parent}. Put it there."
        )
    return Inspector(policy, handed.opened(path, called="inspector"))


def of_bundle(policy: Pictures | None, directory: Path) -> Inspector | None:
    """The inspector of a bundle; None where its recipe names none."""
    return None if policy is None else of_file(policy, directory / _name(policy))


def keep(policy: Pictures | None, project: Path, directory: Path) -> None:
    """Copy the network of a policy, where there is one, from the project into a bundle."""
    if policy is not None:
        of_file(policy, project / policy.model)
        shutil.copyfile(project / policy.model, directory / _name(policy))


def refuse_unfit(policy: Pictures, project: Path, rows: Split) -> None:
    """Raise an `AtelierError` where the network of a policy cannot tell what the first rows of a side show."""
    of_file(policy, project / policy.model).shown(rows.batch(torch.arange(min(2, len(rows)))))


def _name(policy: Pictures) -> str:
    return f"{STEM}{Path(policy.model).suffix}"
