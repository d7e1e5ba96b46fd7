"""Through the real commands: a champion's samples become a dataset that DVC keeps, another version is trained on it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components import sampling, versioning
from components.errors import AtelierError
from components.records import Artifact
from flows import events, listing
from flows.workspace import Workspace
from tests.flows.small_project import project
from tests.flows.test_line import Answer, Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("synthetic")
    return Place(root / "workspace", project(root / "project"))


@pytest.fixture(scope="module")
def made(place: Place) -> Answer:
    ran = place.atelier("run", "shapes")
    assert ran.code == 0, ran.json
    return place.atelier("synthesize", "shapes", "--rows", "120")


slow = [pytest.mark.slow, pytest.mark.timeout(600)]


class TestLine:
    pytestmark = slow

    def test_the_dataset_lies_beside_the_data_as_a_version_of_dvcs(self, made: Answer, place: Place) -> None:
        assert made.code == 0, made.json
        assert made.json["source"] == "data/synthetic-shapes"
        assert made.json["version"] == versioning.version_of(place.project, "data/synthetic-shapes")
        assert versioning.is_tracked(place.project, "data/synthetic-shapes")
        card = made.json["card"]
        assert card == json.loads((place.project / "data/synthetic-shapes/card.json").read_text())
        assert card["made_by"] == "shapes@1" and "augmentation_gain" in card["worth"]
        (event,) = [one for one in events.since(Workspace(place.project, place.root)) if one.kind == "dataset.made"]
        assert (event.model, event.facts["version"]) == ("shapes", made.json["version"])
        assert card["drawn"] == card["rows"] + sum(card["dropped"].values())

    def test_every_row_is_what_the_version_makes_of_its_seed(self, made: Answer, place: Place) -> None:
        rows = pq.read_table(place.project / "data/synthetic-shapes/samples.parquet").to_pylist()
        bundle = place.store.path(Artifact(kind="bundle", digest=made.json["card"]["bundle"]))
        drawn = sampling.load(bundle).generate(
            [row["seed"] for row in rows[:9]], [json.loads(row["controls"]) for row in rows[:9]]
        )
        assert drawn == [row["image"] for row in rows[:9]]

    def test_a_version_that_was_trained_on_it_says_so(self, made: Answer, place: Place) -> None:
        more = "data.more=[{source: data/synthetic-shapes, at_most: 0.2}]"
        ran = place.atelier("run", "shapes", "--set", more)
        assert ran.code == 0, ran.json
        told = place.atelier("show", f"shapes@{ran.run()['version']}").json["synthetic"]
        assert told == f"80 rows of shapes@1 (data/synthetic-shapes {made.json['version']})", "320 are four fifths"
        tags = place.client.get_model_version("shapes", ran.run()["version"]).tags
        assert tags["atelier.synthetic"] == told
        assert told in place.client.get_model_version("shapes", ran.run()["version"]).description
        bento = place.root / "bentoml" / "bentos" / ran.run()["bento"].replace(":", "/")
        assert "shapes@1" in (bento / "README.md").read_text()
        assert place.atelier("show", "shapes@1").json["synthetic"] is None
        back = place.atelier("restore", f"shapes@{ran.run()['version']}", "--to", str(place.root / "back"))
        assert back.code == 0 and (place.root / "back/more-synthetic-shapes/card.json").is_file()


def test_the_recipe_of_a_model_is_found_by_its_model_line(tmp_path: Path) -> None:
    recipes = tmp_path / "flows/recipes"
    recipes.mkdir(parents=True)
    (recipes / "a.yaml").write_text("model: shapes  # of ours\n")
    (recipes / "b.yaml").write_text("model: shapes-too\n")
    place = Workspace(tmp_path, tmp_path / "workspace")
    assert listing.recipe(place, "shapes") == recipes / "a.yaml"
    with pytest.raises(AtelierError, match="none makes it"):
        listing.recipe(place, "shape")
    (recipes / "c.yaml").write_text("model: 'shapes'\n")
    with pytest.raises(AtelierError, match=r"2 of them make it \(a\.yaml, c\.yaml\)"):
        listing.recipe(place, "shapes")
