import io

import pytest
import torch
from PIL import Image

from components.controls import PublicControl
from components.modalities.image import classifier, metrics
from components.modalities.image.batch import Images, ImageSpec

SPEC = ImageSpec(channels=1, size=16, classes=("upper", "lower"))


class Bars:
    """Pictures with a bar in the upper (class 0) or the lower half (class 1), and a little noise."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % 2
        self.pixels = -0.8 + 0.1 * torch.randn(count, 1, 16, 16, generator=generator)
        places = torch.randint(0, 6, (count,), generator=generator) + 8 * self.labels
        for row, place in enumerate(places):
            self.pixels[row, 0, place : place + 2] += 1.5

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: torch.Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index])


@pytest.fixture(scope="module")
def reference() -> metrics.Reference:
    train = Bars(512, seed=0)
    encoder = classifier.fit(train, SPEC, seed=0)
    return metrics.Reference.of(train, Bars(256, seed=1), encoder, classes=SPEC.classes)


def test_every_metric_has_a_direction_and_a_value(reference: metrics.Reference) -> None:
    bars = Bars(64, seed=2)
    assert reference.measure(Images(bars.pixels, bars.labels)).keys() == metrics.DIRECTIONS.keys()
    assert reference.measure(Images(bars.pixels)).keys() == metrics.DIRECTIONS.keys() - metrics.NEEDS.keys()
    assert reference.floor().keys() == metrics.DIRECTIONS.keys() - {"cas"}


def test_fresh_rows_of_the_same_kind_beat_noise_on_every_metric(reference: metrics.Reference) -> None:
    bars = Bars(256, seed=2)
    good = reference.measure(Images(bars.pixels, bars.labels))
    bad = reference.measure(Images(torch.rand(256, 1, 16, 16) * 2 - 1, bars.labels))
    for name, direction in metrics.DIRECTIONS.items():
        sign = 1 if direction == "lower" else -1
        assert sign * good[name] <= sign * bad[name], name
    assert good["fd"] < 0.2 * bad["fd"]


def test_pictures_that_do_not_show_what_they_were_asked_for_lose_label_accuracy_and_cas(
    reference: metrics.Reference,
) -> None:
    bars = Bars(256, seed=2)
    right = reference.measure(Images(bars.pixels, bars.labels))
    wrong = reference.measure(Images(bars.pixels, 1 - bars.labels))
    assert right["label_accuracy"] > 0.95 and right["cas"] > 0.9
    assert wrong["label_accuracy"] < 0.05 and wrong["cas"] < 0.1


def test_labels_are_asked_for_as_the_held_out_rows_have_them(reference: metrics.Reference) -> None:
    label = PublicControl(default="any", choices=("any", "upper", "lower"))
    asked = reference.requests({"label": label})
    assert [row["label"] for row in asked[:3]] == ["upper", "lower", "upper"] and len(asked) == 256
    assert reference.requests({}) == [{}]


def test_training_rows_themselves_are_seen_as_copies(reference: metrics.Reference) -> None:
    rows = Bars(256, seed=2).pixels
    rows[:13] = Bars(512, seed=0).pixels[:13]
    assert reference.measure(Images(rows))["copied"] == pytest.approx(13 / 256)


def test_a_generator_that_makes_one_class_only_loses_entropy_and_coverage(reference: metrics.Reference) -> None:
    bars = Bars(256, seed=2)
    found = reference.measure(Images(bars.pixels[bars.labels == 0]))
    assert found["label_entropy"] < 0.2
    assert found["coverage"] < 0.7


def test_the_classifier_is_a_function_of_its_seed() -> None:
    one, two = (classifier.fit(Bars(128, seed=0), SPEC, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_sheets_show_as_many_real_pictures_as_generated_ones(reference: metrics.Reference) -> None:
    sheets = reference.sheets(Images(Bars(20, seed=2).pixels))
    assert len({Image.open(io.BytesIO(sheet)).size for sheet in sheets.values()}) == 1
