"""What a network that a team hands in sees in pictures, and what is no such network."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from components import inspection
from components.errors import AtelierError
from components.modalities.image.batch import Images
from components.moderation import Pictures
from tests.components.exported import exported, judge

LEFT, BRIGHT, NEVER = 0, 1, 2


def policy(**block: int) -> Pictures:
    return Pictures(model="judge.pt2", block=block)


def pictures() -> Images:
    """Dark, bright, and bright on the left alone."""
    rows = torch.stack([torch.full((1, 12, 12), level) for level in (-0.9, 0.9, -0.9)])
    rows[2, :, :, :6] = 0.8
    return Images(rows)


def test_each_picture_is_told_by_the_names_of_what_it_shows(tmp_path: Path) -> None:
    exported(tmp_path / "judge.pt2", judge())
    seen = inspection.of_file(policy(brightness=BRIGHT, leaning=LEFT, gore=NEVER), tmp_path / "judge.pt2")
    assert seen.shown(pictures()) == [(), ("brightness",), ("leaning",)]


def test_how_sure_it_has_to_be_is_the_recipes(tmp_path: Path) -> None:
    exported(tmp_path / "judge.pt2", judge(steepness=2.0))  # 0.86 sure that 0.9 is bright
    for at_least, told in ((0.85, 1), (0.87, 0)):
        asked = policy(brightness=BRIGHT).model_copy(update={"at_least": at_least})
        assert sum(map(bool, inspection.of_file(asked, tmp_path / "judge.pt2").shown(pictures()))) == told


class Doubt(nn.Module):
    """Never a number."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)[:, :2] * torch.nan


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (judge()[:2], "between 0 and 1"), (Doubt(), "between 0 and 1"),
        (nn.Identity(), "the inspector judge.pt2 gives"),
        (nn.Sequential(judge(), nn.Linear(3, 1), nn.Sigmoid()), "names the class 1"),
    ],
)  # fmt: skip
def test_what_does_not_say_how_sure_it_is_of_each_class_is_refused(
    tmp_path: Path, network: nn.Module, told: str
) -> None:
    exported(tmp_path / "judge.pt2", network)
    with pytest.raises(AtelierError, match=told):
        inspection.of_file(policy(brightness=BRIGHT), tmp_path / "judge.pt2").shown(pictures())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match=r"names judge.pt2, and there is no such file"):
        inspection.keep(policy(brightness=BRIGHT), tmp_path, tmp_path)
    with pytest.raises(ValidationError, match="pattern"):
        Pictures(model="judge.pkl", block={"brightness": 1})
