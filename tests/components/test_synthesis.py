"""A dataset of samples: planted faults are dropped and counted, the suite is asked, and every row leads to its seed."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from components import bundle, encoders, families, ingestion, modalities, sampling, synthesis, validation
from components.errors import AtelierError, DataRejected
from components.recipe import Data, HeldOut, Validate
from components.records import Artifact, Dataset, Drawn, Maker, Shards, Validated
from components.store import Store
from components.synthesis import Wish
from tests.components.planted_family import bundled, planted
from tests.components.prepared_pictures import CLASSES, prepared


@dataclass(frozen=True)
class Place:
    store: Store
    shards: Shards
    encoder: Artifact

    def maker(self, bundle: Artifact) -> Maker:
        return Maker(
            model="shades", version="3", modality="image", family="planted", bundle=bundle, shards=self.shards.shards,
            encoder=self.encoder, data="md5:0.dir", commit=None, recipe="sha256:r", licence="MIT",
        )  # fmt: skip

    def validated(self, drawn: Drawn) -> Validated:
        dataset = Dataset(
            source="data/synthetic-shades", version=drawn.rows.digest, commit=None, rows=drawn.rows,
            count=drawn.kept + drawn.real, classes=drawn.classes, licence="MIT",
        )  # fmt: skip
        return validation.validate(dataset, Validate(), modality="image", reject_at_most=0.01, store=self.store)


@pytest.fixture(scope="module", autouse=True)
def a_planted_family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with planted(tmp_path_factory.mktemp("families")):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    torch.set_num_threads(1)
    store = Store(tmp_path_factory.mktemp("synthesis") / "store")
    shards = prepared(store)
    return Place(store, shards, encoders.fit(shards, modality="image", store=store))


@pytest.fixture(scope="module")
def drawn(place: Place) -> Drawn:
    return synthesis.draw(place.maker(bundled(place.shards, place.store)), Wish(rows=200, seed=40), store=place.store)


def told(place: Place, drawn: Drawn) -> list[dict]:
    rows = pq.read_table(place.store.path(drawn.rows) / "part-00000.parquet").to_pylist()
    return [row for row in rows if row["split"] == "train"]


def test_planted_copies_far_rows_and_repeats_are_dropped_and_counted(place: Place, drawn: Drawn) -> None:
    seeds = [int(row["id"]) for row in told(place, drawn)]
    kinds = Counter(seed % 20 for seed in range(40, 40 + drawn.drawn))
    assert len(seeds) == drawn.kept == 200 and drawn.drawn == 200 + sum(drawn.dropped.values())
    assert not [seed for seed in seeds if seed % 20 in (0, 1)]
    assert drawn.dropped["copy"] >= kinds[0] and drawn.dropped["far"] >= kinds[1]
    repeats = [seed for seed in seeds if seed % 20 == 2]
    assert 1 <= len(repeats) <= 2 and drawn.dropped["repeated"] == kinds[2] - len(repeats), "one for each label"
    assert drawn.dropped["copy"] + drawn.dropped["far"] <= kinds[0] + kinds[1] + 0.06 * drawn.drawn, "few others go"


def test_without_faults_hardly_anything_is_dropped(place: Place) -> None:
    made = synthesis.draw(
        place.maker(bundled(place.shards, place.store, faults=False)), Wish(rows=100), store=place.store
    )
    assert sum(made.dropped.values()) <= 6


def test_labels_are_asked_for_in_equal_parts_or_as_named(place: Place, drawn: Drawn) -> None:
    rows = told(place, drawn)
    assert Counter(row["label"] for row in rows) == {0: 100, 1: 100} and drawn.labelled == "asked"
    levels: dict[int, list[int]] = {0: [], 1: []}
    for row in rows:
        levels[row["label"]].append(sum(modalities.part("image", "codec").decode(row["payload"]).tobytes()))
    assert min(levels[0]) > max(levels[1]), "light ones are lighter"
    one = synthesis.draw(
        place.maker(bundled(place.shards, place.store)), Wish(rows=30, labels=("dark",)), store=place.store
    )
    assert {row["label"] for row in told(place, one)} == {CLASSES.index("dark")}
    with pytest.raises(AtelierError, match="unknown label 'drak'; did you mean 'dark'"):
        synthesis.draw(
            place.maker(bundled(place.shards, place.store)), Wish(rows=9, labels=("drak",)), store=place.store
        )


def test_a_model_that_takes_no_label_has_those_that_the_classifier_sees(place: Place) -> None:
    maker = place.maker(bundled(place.shards, place.store, labels=False))
    made = synthesis.draw(maker, Wish(rows=60), store=place.store)
    assert made.labelled == "seen" and "label_accuracy" not in made.worth and "augmentation_gain" in made.worth
    assert all(row["label"] == 1 - int(row["id"]) % 2 for row in told(place, made) if int(row["id"]) % 20 != 2)
    with pytest.raises(AtelierError, match="takes no label"):
        synthesis.draw(maker, Wish(rows=9, labels=("dark",)), store=place.store)


def test_a_model_that_gives_the_same_over_and_over_gives_no_dataset(place: Place) -> None:
    maker = place.maker(bundled(place.shards, place.store, same=True))
    with pytest.raises(DataRejected, match=r"of .* samples of shades@3 only .* the same as an earlier sample"):
        synthesis.draw(maker, Wish(rows=40), store=place.store)


def test_the_worth_of_labelled_rows_is_measured(drawn: Drawn) -> None:
    assert drawn.worth.keys() == {"label_accuracy", "cas", "augmentation_gain"}
    assert drawn.worth["label_accuracy"] > 0.95 and drawn.worth["cas"] > 0.9


def test_the_suite_of_the_recipe_is_asked_with_real_rows_held_out(place: Place, drawn: Drawn) -> None:
    found = place.validated(drawn)
    assert found.accepted == {"held_out": 64, "train": 200} and not found.rejected


def test_what_is_written_is_a_source_that_ingestion_reads_and_whose_seeds_give_its_bytes(
    place: Place, drawn: Drawn, tmp_path: Path
) -> None:
    maker, wish = place.maker(bundled(place.shards, place.store)), Wish(rows=200, seed=40)
    made = synthesis.write(drawn, place.validated(drawn), maker, wish, name="synthetic-shades", store=place.store)
    folder = tmp_path / "data" / "synthetic-shades"
    shutil.copytree(place.store.path(made), folder)
    data = Data(source="data/synthetic-shades", held_out=HeldOut(share=0.2, by="digest"))
    dataset = ingestion.ingest(data, modality="image", project=tmp_path, store=place.store)
    assert (dataset.count, dataset.classes, dataset.licence) == (200, CLASSES, "MIT")
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    endpoint = sampling.load(place.store.path(maker.bundle))
    few = rows[:: len(rows) // 7]
    again = endpoint.generate([row["seed"] for row in few], [json.loads(row["controls"]) for row in few])
    assert again == [row["image"] for row in few] and all(row["id"] == str(row["seed"]) for row in rows)
    card = json.loads((folder / "card.json").read_text())
    assert (card["made_by"], card["bundle"], card["rows"]) == ("shades@3", maker.bundle.digest, 200)
    assert card["dropped"] == {**drawn.dropped, "suite": 0} and card["seeds"]["first"] == 40
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["made_by"] == "shades@3" and front["classes"] == list(CLASSES)


def test_models_that_edit_make_no_dataset(place: Place) -> None:
    spec = modalities.part("image", "batch").SPEC.model_validate(place.shards.spec | {"degrade": "invert"})
    module = families.get("cyclegan")
    with place.store.writing("weights") as draft:
        module.Model(module.Config(width=2), spec).save(draft.directory)
    made = bundle.assemble(draft.artifact, bundle.EndpointCard(model="shades"), place.store)
    with pytest.raises(AtelierError, match="makes its samples from rows that it is given"):
        synthesis.draw(place.maker(made), Wish(rows=4), store=place.store)
