"""The door of serving: what callers may ask is checked strictly, and bytes before they are parsed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components import bundle, families, modalities, sampling
from components.controls import PublicControl
from components.errors import AtelierError
from components.store import digest_of

CONTROLS = {"truncation": PublicControl(default=1.0, at_least=0.3, at_most=1.5)}
ASKED_OF_STYLE: list[dict[str, Any]] = [{}, {"style": None}, {"style": -2}, {"style": 2.0}]
SPEC = {"size": 28, "channels": 1, "classes": ["one", "two"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("bundle")
    vae = families.get("vae")
    config = vae.Config.model_validate({"latent_dim": 4, "width": 4, "hidden": 8})
    vae.Model(config, modalities.part("image", "batch").SPEC.model_validate(SPEC)).eval().save(place)
    card = bundle.EndpointCard(model="shoes", controls=CONTROLS, max_samples=4)
    (place / "endpoint.json").write_text(card.model_dump_json(exclude_none=True))
    return place


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> sampling.Endpoint:
    return sampling.load(folder, digest=digest_of(folder))


def test_an_endpoint_tells_what_it_is(endpoint: sampling.Endpoint) -> None:
    assert (endpoint.card.model, endpoint.family, endpoint.modality) == ("shoes", "vae", "image")
    assert endpoint.media_type == "image/png" and endpoint.parameters > 0


def test_the_same_seed_and_controls_are_the_same_bytes(endpoint: sampling.Endpoint) -> None:
    one, other, again = endpoint.generate([7, 8, 7])
    assert one == again != other and one.startswith(b"\x89PNG")
    assert endpoint.generate([7], [{"truncation": 1.0}]) == [one]
    assert endpoint.generate([7], [{"truncation": 0.5}]) != [one]


@pytest.mark.parametrize("value", [0.3, 1.5, 1])
def test_values_in_range_are_taken_and_whole_numbers_stand_for_fractions(
    endpoint: sampling.Endpoint, value: float
) -> None:
    checked = endpoint.checked({"truncation": value})
    assert checked == {"truncation": value} and type(checked["truncation"]) is float


@pytest.mark.parametrize(
    "value", ["1.2", True, None, [1.0], {"a": 1}, float("nan"), float("inf"), -float("inf"), 0.29, 1.51, 10**400]
)
def test_anything_else_is_refused_by_name(endpoint: sampling.Endpoint, value: Any) -> None:
    with pytest.raises(AtelierError, match="truncation"):
        endpoint.checked({"truncation": value})


def test_an_unbounded_control_refuses_what_is_no_number(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "open"))
    (place / "endpoint.json").write_text('{"model": "shoes", "controls": {"truncation": {"default": 1.0}}}')
    open_ended = sampling.load(place)
    assert open_ended.checked({"truncation": 1.7}) == {"truncation": 1.7}
    with pytest.raises(AtelierError, match="truncation"):
        open_ended.checked({"truncation": float("nan")})
    with pytest.raises(AtelierError, match=r"truncation is 3\.0: Input should be less than or equal to 2"):
        open_ended.checked({"truncation": 3.0})


def test_an_unknown_control_is_answered_with_the_nearest(endpoint: sampling.Endpoint) -> None:
    with pytest.raises(AtelierError, match="unknown control 'truncaton'; did you mean 'truncation'"):
        endpoint.checked({"truncaton": 1.0})


def test_a_control_whose_default_is_null_is_drawn_from_the_seed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    infogan, spec = families.get("infogan"), modalities.part("image", "batch").SPEC.model_validate(SPEC)
    network = infogan.Model(infogan.Config(latent_dim=4, width=4, hidden=8), spec).eval()
    for weights in network.parameters():
        weights.data *= 9  # untrained ones answer a style by less than a grey level
    network.save(tmp_path)
    style = PublicControl(default=None, at_least=-2, at_most=2)
    card = bundle.EndpointCard(model="shoes", controls={"style": style})
    (tmp_path / "endpoint.json").write_text(card.model_dump_json(exclude_none=True))
    drawing = sampling.load(tmp_path)
    left, null, one, other = (drawing.generate([7, 8], [asked] * 2) for asked in ASKED_OF_STYLE)
    assert left == null and len({left[0], one[0], other[0]}) == 3
    with pytest.raises(AtelierError, match="style"):
        drawing.checked({"style": 2.1})


def test_changed_bytes_are_refused_before_any_is_parsed(folder: Path, tmp_path: Path) -> None:
    place, digest = Path(shutil.copytree(folder, tmp_path / "changed")), digest_of(folder)
    (place / "config.json").write_text("this would not parse")
    with pytest.raises(AtelierError, match="does not match its digest"):
        sampling.load(place, digest=digest)
    with pytest.raises(AtelierError, match="is not a bundle"):  # without a digest it is parsed, and fails there
        sampling.load(place)
