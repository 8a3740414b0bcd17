"""Segmentation: masks as they lie on disk, mean IoU by counting, and a U-Net that learns shapes on
noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pt4al.errors import Refused
from pt4al.experiments import segmentation
from pt4al.experiments.segmentation import VOID
from pt4al.rng import initialising
from pt4al.training.execution import Execution
from pt4al.training.fit import Schedule
from pt4al.training.nets import resnet18

torch.set_num_threads(1)
CLASSES = ('background', 'square', 'bar')
CPU = Execution('cpu', 'fp32', 1)


def shapes(n: int, seed: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright square or a dark bar: pixels [n,3,side,side], masks [n,side,side] with a
    rim of void.
    """
    rng = np.random.default_rng(seed)
    pixels, masks = (
        rng.integers(90, 160, (n, 3, side, side)).astype('uint8'),
        np.zeros((n, side, side), 'uint8'),
    )
    for image, mask in zip(pixels, masks):
        kind, top, left = rng.integers(1, 3), *rng.integers(2, side - 14, 2)
        box = (
            np.s_[top : top + 12, left : left + 12]
            if kind == 1
            else np.s_[top : top + 4, 2 : side - 2]
        )
        mask[box] = kind
        image[:, *box] = image[:, *box].astype(int) + (80 if kind == 1 else -80)
        mask[0] = VOID
    return pixels, masks


def scenes(n: int, seed: int) -> segmentation.Scenes:
    return segmentation.Scenes(*map(torch.from_numpy, shapes(n, seed)), CLASSES)


def write(root: Path, n: int = 3, side: int = 40) -> tuple[np.ndarray, np.ndarray]:
    pixels, masks = shapes(n, 0, side)
    for folder in ('ImageSets/Segmentation', 'JPEGImages', 'SegmentationClass'):
        (root / folder).mkdir(parents=True)
    for i, (image, mask) in enumerate(zip(pixels, masks)):
        Image.fromarray(image.transpose(1, 2, 0)).save(root / f'JPEGImages/{i}.jpg', quality=100)
        palette = Image.fromarray(mask)
        # the first is a plain grey image of class numbers
        if i > 0:
            palette.putpalette([c for k in range(256) for c in (k, 255 - k, 7 * k % 256)])
        palette.save(root / f'SegmentationClass/{i}.png')
    (root / 'ImageSets/Segmentation/train.txt').write_text(''.join(f'{i}\n' for i in range(n)))
    return pixels, masks


def trunk(width: int = 4) -> nn.Sequential:
    with initialising(0, 'test'):
        return resnet18(width)


# --- reading ---


def test_masks_are_read_as_class_numbers_whatever_the_palette_shows(tmp_path):
    pixels, masks = write(tmp_path)
    found = segmentation.read(tmp_path, 'train', 40, CLASSES)
    assert (found.masks.numpy() == masks).all() and found.pixels.dtype == torch.uint8
    assert np.abs(found.pixels.numpy().astype(int) - pixels).mean() < 20  # JPEG of noise
    small = segmentation.read(tmp_path, 'train', 20, CLASSES)
    assert small.pixels.shape == (3, 3, 20, 20) and set(small.masks.unique().tolist()) <= {
        0,
        1,
        2,
        VOID,
    }


@pytest.mark.parametrize(
    'harm, message',
    [
        (
            lambda root: (root / 'ImageSets/Segmentation/train.txt').unlink(),
            r'train.txt cannot be read \(.*layout of Pascal VOC',
        ),
        (
            lambda root: (root / 'ImageSets/Segmentation/train.txt').write_text('\n'),
            'train.txt names no image',
        ),
        (
            lambda root: (root / 'ImageSets/Segmentation/train.txt').write_text('../x\n'),
            r"names '../x': write file names",
        ),
        (
            lambda root: (root / 'ImageSets/Segmentation/train.txt').write_text('..\n'),
            r"names '..': write file names",
        ),
        (lambda root: (root / 'JPEGImages/1.jpg').unlink(), '1.jpg cannot be read as JPEG'),
        (
            lambda root: (root / 'SegmentationClass/1.png').write_bytes(b'\x89PNG'),
            '1.png cannot be read as PNG',
        ),
        (
            lambda root: Image.new('RGB', (40, 40)).save(root / 'SegmentationClass/1.png'),
            '1.png is a RGB image: a mask is',
        ),
        (
            lambda root: Image.new('P', (40, 39)).save(root / 'SegmentationClass/1.png'),
            '1.png is 40x39 pixels, its image 40x40',
        ),
        (
            lambda root: Image.new('L', (40, 40), 3).save(root / 'SegmentationClass/1.png'),
            '1.png holds the class 3: known are 0 to 2, and 255',
        ),
        (
            lambda root: Image.new('L', (40, 40), 254).save(root / 'SegmentationClass/1.png'),
            '1.png holds the class 254',
        ),
    ],
)
def test_what_is_no_mask_is_refused_by_its_name(tmp_path, harm, message):
    write(tmp_path)
    harm(tmp_path)
    with pytest.raises(Refused, match=message) as refusal:
        segmentation.read(tmp_path, 'train', 40, CLASSES)
    assert '\n' not in str(refusal.value)


# --- measures ---


def test_iou_is_what_one_counts_pixel_by_pixel():
    rng = np.random.default_rng(0)
    predicted, masks = rng.integers(3, size=(2, 5, 5, 6))
    masks[rng.random(masks.shape) < 0.2] = VOID
    for c in range(3):
        both = sum((p == c) and (m == c) for p, m in zip(predicted.flat, masks.flat))
        either = sum(
            ((p == c) or (m == c)) and m != VOID for p, m in zip(predicted.flat, masks.flat)
        )
        got = segmentation.intersection_over_union(
            torch.from_numpy(predicted), torch.from_numpy(masks).byte(), 4
        )
        assert got[c].item() == pytest.approx(both / either)
    assert got[3].isnan()


def test_the_loss_of_an_image_is_the_mean_over_its_pixels_that_are_not_void():
    logits, masks = (
        torch.randn(3, 4, 5, 6, generator=torch.manual_seed(0)),
        torch.randint(4, (3, 5, 6)).byte(),
    )
    masks[0, 1:, 2] = VOID
    masks[2] = VOID
    loss = segmentation.pixel_loss(logits.bfloat16(), masks)
    chosen = [
        [
            -logits[i].bfloat16().float().log_softmax(0)[masks[i, r, c].int(), r, c]
            for r in range(5)
            for c in range(6)
            if masks[i, r, c] != VOID
        ]
        for i in (0, 1)
    ]
    assert (
        loss.tolist() == pytest.approx([*(np.mean(rows) for rows in chosen), 0], rel=1e-5)
        and loss.dtype == torch.float32
    )


# --- network ---


@pytest.mark.parametrize('side', [32, 36])
def test_every_pixel_gets_a_score_and_every_stage_is_joined(side):
    net = segmentation.UNet(trunk(), 3, frozen=False)
    x = torch.randn(2, 3, side, side, requires_grad=True)
    net((x,)).square().sum().backward()
    assert net((x,)).shape == (2, 3, side, side) and all(
        p.grad.abs().sum() > 0 for p in net.parameters()
    )


@pytest.mark.parametrize('frozen', [True, False])
def test_a_frozen_trunk_stays_and_another_moves_while_the_given_one_never_does(frozen):
    given = trunk()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    made = segmentation.train(
        given, scenes(8, 0), Schedule(1, 0.1), CPU, 0, batch=4, frozen=frozen
    )[0]
    again = segmentation.recalibrate(
        given, (segmentation.views.normalise(scenes(8, 0).pixels),)
    ).state_dict()
    same = {
        name: torch.equal(value, again[name]) for name, value in made.trunk.state_dict().items()
    }
    assert all(same.values()) == frozen
    assert any(same.values()) == frozen
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())


def test_a_mask_is_mirrored_with_its_image_and_half_of_them_are(monkeypatch):
    masks = torch.from_numpy(shapes(40, 0)[1])
    given = segmentation.Scenes(masks[:, None].expand(-1, 3, -1, -1).clone(), masks, CLASSES)
    seen = []
    monkeypatch.setattr(segmentation, 'fit', lambda model, batches, *_: seen.extend(batches(0)))
    segmentation.train(
        trunk(), given, Schedule(1, 0.1), CPU, 0, 10, encode=lambda pixels: pixels.float()
    )
    images, targets = (
        torch.cat([inputs[0] for inputs, _ in seen]),
        torch.cat([targets for _, targets in seen]),
    )
    assert torch.equal(images[:, 0], targets.float()) and len(targets) == 40
    plain = {mask.numpy().tobytes() for mask in masks}
    assert 10 < sum(mask.numpy().tobytes() in plain for mask in targets) < 30


def test_shapes_on_noise_are_learnt_and_training_again_gives_the_same_network():
    learning, held = scenes(64, 0), scenes(16, 1)
    made, history = segmentation.train(
        trunk(8), learning, Schedule(12, 0.05, (9,)), CPU, 0, batch=8, frozen=True
    )
    guess = (
        segmentation.intersection_over_union(torch.zeros_like(held.masks), held.masks, 3)
        .nanmean()
        .item()
    )
    assert (
        segmentation.mean_iou(made, held) > 0.6 > 1.5 * guess
        and history.loss[-1] < history.loss[0] / 2
    )
    short = [
        segmentation.train(trunk(), scenes(8, 0), Schedule(1, 0.1), CPU, seed, batch=4)[0]
        for seed in (0, 0, 1)
    ]
    maps = [
        net((segmentation.views.normalise(held.pixels[:2]),)) for net in map(nn.Module.eval, short)
    ]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])
