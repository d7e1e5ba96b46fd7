"""Scores of real bundles under a pinned encoder, and a planted copier that the metric `copied` must see."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from components import bundle, evaluation, families, loading, modalities
from components.errors import AtelierError
from components.ledger import Ledger
from components.recipe import Evaluate, Recipe
from components.records import Artifact, Scores, Shards
from components.store import Store
from components.versioning import Archive
from tests.components.prepared_pictures import prepared

SETTINGS = Evaluate(samples=400, seeds=(0, 1))
COPIER = '''
"""A fault, planted: of each hundred seeds `copies` return a training row with a little noise, the rest are new."""

import torch
from torch import Tensor, nn

from components import contract
from components.layers import seeded_normal
from components.modalities.image.batch import Images, ImageSpec


class Config(contract.Config):
    copies: int = 0
    rows: int = 256


class Controls(contract.Controls):
    pass


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
        noise = seeded_normal(seeds, *self.kept.pixels.shape[1:])
        copies = [self.kept.pixels[seed % len(self.kept.pixels)] for seed in seeds]
        rows = [
            copy + 0.02 * new if seed % 100 < self.config.copies else new.clamp(-1, 1)
            for seed, copy, new in zip(seeds, copies, noise)
        ]
        return Images(torch.stack(rows).clamp(-1, 1))
'''


@dataclass(frozen=True)
class Place:
    """A store with prepared pictures, a ledger and an archive beside it."""

    root: Path
    store: Store
    shards: Shards

    @property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.root / 'ledger.db'}")

    @property
    def archive(self) -> Archive:
        return Archive(self.root / "dvc")

    def encoder(self, recipe: Recipe, shards: Shards | None = None) -> Artifact:
        return evaluation.encoder_of(
            shards or self.shards, recipe, ledger=self.ledger, store=self.store, archive=self.archive
        )

    def bundle(self, family: str, config: dict[str, int]) -> Artifact:
        """A bundle of that family as it is before training; the copier's rows are the training rows."""
        torch.manual_seed(0)
        module = families.get(family)
        spec = modalities.part("image", "batch").SPEC.model_validate(self.shards.spec)
        model = module.Model(module.Config.model_validate(config), spec).eval()
        if family == "copier":
            split = modalities.part("image", "shards").open_split(self.store.path(self.shards.shards), "train")
            model.kept.pixels.copy_(split.batch(torch.arange(len(split))).pixels)  # type: ignore[union-attr,operator]
        with self.store.writing("weights") as draft:
            model.save(draft.directory)
        return bundle.assemble(draft.artifact, bundle.EndpointCard(model="shoes"), self.store)

    def scores(self, made: Artifact, recipe: Recipe) -> Scores:
        return evaluation.evaluate(
            made, self.shards, self.encoder(recipe), SETTINGS, modality="image", store=self.store
        )


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "model": "shoes",
            "modality": "image",
            "data": {"source": "data/d"},
            "candidates": {"vae": {"family": "vae"}},
            "gates": [{"metric": "copied", "at_most": 0.01}],
            "rank_by": "fd",
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("evaluation")
    store = Store(root / "store")
    return Place(root, store, prepared(store))


@pytest.fixture(scope="module", autouse=True)
def copier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A family of one more file, as a person would add it."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "copier.py").write_text(COPIER)
    families.__path__.append(str(folder))
    yield
    families.__path__.remove(str(folder))
    sys.modules.pop("components.families.copier", None)


def test_scores_are_the_same_to_the_digit_and_carry_what_they_rest_on(place: Place, recipe: Recipe) -> None:
    made = place.bundle("copier", {"copies": 0})
    one, other = place.scores(made, recipe), place.scores(made, recipe)
    assert one == other
    assert (one.bundle, one.held_out, one.samples, one.seeds) == (made, place.shards.shards.digest, 400, (0, 1))
    assert one.encoder == place.encoder(recipe).digest
    metrics = modalities.part("image", "metrics")
    plain = set(metrics.DIRECTIONS) - {*metrics.OF_LABELS, *metrics.OF_CODES, *metrics.OF_RESTORED}
    assert set(one.values) == plain == {"nearer_train", *one.floor} - set(metrics.OF_LABELS)
    assert all(len(rounds) == 2 for rounds in one.values.values())
    assert {path.name for path in place.store.path(one.pictures).iterdir()} == {
        "generated.png",
        "held_out.png",
        "nearest.png",
    }


def test_an_editing_model_is_given_degraded_held_out_rows_and_scored_against_the_originals(
    tmp_path: Path, recipe: Recipe
) -> None:
    store = Store(tmp_path / "store")
    shards = prepared(store)
    restoring = Place(tmp_path, store, shards.model_copy(update={"spec": shards.spec | {"degrade": "invert"}}))
    scores = restoring.scores(restoring.bundle("cyclegan", {"width": 2}), recipe)
    metrics = modalities.part("image", "metrics")
    assert set(scores.values) == set(metrics.DIRECTIONS) - {*metrics.OF_LABELS, *metrics.OF_CODES, "nearer_train"}
    assert scores.values["psnr"][0] == scores.values["psnr"][1], "what is restored follows from the picture alone"
    names = {path.name for path in store.path(scores.pictures).iterdir()}
    assert names == {"generated.png", "held_out.png", "given.png", "nearest.png"}


@pytest.mark.parametrize("copies", [0, 1, 5])
def test_a_planted_copier_is_seen_to_the_row(place: Place, recipe: Recipe, copies: int) -> None:
    scores = place.scores(place.bundle("copier", {"copies": copies}), recipe)
    planted = [
        sum(loading.seed_of(seed, "sample", i) % 100 < copies for i in range(SETTINGS.samples)) / SETTINGS.samples
        for seed in SETTINGS.seeds
    ]
    assert scores.values["copied"] == pytest.approx(planted)
    assert all(planted) is (copies > 0)


def test_samples_come_through_the_door_of_serving(place: Place, recipe: Recipe) -> None:
    made = place.bundle("vae", {"latent_dim": 4, "width": 4, "hidden": 8})
    weights = place.store.path(made) / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()  # the file may be a second name of the one in `weights`
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(AtelierError, match="does not match its digest"):
        place.scores(made, recipe)


class TestEncoder:
    def test_is_pinned_and_new_data_do_not_change_it(self, place: Place, recipe: Recipe) -> None:
        first = place.encoder(recipe)
        assert place.encoder(recipe, prepared(place.store, train=300, seed=3)) == first

    def test_another_shape_or_model_has_one_of_its_own(self, place: Place, recipe: Recipe) -> None:
        first = place.encoder(recipe)
        assert place.encoder(recipe, prepared(place.store, size=16)) != first
        assert place.ledger.pinned("boots", "encoder", "any") is None

    def test_comes_back_from_the_archive_where_the_store_lost_it(self, place: Place, recipe: Recipe) -> None:
        first = place.encoder(recipe)
        shutil.rmtree(place.store.path(first))
        assert place.encoder(recipe, prepared(place.store, seed=4)) == first  # these rows would train another one
        assert place.store.holds(first)

    def test_that_is_lost_for_good_is_told_and_not_replaced(self, tmp_path: Path, recipe: Recipe) -> None:
        store = Store(tmp_path / "store")
        place = Place(tmp_path, store, prepared(store))
        place.encoder(recipe)
        shutil.rmtree(tmp_path / "store" / "encoder")
        shutil.rmtree(tmp_path / "dvc")
        with pytest.raises(AtelierError, match="encoder"):
            place.encoder(recipe)
