import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components import recipe
from components.errors import AtelierError

RECIPES = sorted(Path("flows/recipes").glob("*.yaml"))


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "model": "toy",
        "modality": "image",
        "data": {"source": "data/fashion"},
        "candidates": {"vae": {"family": "vae", "config": {"latent_dim": 4}}},
        "gates": [{"metric": "fd", "at_most": 60}],
        "rank_by": "kd",
        **changes,
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_loads(path: Path) -> None:
    assert recipe.load(path).candidates


def test_there_are_recipes() -> None:
    assert {"fashion", "fashion-tiny"} <= {path.stem for path in RECIPES}


def test_the_editors_schema_is_current() -> None:
    kept = json.loads(Path("flows/recipes/schema.json").read_text())
    assert kept == recipe.schema(), "run `atelier schema > flows/recipes/schema.json`"


def test_candidates_inherit_the_recipes_training_settings_and_may_override_them() -> None:
    made = recipe.parse(
        raw(
            train={"steps": 7, "seed": 3},
            candidates={"a": {"family": "vae"}, "b": {"family": "vae", "train": {"steps": 9}}},
        ),
        "test",
    )
    assert (made.candidates["a"].train.steps, made.candidates["a"].train.seed) == (7, 3)
    assert (made.candidates["b"].train.steps, made.candidates["b"].train.seed) == (9, 3)


def test_settings_are_laid_over_the_file() -> None:
    made = recipe.load(Path("flows/recipes/fashion.yaml"), ["candidates.vae.train.steps=5", "gates.0.at_most=7"])
    assert made.candidates["vae"].train.steps == 5
    assert made.gates[0].at_most == 7
    assert made.candidates["dcgan"].train == recipe.load(Path("flows/recipes/fashion.yaml")).candidates["dcgan"].train


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gate": []}, "unknown key 'gate'; did you mean 'gates'?"),
        ({"data": {"sorce": "x"}}, "unknown key 'sorce'; did you mean 'source'?"),
        ({"candidates": {"v": {"family": "vae", "trian": {}}}}, "unknown key 'trian'; did you mean 'train'?"),
        ({"candidates": {"v": {"family": "vae", "train": {"step": 1}}}}, "unknown key 'step'; did you mean 'steps'?"),
        ({"candidates": {"v": {"family": "vea"}}}, "unknown family 'vea'; did you mean 'vae'?"),
        ({"candidates": {"v": {"family": "vae", "config": {"laten_dim": 3}}}}, "did you mean 'latent_dim'?"),
        (
            {"candidates": {"v": {"family": "vae", "config": {"latent_dim": 0}}}},
            "latent_dim.*greater than or equal to 1",
        ),
        ({"controls": {"truncation": {"default": 9}}}, "controls: a default is none that 'vae' takes: truncation"),
        ({"data": "https://bob:secret@host/x?token=secret"}, r"data: .*got 'https://host/x'"),
        ({"candidates": {"v": {"family": "vae", "train": {"steps": 0}}}}, "steps.*greater than or equal to 1.*got 0"),
        ({"candidates": {}}, "candidates"),
        ({"modality": "imge"}, "unknown modality 'imge'; did you mean 'image'?"),
        ({"gates": [{"metric": "fid", "at_most": 1}]}, "unknown metric 'fid'; did you mean 'fd'?"),
        ({"gates": [{"metric": "fd"}]}, "exactly one of at_most, at_least, not_worse_than"),
        ({"gates": [{"metric": "fd", "at_most": 1, "at_least": 0}]}, "exactly one of"),
        ({"gates": [{"metric": "fd", "at_most": 1, "tolerance": 0.1}]}, "which only not_worse_than knows"),
        ({"gates": [{"metric": "fd", "at_most": float("nan")}]}, "finite"),
        ({"candidates": {"../x": {"family": "vae"}}}, "candidates"),
        ({"evaluate": {"seeds": [-1, 2]}}, "seeds"),
        ({"rank_by": "loss"}, "unknown metric 'loss'"),
        ({"controls": {"truncatoin": {"default": 1}}}, "unknown control 'truncatoin'; did you mean 'truncation'?"),
        ({"controls": {"truncation": {"default": 9, "at_most": 1.5}}}, "must lie between"),
        (
            {"controls": {"truncation": {"default": None, "at_least": 0, "at_most": 1}}},
            "none that 'vae' takes: truncation",
        ),
        ({"controls": {"truncation": {"default": None}}}, "drawn from the seed: give at_least and at_most, or choices"),
        ({"prepare": {"sise": 28}}, "unknown key 'sise'; did you mean 'size'?"),
        ({"train": {"time_limit": "soon"}}, "'soon' is not a duration"),
        ({"data": {"source": "d", "held_out": {"column": "split"}}}, "either .column, value. or .share, by."),
        ({"model": "My Model"}, "model"),
        ({"gates": [{"metric": "unsafe", "at_most": 0.1}]}, "what a network sees that the recipe hands in"),
        ({"moderation": {"images": {"model": "a.pt2", "block": {}}}}, "block"),
        ({"schedule": {"cron": "0 3 * *"}}, "is no cron line"),
        ({"schedule": {"cron": "0 25 * * *"}}, "'0 3 . . .' for three in the morning"),
        ({"schedule": {"cron": "0 3 * * *", "timezone": "Europe/Pariss"}}, "did you mean 'Europe/Paris'"),
        ({"schedule": {"cron": "0 3 * * *", "every": "6h"}}, "either cron"),
        ({"schedule": {"every": "6 hours"}}, "is not a duration"),
        ({"schedule": {"every": "6h", "overlap": "both"}}, "'queue' or 'skip'"),
        ({"retrain": {"older_than": "a month"}}, "is not a duration"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_is_named_with_its_mend(change: dict[str, Any], words: str) -> None:
    with pytest.raises(AtelierError, match=words) as caught:
        recipe.parse(raw(**change), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("evaluate.encoder=dino.onnx", "a space for pictures, and the recipe makes text"),
        ("moderation.images={model: a.onnx, block: {gore: 0}}", "about pictures, and the recipe makes text"),
    ],
)
def test_what_is_about_pictures_is_refused_elsewhere(setting: str, words: str) -> None:
    with pytest.raises(AtelierError, match=words):
        recipe.load(Path("flows/recipes/shakespeare.yaml"), [setting])


def test_a_control_may_be_left_to_the_seed_where_the_family_draws_it() -> None:
    style = {"default": None, "at_least": -2, "at_most": 2}
    made = recipe.parse(raw(candidates={"codes": {"family": "infogan"}}, controls={"style": style}), "test")
    assert made.controls["style"].default is None


def test_a_recipe_without_triggers_is_written_down_as_before_there_were_any() -> None:
    assert "retrain" not in recipe.parse(raw(), "test").model_dump()
    scheduled = recipe.parse(raw(schedule={"every": "6h"}, retrain={"after": ["base"], "wait": "2m"}), "test")
    assert scheduled.schedule is not None and scheduled.schedule.catch_up == "one"
    assert scheduled.retrain is not None and scheduled.retrain.seconds == 120


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        recipe.parse(raw(), "test").rank_by = "fd"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model: a\nmodel: b", "'model' stands twice"),
        ("a: [", "not valid YAML"),
        ("- a", "must be a mapping"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_a_broken_file_is_one_paragraph(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AtelierError, match=words):
        recipe.load(path)


def test_a_missing_file_and_a_wrong_setting_are_named(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="there is no recipe"):
        recipe.load(tmp_path / "none.yaml")
    with pytest.raises(AtelierError, match="not of the form path=value"):
        recipe.load(RECIPES[0], ["steps"])
    with pytest.raises(AtelierError, match="there is no recipe"):
        recipe.load(tmp_path)
    with pytest.raises(AtelierError, match="the value is not valid YAML"):
        recipe.load(RECIPES[0], ["model=[x"])
    with pytest.raises(AtelierError, match="unknown key 'stepz'"):
        recipe.load(RECIPES[0], ["candidates.vae.train.stepz=5"])


def test_a_broken_file_shows_no_line_of_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text('model: toy\nnotify:\n  urls: ["slack://token]\n')
    with pytest.raises(AtelierError, match=r"not valid YAML.*line 3, column 10") as told:
        recipe.load(tmp_path / "r.yaml")
    assert "token" not in str(told.value)


def test_the_bare_word_on_of_a_notice_is_what_it_is_about(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f'{json.dumps(raw())[:-1]}, notify: {{urls: ["json://a/b"], on: [drift]}}}}')
    told = recipe.load(tmp_path / "r.yaml").notify
    assert told is not None and told.on == ("drift",)
