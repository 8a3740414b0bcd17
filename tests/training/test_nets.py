from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pt4al.rng import initialising
from pt4al.training.nets import BasicBlock, Model, Narrow, Pooled, resnet18

torch.set_num_threads(1)  # networks this small are slower on more


def small(seed: int = 0, width: int = 4) -> Model:
    with initialising(seed, 'weights'):
        return Model(resnet18(width), Pooled(8 * width, 10))


def test_width_64_has_the_parameters_of_the_published_cifar_resnet18():
    model = small(width=64)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert (
        sum(
            m.weight.ndim == 4 and m.weight.shape[2] == 3
            for m in model.modules()
            if hasattr(m, 'weight')
        )
        == 17
    )


@pytest.mark.parametrize('width', [2, 4, 16])
def test_shapes(width):
    images = torch.zeros(3, 3, 32, 32)
    model = small(width=width)
    maps = model.trunk(images)
    assert maps.shape == (3, 8 * width, 4, 4)
    assert model.head.pool(maps).shape == (3, 8 * width)
    assert model((images,)).shape == (3, 10)


def test_a_sixteenth_of_the_arithmetic_at_a_quarter_of_the_width():
    trunks = [resnet18(width) for width in (16, 64)]
    inner = [
        sum(p.numel() for block in trunk[3:] for p in block.parameters() if p.ndim == 4)
        for trunk in trunks
    ]
    assert inner[0] * 16 == inner[1]


def test_pooled_takes_the_mean_of_each_map():
    head, maps = Pooled(2, 5), torch.arange(6.0 * 2 * 4 * 4).view(6, 2, 4, 4)
    by_hand = torch.stack([image.mean((1, 2)) for image in maps])
    assert torch.equal(head.pool(maps), by_hand)
    assert torch.allclose(head(maps), by_hand @ head.linear.weight.T + head.linear.bias)


@pytest.mark.parametrize('channels, out, stride', [(4, 4, 1), (4, 8, 2), (4, 8, 1)])
def test_a_block_whose_branch_is_silent_is_its_shortcut(channels, out, stride):
    block = BasicBlock(channels, out, stride).eval()
    block.bn2.weight.data.zero_()
    x = torch.rand(2, channels, 8, 8)
    assert torch.equal(block(x), block.shortcut(x).relu())
    assert isinstance(block.shortcut, torch.nn.Identity) == (stride == 1 and channels == out)


def test_initialisation_is_reproducible_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    one = small(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    two, other = small(0), small(1)
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values())
    )
    assert not torch.equal(one.trunk[0].weight, other.trunk[0].weight)


def test_above_64_pixels_it_is_torchvisions_network():
    from torchvision.models import resnet18 as published

    with initialising(0, 'weights'):
        ours, theirs = resnet18(64, side=96).eval(), published().eval()
    blocks = [
        block
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)
        for block in stage
    ]
    pairs = list(zip([ours[0], ours[1], *ours[4:]], [theirs.conv1, theirs.bn1, *blocks]))
    assert len(pairs) == 10
    for mine, other in pairs:  # layers stand in the same order in both
        for (_, a), (_, b) in zip(
            mine.state_dict().items(), other.state_dict().items(), strict=True
        ):
            a.copy_(b)
    images = torch.randn(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    theirs.avgpool = theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.allclose(ours(images).flatten(1), theirs(images), atol=1e-4)
    assert sum(p.numel() for p in ours.parameters()) == 11_176_512


def test_the_stem_follows_the_side_of_the_images():
    assert [
        resnet18(2, side)(torch.zeros(1, 3, side, side)).shape[-1] for side in (32, 64, 96, 224)
    ] == [4, 8, 3, 7]


@pytest.mark.parametrize('channels', [4, 12])
def test_a_narrow_strided_convolution_is_that_of_torch(channels):
    ours = Narrow(channels, 8, 1, 2, bias=False).double()
    images = torch.rand(2, channels, 9, 8, dtype=torch.float64)
    expected = F.conv2d(images, ours.weight, stride=2)
    assert torch.allclose(ours(images), expected, rtol=0, atol=1e-12)
    narrow = [type(layer) is Narrow for layer in resnet18(channels).modules()]
    assert sum(narrow) == (2 if channels == 4 else 1)
