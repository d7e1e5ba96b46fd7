import pytest
import torch
from pydantic import ValidationError

from components.modalities.image.batch import ImageSpec, degrade
from components.modalities.image.shards import Prepare

WAYS = ("invert", "blur", "pixelate", "outline")


def step(size: int = 16) -> torch.Tensor:
    """One picture, dark on the left and bright on the right."""
    pixels = torch.full((1, 1, size, size), -1.0)
    pixels[..., size // 2 :] = 1
    return pixels


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 17, 17), (1, 1, 4, 4)])
def test_a_degraded_picture_has_the_same_shape_and_range_and_is_another(how, shape) -> None:
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = pixels.clone()
    degraded = degrade(pixels, how)
    assert degraded.shape == pixels.shape
    assert degraded.min() >= -1 and degraded.max() <= 1
    assert torch.equal(pixels, before) and not torch.allclose(degraded, pixels)
    assert torch.allclose(degrade(pixels[:1], how), degraded[:1], atol=1e-6), "a row does not depend on its company"


def test_inverting_twice_gives_the_picture_back() -> None:
    assert torch.equal(degrade(degrade(step(), "invert"), "invert"), step())


def test_a_blurred_step_is_the_integral_of_a_gaussian() -> None:
    size = 64
    blurred = degrade(step(size), "blur")[0, 0, 30]
    place = torch.arange(size) + 0.5 - size / 2
    assert torch.allclose(blurred, torch.special.erf(place / (size / 16) / 2**0.5), atol=0.01)


def test_a_pixelated_picture_is_flat_in_cells_of_their_mean() -> None:
    pixels = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    cells = degrade(pixels, "pixelate").reshape(4, 4, 4, 4).permute(0, 2, 1, 3).reshape(16, 16)
    wanted = pixels.reshape(4, 4, 4, 4).permute(0, 2, 1, 3).reshape(16, 16).mean(1, keepdim=True)
    assert torch.allclose(cells, wanted.expand(16, 16), atol=1e-6)


def test_an_outline_is_bright_at_edges_and_black_elsewhere() -> None:
    line = degrade(step(), "outline")[0, 0, 8]
    assert line.tolist() == [-1.0] * 7 + [1.0, 1.0] + [-1.0] * 7


def test_what_was_made_before_there_was_a_task_keeps_its_description() -> None:
    assert ImageSpec(channels=1, size=28).model_dump(mode="json") == {"channels": 1, "size": 28, "classes": []}
    assert Prepare().model_dump(mode="json") == {"size": 28, "channels": 1, "augment": []}
    spec = ImageSpec(channels=1, size=28, degrade="blur")
    assert ImageSpec.model_validate_json(spec.model_dump_json()) == spec
    assert (spec.gives, ImageSpec(channels=1, size=28).gives) == (True, False)


def test_an_unknown_degradation_is_refused_with_the_choices() -> None:
    with pytest.raises(ValidationError, match="'invert', 'blur', 'pixelate' or 'outline'"):
        Prepare.model_validate({"degrade": "blurr"})
