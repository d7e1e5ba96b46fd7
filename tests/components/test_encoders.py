"""The encoder is an instrument: the same rows give the same one, and it is measured."""

import json

import pytest
import torch

from components import encoders, modalities
from components.errors import AtelierError
from components.records import Artifact, Shards
from components.store import Store
from tests.components.prepared_pictures import prepared


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    torch.set_num_threads(1)
    return Store(tmp_path_factory.mktemp("encoders") / "store")


@pytest.fixture(scope="module")
def shards(store: Store) -> Shards:
    return prepared(store)


@pytest.fixture(scope="module")
def fitted(store: Store, shards: Shards) -> Artifact:
    return encoders.fit(shards, modality="image", store=store)


def test_the_same_rows_give_the_same_digest_whatever_the_global_seed(
    store: Store, shards: Shards, fitted: Artifact
) -> None:
    torch.manual_seed(1234)
    assert encoders.fit(shards, modality="image", store=store) == fitted


def test_other_rows_give_another_encoder(store: Store, fitted: Artifact) -> None:
    assert encoders.fit(prepared(store, seed=1), modality="image", store=store) != fitted


def test_its_card_says_how_well_it_tells_held_out_rows_apart(store: Store, fitted: Artifact) -> None:
    card = json.loads((store.path(fitted) / "encoder.json").read_text())
    assert card["kind"] == "classifier" and card["modality"] == "image" and card["spec"]["size"] == 12
    assert card["held_out_accuracy"] >= 0.95  # light and dark are easily told apart


def test_a_loaded_encoder_is_frozen_and_gives_the_same_features(store: Store, shards: Shards, fitted: Artifact) -> None:
    rows = modalities.part("image", "shards").open_split(store.path(shards.shards), "held_out").batch(torch.arange(8))
    one, other = (encoders.load(fitted, shards.spec, modality="image", store=store) for _ in range(2))
    assert not one.training and not any(parameter.requires_grad for parameter in one.parameters())
    assert torch.equal(one.features(rows), other.features(rows))  # type: ignore[operator]


def test_an_encoder_of_another_form_is_refused_in_one_paragraph(store: Store, fitted: Artifact) -> None:
    shaped = prepared(store, size=12)
    three = shaped.model_copy(update={"spec": {**shaped.spec, "classes": ["light", "grey", "dark"]}})
    with pytest.raises(AtelierError, match="does not fit") as raised:
        encoders.load(fitted, three.spec, modality="image", store=store)
    assert "\n" not in str(raised.value)
