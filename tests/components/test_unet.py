import pytest
import torch

from components.errors import AtelierError
from components.unet import Attention, Dense, UNet, drop_labels, guided


def small(**changes: object) -> UNet:
    torch.manual_seed(0)
    settings = {"size": 8, "width": 8, "multipliers": (1, 2), "blocks": 1, "patch": 2, "mixing": "dense"}
    return UNet(channels=1, **{**settings, **changes})


def woken(network: UNet) -> UNet:
    """The network with every zero weight made random, as after training."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize(("size", "patch", "multipliers"), [(28, 2, (1, 2)), (32, 2, (1, 2, 2)), (64, 4, (1, 1, 2))])
def test_pictures_keep_their_shape_at_every_size(size: int, patch: int, multipliers: tuple[int, ...]) -> None:
    network = small(size=size, patch=patch, multipliers=multipliers)
    pixels = torch.randn(2, 1, size, size)
    assert network(pixels, torch.rand(2)).shape == pixels.shape


def test_the_untrained_network_gives_zero() -> None:
    assert not small()(torch.randn(2, 1, 8, 8), torch.rand(2)).any()


@pytest.mark.parametrize("mixing", ["dense", "attention"])
def test_every_input_matters_and_every_place_sees_all_others(mixing: str) -> None:
    network, pixels, time = woken(small(classes=2, mixing=mixing)), torch.randn(1, 1, 8, 8), torch.tensor([0.3])
    label = torch.tensor([0])
    out = network(pixels, time, label)
    assert not torch.allclose(out, network(pixels, time + 0.1, label))
    assert not torch.allclose(out, network(pixels, time, label + 1))
    corner = pixels.clone()
    corner[..., 0, 0] += 1
    assert (network(corner, time, label) - out)[..., -1, -1].abs().item() > 0


def test_without_mixing_far_places_stay_apart() -> None:
    """64 pixels and one resolution: eight convolutions of 3 x 3 patches reach 16 pixels."""
    network, pixels, time = (
        woken(small(size=64, multipliers=(1,), mixing="none")),
        torch.randn(1, 1, 64, 64),
        torch.ones(1),
    )
    network.head[0] = torch.nn.Identity()  # norms see the whole picture
    for block in network.middle:
        block.first[0] = block.norm = torch.nn.Identity()
    corner = pixels.clone()
    corner[..., 0, 0] += 1
    moved = (network(corner, time) - network(pixels, time)).abs()[0, 0]
    assert moved[0, 0] > 0
    assert not moved[-1, -1]


def test_dense_mixing_is_one_small_network_over_places_for_every_channel() -> None:
    layer = Dense(width=2, places=4)
    torch.nn.init.normal_(layer.mix[2].weight)
    hidden = torch.randn(1, 2, 2, 2)
    told = layer(hidden, torch.empty(0)) - hidden
    for channel in range(2):
        places = layer.norm(hidden)[0, channel].flatten()
        inner = layer.mix[0].weight @ places + layer.mix[0].bias
        expected = layer.mix[2].weight @ (inner * inner.sigmoid())
        torch.testing.assert_close(told[0, channel].flatten(), expected)


def test_no_label_is_the_null_class() -> None:
    network, pixels, time = woken(small(classes=2)), torch.randn(3, 1, 8, 8), torch.rand(3)
    assert network.null == 2
    assert torch.equal(network(pixels, time), network(pixels, time, torch.full((3,), 2)))


def test_attention_is_the_softmax_of_scaled_products() -> None:
    layer = Attention(width=4)
    torch.nn.init.normal_(layer.outward.weight)
    hidden = torch.randn(1, 4, 2, 2)
    query, key, value = layer.inward(layer.norm(hidden)).flatten(2).chunk(3, dim=1)
    weights = (query.transpose(1, 2) @ key / 4**0.5).softmax(dim=2)
    mixed = (value @ weights.transpose(1, 2)).reshape(1, 4, 2, 2)
    torch.testing.assert_close(layer(hidden, torch.empty(0)), hidden + layer.outward(mixed))


def test_guidance_goes_from_the_null_class_through_the_label_and_beyond() -> None:
    def predict(labels: torch.Tensor | None) -> torch.Tensor:
        return torch.full((4, 1, 1, 1), 1.0) if labels is None else labels.view(-1, 1, 1, 1).float()

    out = guided(predict, torch.tensor([3, 3, 3, 3]), [0.0, 1.0, 2.0, 0.5]).flatten()
    assert out.tolist() == [1, 3, 5, 2]


def test_guidance_of_one_is_the_labelled_prediction_to_the_byte_in_any_company() -> None:
    network, pixels, time = woken(small(classes=2)), torch.randn(2, 1, 8, 8), torch.rand(2)
    labels = torch.tensor([0, 1])
    labelled = network(pixels, time, labels)
    mixed = guided(lambda asked: network(pixels, time, asked), labels, [1.0, 3.0])
    assert torch.equal(mixed[0], labelled[0])
    assert not torch.allclose(mixed[1], labelled[1])


def test_dropped_labels_become_the_null_class_in_the_share_that_was_asked_for() -> None:
    labels = torch.arange(10).repeat(1000)
    dropped = drop_labels(labels, 0.1, null=10, generator=torch.Generator().manual_seed(0))
    gone = dropped != labels
    assert (dropped[gone] == 10).all()
    assert gone.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(drop_labels(labels, 0, null=10, generator=torch.Generator()), labels)


def test_a_size_that_cannot_be_halved_so_often_is_refused() -> None:
    with pytest.raises(AtelierError, match="multiple of 8, not 28"):
        small(size=28, multipliers=(1, 2, 2))
