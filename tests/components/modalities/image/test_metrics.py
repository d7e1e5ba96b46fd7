import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from components.controls import PublicControl
from components.modalities.image import classifier, codec, metrics
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
    asked_apart = {*metrics.OF_INSPECTION, *metrics.OF_FEEDBACK}
    generative = metrics.DIRECTIONS.keys() - {*metrics.OF_RESTORED, *metrics.OF_CODES} - asked_apart
    assert reference.measure(Images(bars.pixels, bars.labels)).keys() == generative
    assert reference.measure(Images(bars.pixels)).keys() == generative - {*metrics.OF_LABELS}
    assert reference.floor().keys() == generative - {"cas", "augmentation_gain", "nearer_train"}


def test_fresh_rows_of_the_same_kind_beat_noise_on_every_metric(reference: metrics.Reference) -> None:
    bars = Bars(256, seed=2)
    good = reference.measure(Images(bars.pixels, bars.labels))
    bad = reference.measure(Images(torch.rand(256, 1, 16, 16) * 2 - 1, bars.labels))
    for name, direction in metrics.DIRECTIONS.items():
        if name not in good or name in ("nearer_train", "authenticity", "augmentation_gain"):
            continue
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
    assert abs(right["augmentation_gain"]) < 0.05  # bars are known from few already
    assert wrong["augmentation_gain"] < -0.2


def test_labels_are_asked_for_as_the_held_out_rows_have_them(reference: metrics.Reference) -> None:
    label = PublicControl(default="any", choices=("any", "upper", "lower"))
    asked = reference.requests({"label": label})
    assert [row["label"] for row in asked[:3]] == ["upper", "lower", "upper"] and len(asked) == 256
    assert reference.requests({}) == [{}]


def test_a_code_is_recovered_where_each_stands_for_a_class_whichever(reference: metrics.Reference) -> None:
    bars = Bars(256, seed=2)  # upper and lower in turn
    rows, drawn = Images(bars.pixels), torch.Generator().manual_seed(0)
    turned = reference.measure(rows, [{"code": 1}, {"code": 0}])
    blind = reference.measure(rows, [{"code": int(code)} for code in torch.randint(2, (256,), generator=drawn)])
    assert turned["code_accuracy"] > 0.95
    assert blind["code_accuracy"] < 0.62
    assert "code_accuracy" not in reference.measure(rows)


def test_codes_are_asked_for_in_turn_and_any_is_none_of_them(reference: metrics.Reference) -> None:
    asked = reference.requests({"code": PublicControl(default=-1, at_least=-1, at_most=2)})
    assert asked == [{"code": 0}, {"code": 1}, {"code": 2}]
    assert reference.requests({"code": PublicControl(default=1, choices=(-1, 1, 3))}) == [{"code": 1}, {"code": 3}]


def test_training_rows_themselves_are_seen_as_copies(reference: metrics.Reference) -> None:
    rows = Bars(256, seed=2).pixels
    rows[:13] = Bars(512, seed=0).pixels[:13]
    assert reference.measure(Images(rows))["copied"] == pytest.approx(13 / 256)


def test_rows_beside_training_rows_are_less_authentic_and_nearer_to_them(reference: metrics.Reference) -> None:
    fresh, known = Bars(256, seed=2).pixels, Bars(512, seed=0).pixels[:256]
    noise = 0.01 * torch.randn(known.shape, generator=torch.Generator().manual_seed(0))
    good, bad = (reference.measure(Images(pixels)) for pixels in (fresh, known + noise))
    assert good["authenticity"] > reference.floor()["authenticity"] - 0.1
    assert bad["authenticity"] < 0.2
    assert abs(good["nearer_train"] - 0.5) < 0.1
    assert bad["nearer_train"] > 0.75  # of 512 training rows half are among as many as there are held-out ones
    swapped = reference.measure(Images(Bars(256, seed=1).pixels + noise))
    assert swapped["nearer_train"] == 0


def test_the_evidence_shows_the_worst_first_beside_what_it_is_like(reference: metrics.Reference) -> None:
    pixels = Bars(64, seed=2).pixels
    pixels[7] = Bars(512, seed=0).pixels[100]
    sheet = np.array(Image.open(io.BytesIO(reference.evidence(Images(pixels))["nearest.png"])))
    copy, original = sheet[2:34, 2:34], sheet[2:34, 36:68]  # pixels are twice as wide, two apart
    assert (copy == original).all()
    assert (copy[::2, ::2] == codec.to_bytes(pixels[7:8])[0, :, :, 0]).all()
    assert (sheet[2:34, 70:102] != sheet[2:34, 104:136]).any()


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


@pytest.fixture
def restoring(reference: metrics.Reference) -> metrics.Reference:
    encoder = classifier.Classifier(SPEC.model_copy(update={"degrade": "invert"}))
    encoder.load_state_dict(reference.encoder.state_dict())
    return replace(reference, encoder=encoder.eval())


def test_what_is_given_are_degraded_held_out_rows_over_and_over(restoring: metrics.Reference) -> None:
    held_out = Bars(256, seed=1).pixels
    given = restoring.given(300)
    assert given is not None and torch.equal(given.pixels, -torch.cat([held_out, held_out[:44]]))


def test_restored_pictures_are_held_against_their_own_originals(restoring: metrics.Reference) -> None:
    original = Bars(256, seed=1).pixels
    found = {
        name: restoring.measure(Images(pixels))
        for name, pixels in {
            "exact": torch.cat([original, original[:44]]),
            "near": original + 0.02,
            "given": -original,
            "of another row": original.roll(1, 0),
        }.items()
    }
    assert (found["exact"]["psnr"], found["exact"]["ssim"]) == pytest.approx((metrics.DECIBELS_AT_MOST, 1), abs=1e-4)
    assert found["near"]["psnr"] == pytest.approx(40, abs=0.01)
    assert found["near"]["ssim"] > 0.9
    assert max(found["given"]["psnr"], found["of another row"]["psnr"]) < 15
    asked_apart = {*metrics.OF_INSPECTION, *metrics.OF_FEEDBACK}
    others = {*metrics.OF_LABELS, *metrics.OF_CODES, *asked_apart, "nearer_train"}
    assert found["exact"].keys() == metrics.DIRECTIONS.keys() - others


def test_sheets_of_restored_pictures_show_what_was_given(restoring: metrics.Reference) -> None:
    assert restoring.sheets(Images(Bars(20, seed=2).pixels)).keys() == {"generated.png", "held_out.png", "given.png"}


def test_a_metric_of_restored_pictures_lacks_a_degradation(restoring: metrics.Reference) -> None:
    for metric in metrics.OF_RESTORED:
        told = metrics.lacking(metric, controls=(), prepare={"size": 28})
        assert told is not None and "{degrade: blur}" in told
        assert metrics.lacking(metric, controls=(), prepare={"degrade": "blur"}) is None
    assert metrics.lacking("fd", controls=(), prepare={}) is None
    assert "names none" in str(metrics.lacking("unsafe", controls=(), prepare={}))
    assert metrics.lacking("unsafe", controls=(), prepare={}, inspected=True) is None
    assert "restored" in str(metrics.lacking("nearer_train", controls=(), prepare={"degrade": "blur"}))
