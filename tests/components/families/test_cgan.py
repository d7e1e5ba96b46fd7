import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.errors import AtelierError
from components.families import cgan
from components.modalities.image.batch import Images, ImageSpec
from tests.components.families.family_contract import FamilyContract
from tests.components.families.image_rows import blobs

SPEC = ImageSpec(channels=1, size=8, classes=("even", "odd"))
PIXELS, LABELS = blobs(6).pixels, torch.tensor([0, 1, 0, 1, 1, 0])


class TestCgan(FamilyContract):
    family = "cgan"
    config = {"latent_dim": 4, "width": 4, "embedding_dim": 4, "attention": True, "discriminator_lr": 0.004}
    spec = SPEC
    falling = "discriminator/loss"

    def real(self, count: int) -> Images:
        return blobs(count)


def model(**config: object) -> cgan.Model:
    torch.manual_seed(0)
    return cgan.Model(cgan.Config(latent_dim=4, width=4, embedding_dim=4, **config), SPEC)


def test_the_label_adds_its_projection_on_the_features() -> None:
    """D(x, y) of 1802.05637, eq. 3, with the rows of the embedding picked by hand."""
    judge = model().discriminator.eval()
    features = judge.features(PIXELS)
    rows = torch.stack([judge.embedding.weight[label] for label in LABELS.tolist()])
    expected = features @ judge.head.weight[0] + judge.head.bias + torch.einsum("bf,bf->b", rows, features)
    torch.testing.assert_close(judge(PIXELS, LABELS), expected)


@pytest.mark.parametrize(("says", "discriminator"), [(0.0, 2.0), (0.5, 2.0), (3.0, 4.0), (-3.0, 4.0)])
def test_hinge_losses_where_the_discriminator_says_one_thing_only(says: float, discriminator: float) -> None:
    family = model()
    for layer in (family.discriminator.head, family.discriminator.embedding):
        layer.parametrizations.weight.original.data.mul_(0)
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
        nn.init.zeros_(layer.weight)
    nn.init.constant_(family.discriminator.head.bias, says)
    losses = {
        phase: family.loss(phase, blobs(4), step=0, generator=torch.Generator().manual_seed(0)).total.item()
        for phase in ("discriminator", "generator")
    }
    assert losses == pytest.approx({"discriminator": discriminator, "generator": -says})


def test_generated_rows_have_the_labels_of_the_real_ones() -> None:
    family, seen = model().train(), []
    judge = copy.deepcopy(family.discriminator)
    family.generator.register_forward_hook(lambda layer, given, made: seen.append((given[1], made.detach())))
    loss = family.loss("discriminator", Images(PIXELS, LABELS), step=0, generator=torch.Generator().manual_seed(0))
    ((labels, fake),) = seen
    assert torch.equal(labels, LABELS)
    both = judge(torch.cat([PIXELS, fake]), torch.cat([LABELS, LABELS]))
    expected = (1 - both[:6]).clamp(min=0).mean() + (1 + both[6:]).clamp(min=0).mean()
    torch.testing.assert_close(loss.total, expected)


def test_spectral_norm_bounds_every_layer_of_the_discriminator() -> None:
    family = model(attention=True).train()
    for _ in range(100):  # each pass is one step of the power iteration
        family.discriminator(PIXELS, LABELS)
    layers = [layer for layer in family.discriminator.modules() if hasattr(layer, "parametrizations")]
    norms = [torch.linalg.matrix_norm(layer.eval().weight.flatten(1), 2).item() for layer in layers]
    assert len(norms) == 8
    assert norms == pytest.approx([1] * 8, abs=0.05)


def test_conditional_norm_is_batch_norm_with_each_row_s_own_gain_and_bias() -> None:
    norm = cgan.ConditionalNorm(3, 2).train()
    hidden, condition = torch.randn(5, 3, 4, 4), torch.randn(5, 2)
    told = norm(hidden, condition)
    normal = (hidden - hidden.mean((0, 2, 3), keepdim=True)) / (
        hidden.var((0, 2, 3), unbiased=False, keepdim=True) + norm.norm.eps
    ).sqrt()
    for row in range(5):
        gain, bias = F.linear(condition[row], norm.scale.weight, norm.scale.bias).chunk(2)
        torch.testing.assert_close(told[row], (1 + gain[:, None, None]) * normal[row] + bias[:, None, None])


def test_attention_is_nothing_at_first_and_then_a_weighted_mean_of_what_places_hold() -> None:
    layer, hidden = cgan.SelfAttention(8), torch.randn(2, 8, 4, 4)
    assert torch.equal(layer(hidden), hidden)
    nn.init.ones_(layer.gain)
    heads = {
        name: torch.einsum("oc,bchw->bohw", getattr(layer, name).weight[:, :, 0, 0], hidden)
        for name in ("ask", "answer", "value")
    }
    answer, value = (heads[name].unflatten(2, (2, 2)).unflatten(4, (2, 2)).amax((3, 5)) for name in ("answer", "value"))
    taken = F.scaled_dot_product_attention(
        *(part.flatten(2).transpose(1, 2) for part in (heads["ask"], answer, value)), scale=1.0
    )
    expected = hidden + torch.einsum("oc,bqc->boq", layer.out.weight[:, :, 0, 0], taken).unflatten(2, (4, 4))
    torch.testing.assert_close(layer(hidden), expected, atol=1e-5, rtol=1e-5)


def test_labels_asked_for_are_told_and_change_the_picture() -> None:
    family = model().eval()
    asked = [cgan.Controls(label=label) for label in ("even", "odd", "any")]
    drawn = family.sample([1, 1, 1], controls=asked)
    assert drawn.labels.tolist()[:2] == [0, 1]
    assert not torch.equal(drawn.pixels[0], drawn.pixels[1])
    assert torch.equal(drawn.pixels[2], drawn.pixels[drawn.labels[2]])
    anything = family.sample(range(40), controls=[cgan.Controls()] * 40).labels
    assert set(anything.tolist()) == {0, 1}


def test_the_average_follows_the_generator_s_own_updates() -> None:
    family = model(discriminator_steps=3)
    start = family.average.embedding.weight.clone()
    nn.init.ones_(family.generator.embedding.weight)
    for step in (3 * 10**6 + 1, 3 * 10**6 + 2):
        family.after_step(step)
        assert torch.equal(family.average.embedding.weight, start)
    family.after_step(3 * 10**6)
    kept = family.config.average_decay
    torch.testing.assert_close(family.average.embedding.weight, kept * start + (1 - kept))
    assert {phase.name: phase.every for phase in family.phases()} == {"discriminator": 1, "generator": 3}


def test_data_without_labels_are_refused() -> None:
    with pytest.raises(AtelierError, match="the data have no classes"):
        cgan.Model(cgan.Config(), ImageSpec(channels=1, size=8))
    for labels in (None, torch.tensor([0, 1, 0, 1, -1, 0])):
        for phase in ("discriminator", "generator"):
            with pytest.raises(AtelierError, match="a row has no label"):
                model().loss(phase, Images(PIXELS, labels), step=0, generator=torch.Generator().manual_seed(0))


def test_a_label_that_the_data_have_not_is_refused() -> None:
    family = model()
    with pytest.raises(AtelierError, match="unknown label 'od'"):
        family.refuse(cgan.Controls(label="od"))
    for label in ("any", "even", "odd"):
        family.refuse(cgan.Controls(label=label))


def test_a_size_it_cannot_make_is_refused() -> None:
    with pytest.raises(AtelierError, match="multiple of 4, not 30"):
        cgan.Model(cgan.Config(), SPEC.model_copy(update={"size": 30}))
