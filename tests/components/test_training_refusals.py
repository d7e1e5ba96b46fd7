"""What contradicts itself is refused before anything is trained, by its field and with the choices."""

import contextlib
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from components import bundle, families, recipe, sampling, training
from components.contract import Family
from components.errors import AtelierError
from components.modalities.image.batch import ImageSpec
from components.recipe import Candidate, Recipe, Train
from components.records import Shards
from components.store import Store
from tests.components.families.image_rows import blobs
from tests.components.prepared_pictures import prepared

CLASSES = ("light", "dark")
CONDITIONAL = {"vae": {"conditional": True}, "cgan": {}, "diffusion": {"conditional": True}, "flow_matching": {
    "conditional": True}}  # fmt: skip
SIZES = {
    "vae": (10, "a multiple of 4"), "dcgan": (10, "a multiple of 4"), "cgan": (10, "a multiple of 4"),
    "infogan": (10, "a multiple of 4"), "wgan_gp": (9, "one of 8"), "stylegan2": (12, "8, 16, 32, 64"),
    "cyclegan": (10, "a multiple of 4"), "diffusion": (10, "a multiple of"), "flow_matching": (10, "a multiple of"),
}  # fmt: skip


def asked(family: str, config: dict[str, Any] | None = None, **more: Any) -> Recipe:
    raw = {
        "model": "toy", "modality": "image", "data": {"source": "data/d"}, "rank_by": "kd",
        "candidates": {"one": {"family": family, "config": config or {}}}, "gates": [{"metric": "fd", "at_most": 1}],
    }  # fmt: skip
    return recipe.parse({**raw, **more}, "toy.yaml")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return prepared(Store(tmp_path_factory.mktemp("store")), train=16, held_out=8)


def of(shards: Shards, **spec: Any) -> Shards:
    return shards.model_copy(update={"spec": {**shards.spec, **spec}})


@pytest.mark.parametrize("family", CONDITIONAL)
def test_a_conditional_family_on_unlabelled_data(family: str, shards: Shards) -> None:
    made = asked(family, CONDITIONAL[family])
    training.refuse_unfit(made, of(shards, classes=CLASSES))
    with pytest.raises(AtelierError, match=r"candidates.one: .*conditional.*(labels|classes).*(false|dcgan)"):
        training.refuse_unfit(made, of(shards, classes=()))


def test_every_family_of_pictures_has_a_size_that_it_cannot_make() -> None:
    assert {name for name in families.names() if families.get(name).Model.modality == "image"} <= set(SIZES)


@pytest.mark.parametrize("family", SIZES)
def test_a_size_that_the_architecture_cannot_make(family: str, shards: Shards) -> None:
    size, choices = SIZES[family]
    degrade = {"degrade": "blur"} if family == "cyclegan" else {}
    training.refuse_unfit(asked(family), of(shards, size=28, **degrade))
    with pytest.raises(AtelierError, match=rf"candidates.one: .*prepare.size must be {choices}.*not {size}"):
        training.refuse_unfit(asked(family), of(shards, size=size, **degrade))


@pytest.mark.parametrize("family", ["diffusion", "flow_matching"])
@pytest.mark.parametrize(
    ("control", "where"),
    [
        ({"default": 99.0}, r"controls: a default .*guidance: .*less than or equal to 10 \(got 99"),
        ({"default": 1.0, "at_most": 99.0}, r"controls.guidance is none .*guidance: .*equal to 10 \(got 99"),
        ({"default": 1.0, "at_least": -1.0}, r"controls.guidance is none .*guidance: .*equal to 0 \(got -1"),
        ({"default": 1.0, "choices": [1.0, 12.0]}, r"controls.guidance is none .*guidance: .*equal to 10 \(got 12"),
    ],
)
def test_guidance_outside_its_range(family: str, control: dict[str, Any], where: str) -> None:
    asked(family, {"conditional": True}, controls={"guidance": {"default": 1.0, "at_most": 10.0}})
    with pytest.raises(AtelierError, match=f"toy.yaml: {where}"):
        asked(family, {"conditional": True}, controls={"guidance": control})


@pytest.mark.parametrize("family", ["diffusion", "flow_matching"])
def test_guidance_of_a_model_without_classes(family: str, shards: Shards) -> None:
    with pytest.raises(AtelierError, match=r"candidates.one: the control guidance is 2.*conditional: true"):
        training.refuse_unfit(asked(family, controls={"guidance": {"default": 2.0}}), shards)


def build(family: str, size: int = 8, **config: Any) -> Family[Any, Any, Any, Any]:
    torch.manual_seed(0)
    return training.build(Candidate(family=family, config=config), ImageSpec(channels=1, size=size))


@pytest.mark.parametrize(
    "other",
    [
        ("dcgan", 8, {"width": 4}),
        ("diffusion", 8, {"width": 8}),
        ("vae", 12, {"width": 4, "hidden": 16, "latent_dim": 4}),
        ("vae", 8, {"width": 4, "hidden": 16, "latent_dim": 5}),
    ],
    ids=["family", "family of as many optimizers", "spec", "config"],
)
def test_a_checkpoint_of_another_family_or_spec(other: tuple[str, int, dict[str, Any]], tmp_path: Path) -> None:
    settings = Train(steps=9, batch_size=8)
    kept = training.Loop(
        build("vae", width=4, hidden=16, latent_dim=4), settings, job="job", checkpoints=tmp_path,
        signs=training.Signs(stop=lambda: True),
    )  # fmt: skip
    with contextlib.suppress(training.Stopped):
        kept.run(lambda start: (blobs(8) for _ in count()))
    family, size, config = other
    with pytest.raises(AtelierError, match=rf"checkpoint in .* is of another family, config or spec than '{family}'"):
        training.Loop(build(family, size, **config), settings, job="job", checkpoints=tmp_path)
    assert training.Loop(build("vae", width=4, hidden=16, latent_dim=4), settings, job="job", checkpoints=tmp_path).step


def test_weights_of_another_family_are_not_served(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, family in ((one, build("vae", width=4)), (other, build("dcgan", width=4))):
        folder.mkdir()
        family.save(folder)
    (one / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    (one / "endpoint.json").write_text(bundle.EndpointCard(model="m").model_dump_json())
    with pytest.raises(AtelierError, match=r"the weights of m in .* do not fit the code of 'vae'"):
        sampling.load(one)
