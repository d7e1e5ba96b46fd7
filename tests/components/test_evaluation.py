"""Scores of real bundles under a pinned encoder, and a planted copier that the metric `copied` must see."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from components import bundle, evaluation, families, gating, loading, modalities
from components.errors import AtelierError
from components.ledger import Ledger
from components.moderation import Moderation
from components.recipe import Evaluate, Recipe
from components.records import Artifact, Scores, Shards
from components.store import Store
from components.versioning import Archive
from tests.components.exported import exported, judge
from tests.components.prepared_pictures import prepared
from tests.components.test_gating import footprint, trained

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
            shards or self.shards, recipe, project=self.root, ledger=self.ledger, store=self.store, archive=self.archive
        )

    def bundle(self, family: str, config: dict[str, int], **card: Any) -> Artifact:
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
        endpoint = bundle.EndpointCard(model="shoes", **card)
        return bundle.assemble(draft.artifact, endpoint, self.store, project=self.root)

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
    plain = set(metrics.DIRECTIONS) - {
        *metrics.OF_LABELS,
        *metrics.OF_CODES,
        *metrics.OF_RESTORED,
        "unsafe",
        "rejected",
    }
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
    assert set(scores.values) == set(metrics.DIRECTIONS) - {
        *metrics.OF_LABELS,
        *metrics.OF_CODES,
        "nearer_train",
        "unsafe",
        "rejected",
    }
    assert scores.values["psnr"][0] == scores.values["psnr"][1], "what is restored follows from the picture alone"
    names = {path.name for path in store.path(scores.pictures).iterdir()}
    assert names == {"generated.png", "held_out.png", "given.png", "nearest.png"}


class Rows(torch.nn.Module):
    """Mean and deviation of each quarter of a picture, as a team's encoder might give them."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        quarters = pixels.unflatten(2, (2, -1)).unflatten(4, (2, -1)).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(1, 3)
        return torch.cat([quarters.mean(2), quarters.std(2)], dim=1)


def test_distances_are_measured_in_the_space_that_a_team_hands_in(tmp_path: Path, recipe: Recipe) -> None:
    exported(tmp_path / "quarters.pt2", Rows())
    store = Store(tmp_path / "store")
    there = Place(tmp_path, store, prepared(store))
    asked = recipe.model_copy(update={"evaluate": SETTINGS.model_copy(update={"encoder": "quarters.pt2"})})
    made = there.bundle("copier", {"copies": 0})
    own, handed = there.scores(made, recipe), there.scores(made, asked)
    assert own.encoder != handed.encoder
    assert own.values["fd"] != handed.values["fd"] and own.values["label_entropy"] == handed.values["label_entropy"]
    features = Rows()(torch.zeros(2, 1, 12, 12))
    card = json.loads((store.path(there.encoder(asked)) / "encoder.json").read_text())
    assert (card["given"], card["features"]) == ("quarters.pt2", features.shape[1])
    assert there.encoder(asked).digest == handed.encoder, "it is pinned"
    exported(tmp_path / "quarters.pt2", torch.nn.Sequential(Rows(), torch.nn.Linear(8, 3)))
    assert there.encoder(asked).digest != handed.encoder, "another file is another space"


@pytest.mark.parametrize(
    ("network", "size", "told"),
    [(torch.nn.Identity(), 12, "gives"), (torch.nn.Sequential(Rows(), torch.nn.Flatten()), 16, "does not take")],
)
def test_a_file_that_takes_or_gives_something_else_is_refused(
    tmp_path: Path, recipe: Recipe, network: torch.nn.Module, size: int, told: str
) -> None:
    free = {0: torch.export.Dim("rows", min=1, max=4096)}
    program = torch.export.export(network, (torch.zeros(4, 1, size, size),), dynamic_shapes=(free,))
    torch.export.save(program, tmp_path / "odd.pt2")
    asked = recipe.model_copy(update={"evaluate": SETTINGS.model_copy(update={"encoder": "odd.pt2"})})
    store = Store(tmp_path / "store")
    with pytest.raises(AtelierError, match=told):
        Place(tmp_path, store, prepared(store)).encoder(asked)


def test_an_encoder_that_is_not_there_or_no_encoder_is_named(tmp_path: Path, recipe: Recipe) -> None:
    store = Store(tmp_path / "store")
    there = Place(tmp_path, store, prepared(store))
    (tmp_path / "text.pt2").write_text("no program")
    for name, told in {"none.pt2": "no such file", "text.pt2": "cannot be read"}.items():
        asked = recipe.model_copy(update={"evaluate": SETTINGS.model_copy(update={"encoder": name})})
        with pytest.raises(AtelierError, match=told):
            there.encoder(asked)
    with pytest.raises(ValidationError, match="neither classifier nor a file"):
        Evaluate(encoder="dino")


def test_pictures_that_show_what_moderation_names_are_counted_gated_and_shown(tmp_path: Path, recipe: Recipe) -> None:
    exported(tmp_path / "judge.pt2", judge())
    images = {"model": "judge.pt2", "block": {"brightness": 1}}
    asked = recipe.model_copy(update={"moderation": Moderation.model_validate({"images": images})})
    store = Store(tmp_path / "store")
    place = Place(tmp_path, store, prepared(store))
    plain = place.bundle("copier", {"copies": 100})
    made = place.bundle("copier", {"copies": 100}, moderation=asked.moderation)
    assert made != plain and (store.path(made) / "inspector.pt2").is_file()
    scores = place.scores(made, asked)
    assert all(0.4 < share < 0.6 for share in scores.values["unsafe"]), "half of the training rows are bright"
    assert 0.4 < scores.floor["unsafe"] < 0.6
    sheet = Image.open(store.path(scores.pictures) / "unsafe.png").convert("L")
    assert np.asarray(sheet).mean() > 128
    (rule,) = [rule for rule in gating.rules(asked) if rule.metric == "unsafe"]
    assert rule.at_most == 0.01 and not any(rule.metric == "unsafe" for rule in gating.rules(recipe))
    assert "unsafe" not in place.scores(plain, recipe).values


@pytest.mark.parametrize("copies", [0, 1, 5])
def test_a_planted_copier_is_seen_to_the_row(place: Place, recipe: Recipe, copies: int) -> None:
    scores = place.scores(place.bundle("copier", {"copies": copies}), recipe)
    planted = [
        sum(loading.seed_of(seed, "sample", i) % 100 < copies for i in range(SETTINGS.samples)) / SETTINGS.samples
        for seed in SETTINGS.seeds
    ]
    assert scores.values["copied"] == pytest.approx(planted)
    assert all(planted) is (copies > 0)
    verdict = gating.gate(trained("copier"), scores, footprint(), recipe, None)
    (check,) = [check for check in verdict.checks if check.metric == "copied"]
    assert check.passed is (copies == 0), "one copy in a hundred samples is one too many"


def test_weights_that_are_no_numbers_are_refused_before_anything_is_drawn(place: Place, recipe: Recipe) -> None:
    made = place.bundle("vae", {"latent_dim": 4, "width": 4, "hidden": 16})
    weights = load_file(place.store.path(made) / "model.safetensors")
    next(iter(weights.values())).flatten()[3] = float("nan")
    with place.store.writing("bundle") as draft:
        for path in place.store.path(made).iterdir():
            (draft.directory / path.name).write_bytes(path.read_bytes())
        save_file(weights, draft.directory / "model.safetensors")
    with pytest.raises(AtelierError, match="no numbers, so nothing that it makes can be scored"):
        place.scores(draft.artifact, recipe)


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
