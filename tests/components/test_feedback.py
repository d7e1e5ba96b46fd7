"""Feedback as data: rejected samples byte for byte, what cannot be drawn again, and a metric that knows them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components import encoders, evaluation, feedback, ingestion, modalities, references, rows, sampling
from components.errors import AtelierError
from components.feedback import Made, Pair, Sample, Set
from components.recipe import Data, Evaluate, HeldOut, More
from components.records import Artifact, Shards
from components.store import Store
from tests.components.planted_family import bundled, planted
from tests.components.prepared_pictures import prepared


@dataclass(frozen=True)
class Place:
    root: Path
    store: Store
    shards: Shards
    encoder: Artifact
    bundle: Artifact

    def sample(self, seed: int, **changed: object) -> Sample:
        known = {"request": f"req-{seed:032x}", "index": 0, "version": "1", "digest": self.bundle.digest, "seed": seed}
        return Sample.model_validate(known | {"controls": {"label": "dark"}} | changed)

    def write(self, found: Set, before: Path | None = None, bundle: Artifact | None = None) -> Made:
        bundle = bundle or self.bundle
        return feedback.write(
            found, {bundle.digest: bundle}, model="shades", modality="image", licence="MIT", before=before,
            store=self.store,
        )  # fmt: skip

    def folder(self, made: Made) -> Path:
        return self.store.path(made.folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("feedback")
    store = Store(root / "store")
    shards = prepared(store)
    with planted(tmp_path_factory.mktemp("families")):
        encoder = encoders.fit(shards, modality="image", store=store)
        yield Place(root, store, shards, encoder, bundled(shards, store))


def ids(folder: Path) -> list[str]:
    return [row["id"] for row in pq.read_table(folder / "rejected.parquet").to_pylist()]


def test_rejected_samples_are_drawn_again_byte_for_byte(place: Place) -> None:
    samples = tuple(place.sample(seed, controls={"label": label}) for seed, label in ((41, "dark"), (47, "light")))
    made = place.write(Set(rejected=samples))
    rows = pq.read_table(place.folder(made) / "rejected.parquet").to_pylist()
    endpoint = sampling.load(place.store.path(place.bundle))
    served = [endpoint.generate([one.seed], [one.controls])[0] for one in samples]  # each alone, as it was asked for
    assert [row["image"] for row in rows] == served and made.rejected == 2
    assert [(row["seed"], json.loads(row["controls"])["label"]) for row in rows] == [(41, "dark"), (47, "light")]


def test_what_cannot_be_drawn_again_is_counted_by_why(place: Place) -> None:
    made = place.write(
        Set(rejected=(place.sample(41), place.sample(42, digest="sha256:gone"), place.sample(43, controls={})))
    )
    assert made.rejected == 1 and made.lost == {"text": 1, "version": 1}
    told = (place.folder(made) / "README.md").read_text()
    assert "set ATELIER_LOG_PROMPTS" in told and "not in the ledger" in told


def test_samples_that_the_journal_forgot_stay_until_there_is_another_thumb(place: Place) -> None:
    first = place.folder(place.write(Set(rejected=(place.sample(41), place.sample(42)))))
    second = place.folder(place.write(Set(rejected=(place.sample(44),)), before=first))
    assert set(ids(second)) == {place.sample(seed).id for seed in (41, 42, 44)}
    third = place.folder(place.write(Set(judged=frozenset([place.sample(41).id])), before=second))
    assert set(ids(third)) == {place.sample(seed).id for seed in (42, 44)}


def test_a_text_with_another_end_of_line_in_it_does_not_cut_a_pair_in_two(place: Place) -> None:
    asked = place.sample(41).model_copy(update={"controls": {"text": "one\u2028two\x85three"}})
    pair = Pair(better=asked, worse=place.sample(42))
    first = place.folder(place.write(Set(pairs=(pair,))))
    assert place.write(Set(), before=first).pairs == 1


def test_pairs_have_a_line_each_and_stay_too(place: Place) -> None:
    one = Pair(better=place.sample(41), worse=place.sample(42))
    other = Pair(better=place.sample(42), worse=place.sample(44, version="2"))
    turned = Pair(better=place.sample(42), worse=place.sample(41))
    first = place.folder(place.write(Set(pairs=(one,))))
    made = place.write(Set(pairs=(other, turned)), before=first)
    lines = (place.folder(made) / "pairs.jsonl").read_text().splitlines()
    assert [Pair.model_validate_json(line) for line in lines] == [turned, other], "the newest counts"
    assert made.pairs == 2


@pytest.fixture(scope="module")
def disliked(place: Place) -> Path:
    """Thirty rejected pictures with stripes, all of them unlike real ones."""
    return place.folder(place.write(Set(rejected=tuple(place.sample(1 + 20 * at) for at in range(30)))))


def test_the_metric_knows_rejected_samples_from_real_ones(place: Place, disliked: Path) -> None:
    rejected = feedback.prepared(disliked, {"size": 12, "channels": 1}, modality="image", store=place.store)
    reference = references.of(
        place.shards.shards, place.shards.spec, place.encoder, modality="image", classes=("light", "dark"),
        store=place.store,
    )  # fmt: skip
    split = modalities.part("image", "shards").open_split(place.store.path(rejected), "train")
    bad = split.batch(torch.arange(len(split)))
    endpoint = sampling.load(place.store.path(place.bundle))
    like, unlike = (endpoint.sample([kind + 20 * at for at in range(60, 160)]) for kind in (1, 7))
    assert reference.like_rejected(like, bad) > 0.95 > 0.05 > reference.like_rejected(unlike, bad)
    assert reference.like_rejected(None, bad) < 0.05


def test_scores_have_it_with_a_floor_where_rejected_samples_are_at_hand_and_nowhere_else(
    place: Place, disliked: Path
) -> None:
    settings = Evaluate(samples=300, seeds=(0, 1))
    rejected = feedback.prepared(disliked, {"size": 12, "channels": 1}, modality="image", store=place.store)
    given = {"modality": "image", "store": place.store}
    plain = evaluation.evaluate(place.bundle, place.shards, place.encoder, settings, **given)
    asked = evaluation.evaluate(place.bundle, place.shards, place.encoder, settings, **given, rejected=rejected)
    assert "rejected" not in plain.values and asked.floor["rejected"] < 0.05
    assert all(0 < share < 0.15 for share in asked.values["rejected"]), "one of twenty is striped"


def test_too_few_rejected_samples_measure_nothing(place: Place, tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="has 0 rejected samples, and 20 are needed"):
        feedback.refuse_few(tmp_path, "shades")
    few = place.folder(place.write(Set(rejected=(place.sample(41),))))
    with pytest.raises(AtelierError, match="has 1 rejected samples"):
        feedback.refuse_few(few, "shades")


def test_rejected_samples_are_left_out_of_further_rows_where_the_recipe_says_so(place: Place, tmp_path: Path) -> None:
    endpoint = sampling.load(place.store.path(place.bundle))
    seeds = list(range(43, 53))
    for name, table in {
        "d": {"image": endpoint.generate([3 + 20 * at for at in range(40)])},
        "synthetic-shades": {
            "image": endpoint.generate(seeds, [{"label": "dark"}] * 10),
            "id": [str(s) for s in seeds],
        },
    }.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        pq.write_table(pa.table(table), tmp_path / "data" / name / "rows.parquet")
    (tmp_path / "data/synthetic-shades/README.md").write_text("---\nmade_by: shades@1\n---\n")
    made = place.write(Set(rejected=(place.sample(44), place.sample(47))))
    shutil.copytree(place.folder(made), tmp_path / "data/feedback-shades")
    taken = {}
    for asked in (False, True):
        data = Data(
            source="data/d", held_out=HeldOut(share=0.3, by="digest"), exclude_rejected=asked,
            more=(More(source="data/synthetic-shades", at_most=0.9),),
        )  # fmt: skip
        dataset = ingestion.ingest(data, modality="image", project=tmp_path, store=place.store)
        found = [row["id"] for batch in rows.read(place.store.path(dataset.rows)) for row in batch.to_pylist()]
        taken[asked] = {name.partition("/")[2] for name in found if name.startswith("synthetic-shades/")}
        source = ingestion.bring(data, project=tmp_path, store=place.store)
        assert (source.more[0].excluded is not None) is asked and ingestion.known(data, project=tmp_path) == source
    assert taken[False] - taken[True] == {"44", "47"} and len(taken[True]) == 8
    assert dataset.excluded == {"people rejected it": 2}
