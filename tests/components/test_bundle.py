"""A bundle: what `assemble` writes, `read` tells, and what is none is refused."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from components import bundle
from components.controls import PublicControl
from components.errors import AtelierError
from components.records import Artifact
from components.store import Store

CARD = {"format": 1, "family": "vae", "modality": "image", "config": {"width": 8}, "spec": {"size": 28}}
ENDPOINT = bundle.EndpointCard(model="shoes", controls={"truncation": PublicControl(default=1.0, at_least=0.5)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def weights(store: Store) -> Artifact:
    with store.writing("weights") as draft:
        save_file({"head": zeros(3)}, draft.directory / "model.safetensors")
        (draft.directory / "config.json").write_text(json.dumps(CARD))
    return draft.artifact


def test_a_bundle_holds_three_files_and_both_cards(store: Store, weights: Artifact) -> None:
    made = bundle.assemble(weights, ENDPOINT, store)
    folder = store.path(made)
    assert made.kind == "bundle" and store.holds(made)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "endpoint.json"}
    assert (folder / "model.safetensors").read_bytes() == (store.path(weights) / "model.safetensors").read_bytes()
    model, endpoint = bundle.read(folder)
    assert endpoint == ENDPOINT and (model.family, model.config) == ("vae", {"width": 8})


def test_a_control_that_is_drawn_from_the_seed_comes_back_as_it_was(store: Store, weights: Artifact) -> None:
    drawn = PublicControl(default=None, at_least=-2, at_most=2)
    folder = store.path(bundle.assemble(weights, bundle.EndpointCard(model="shoes", controls={"style": drawn}), store))
    assert bundle.read(folder)[1].controls == {"style": drawn}


def test_the_same_weights_and_card_are_the_same_bundle_and_another_card_is_not(store: Store, weights: Artifact) -> None:
    made = bundle.assemble(weights, ENDPOINT, store)
    assert bundle.assemble(weights, ENDPOINT.model_copy(), store) == made
    assert bundle.assemble(weights, ENDPOINT.model_copy(update={"max_samples": 2}), store) != made


@pytest.mark.parametrize(
    ("file", "text", "word"),
    [
        ("config.json", None, "No such file"),
        ("endpoint.json", None, "No such file"),
        ("config.json", "{", "Invalid JSON"),
        ("config.json", json.dumps({**CARD, "code": "os.system"}), "code"),
        ("endpoint.json", '{"model": "shoes", "max_samples": 0}', "max_samples"),
    ],
)
def test_what_is_no_bundle_is_refused(store: Store, weights: Artifact, file: str, text: str | None, word: str) -> None:
    folder = store.path(bundle.assemble(weights, ENDPOINT, store))
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    with pytest.raises(AtelierError, match=f"(?s)is not a bundle.*{word}"):
        bundle.read(folder)


def test_a_bundle_of_another_format_names_both(store: Store, weights: Artifact) -> None:
    folder = store.path(bundle.assemble(weights, ENDPOINT, store))
    (folder / "config.json").write_text(json.dumps({**CARD, "format": 2}))
    with pytest.raises(AtelierError, match="format 2; this version reads format 1"):
        bundle.read(folder)
