"""Detection: AP50 as VOC's own loop counts it, targets that follow their images, and runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import write_camvid

from pt4al import experiments
from pt4al.data import views
from pt4al.data.boxes import Boxed
from pt4al.errors import Refused
from pt4al.experiments import detection, store
from pt4al.experiments.specs import seeded, spec
from pt4al.rng import initialising
from pt4al.training.execution import Execution
from pt4al.training.nets import resnet18

torch.set_num_threads(1)
CPU = Execution('cpu', 'fp32', 1)


# --- average precision ---


def overlap(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def by_hand(detected, truth: Boxed, label: int) -> float:
    """The loop of VOC's development kit."""
    rows = sorted(
        (-score, image, box)
        for image, one in enumerate(detected)
        for score, box, of in zip(
            one['scores'].tolist(), one['boxes'].tolist(), one['labels'].tolist()
        )
        if of == label + 1
    )
    used, right = set(), []
    for _, image, box in rows:
        mine = [
            k for k in range(len(truth.label)) if (truth.image[k], truth.label[k]) == (image, label)
        ]
        best = max(mine, key=lambda k: overlap(box, truth.box[k]), default=None)
        if best is None or overlap(box, truth.box[best]) < 0.5:
            right.append(False)
        elif not truth.difficult[best]:
            right.append(best not in used)
            used.add(best)
    n = ((truth.label == label) & ~truth.difficult).sum()
    recall = np.cumsum(right) / n
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    recall, precision = np.r_[0, recall, 1], np.r_[0, precision, 0]
    for k in range(len(precision) - 1, 0, -1):
        precision[k - 1] = max(precision[k - 1], precision[k])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum())


def drawn(seed: int):
    """Boxes of three images, and detections that are moved copies of them and others."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 30, (14, 2)), rng.uniform(8, 20, (14, 2))
    box = np.concatenate([corner, corner + size], 1).astype('float32')
    truth = Boxed(
        np.zeros((3, 3, 50, 50), 'uint8'),
        *(rng.integers(3, size=14), rng.integers(2, size=14), rng.random(14) < 0.25),
        box,
        ('a', 'b', 'absent'),
    )
    detected = []
    for image in range(3):
        near = box[np.repeat(np.flatnonzero(truth.image == image), 3)]
        moved = torch.from_numpy(near + rng.normal(0, 1.5, near.shape).astype('float32'))
        labels = torch.from_numpy(rng.integers(1, 3, len(near)))
        scores = torch.from_numpy(rng.permutation(1000)[: len(near)] / 1000 + image / 9000)
        detected.append({'boxes': moved, 'labels': labels, 'scores': scores})
    return detected, truth


def test_ap_is_what_the_loop_of_voc_counts():
    for seed in range(30):
        detected, truth = drawn(seed)
        got = detection.average_precision(detected, truth)
        want = [by_hand(detected, truth, label) for label in (0, 1)]
        assert got[:2] == pytest.approx(want, nan_ok=True) and np.isnan(got[2])


def test_right_and_doubled_and_missed():
    box = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], 'float32')
    truth = Boxed(
        np.zeros((1, 3, 40, 40), 'uint8'),
        np.zeros(2, int),
        np.zeros(2, int),
        np.zeros(2, bool),
        box,
        ('a',),
    )

    def ap(*rows) -> float:
        boxes, scores = (torch.tensor([row[k] for row in rows]).float() for k in (0, 1))
        one = {'boxes': boxes.view(-1, 4), 'labels': torch.ones(len(rows)).long(), 'scores': scores}
        return detection.average_precision([one], truth)[0]

    first, second = box.tolist()
    assert ap((first, 0.9), (second, 0.8)) == 1
    assert ap((first, 0.9)) == 0.5 and ap() == 0
    assert ap((first, 0.9), (first, 0.8), (second, 0.7)) == pytest.approx((1 + 2 / 3) / 2)
    assert ap((first, 0.9), (second, 0.8), (first, 0.7)) == 1
    assert detection.average_precision(
        [{'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0).long(), 'scores': torch.zeros(0)}],
        truth._replace(difficult=np.array([False, True])),
    ) == [0]


# --- network ---


def toys(n: int, side: int = 80) -> Boxed:
    """Bright squares and dark bars on noise, one a picture."""
    rng = np.random.default_rng(0)
    pixels, label = rng.integers(90, 160, (n, 3, side, side), 'uint8'), np.arange(n) % 2
    corner = rng.integers(0, side - 40, (n, 2))
    size = np.where(label[:, None] == 0, (24, 24), (12, 40))
    box = np.concatenate([corner, corner + size], 1).astype('float32')
    for image, (left, top, right, bottom), dark in zip(pixels, box.astype(int), label):
        image[:, top:bottom, left:right] = 0 if dark else 255
    return Boxed(pixels, np.arange(n), label, np.zeros(n, bool), box, ('square', 'bar'))


def trunk():
    with initialising(0, 'test'):
        return resnet18(16, 80)


def train(truth: Boxed, encode=views.normalise, **fields):
    s = spec('detection', dataset='camvid:80', task='none', **fields)
    return detection.learn(s, trunk(), encode, torch.from_numpy(truth.pixels), truth, CPU)


def test_boxes_are_mirrored_with_their_images_and_half_of_them_are(monkeypatch):
    truth, batches = toys(40), []
    monkeypatch.setattr(detection, 'fit', lambda model, make, *_: batches.extend(make(0)))
    train(truth, encode=lambda pixels: pixels.float())
    mirrored = 0
    for (images, targets), index in batches:
        for image, rows, at in zip(images, targets, index):
            code, left, top, right, bottom = rows[0].int().tolist()
            inside = image[:, top:bottom, left:right]
            assert (inside == (255 if code == 1 else 0)).all() and code == truth.label[at] + 1
            mirrored += (image != torch.from_numpy(truth.pixels[at])).any().item()
    assert 10 < mirrored < 30


def test_difficult_boxes_are_no_targets():
    truth = toys(3)
    rows = detection._targets(truth._replace(difficult=np.array([True, False, True])), 3)
    assert rows[:, :, 0].tolist() == [[0], [2], [0]]


def test_a_frozen_trunk_stays_and_another_is_trained():
    start, same = trunk(), []
    for frozen in (0, 1):
        made, _ = train(toys(8), epochs=1, frozen=frozen)
        pairs = zip(made.net.backbone.trunk.parameters(), start.parameters())
        same.append([torch.equal(a, b) for a, b in pairs])
    assert all(same[1]) and not any(same[0])


@pytest.mark.long
def test_shapes_on_noise_are_detected_and_training_again_gives_the_same_network():
    truth = toys(16)
    made, _ = train(truth, epochs=24, milestones=(20,), lr=0.002)
    got = detection.detect(made, torch.from_numpy(truth.pixels), views.normalise)
    # .7 to .92 with four seeds; an untrained network has 0
    assert min(detection.average_precision(got, truth)) > 0.4
    short = [train(toys(8), epochs=1, seed=seed)[1].loss for seed in (0, 0, 1)]
    assert short[0] == short[1] != short[2]


# --- runs ---


@pytest.mark.long
def test_runs_are_stored_and_the_trunk_matters(tmp_path, monkeypatch):
    write_camvid(tmp_path / 'camvid', side=80, classes=(0, 8, 8))
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'results'))
    fields = {'dataset': 'camvid:80', 'epochs': 1, 'batch': 2}
    fresh = spec('detection', task='none', **fields)
    pretext = spec('pretext', dataset=fields['dataset'], epochs=1)
    results = [experiments.get(s) for s in (fresh, spec('detection', pretext=pretext, **fields))]
    table = results[0].tables['classes']
    assert table['boxes'].tolist() == table['train_boxes'].tolist() == [3, 0, 0]
    assert np.isfinite(table['ap50']).sum() == 1 and len(results[0].classes) == 3
    losses = [result.tables['epochs']['loss'][0] for result in results]
    assert losses[0] != losses[1]
    assert store.read(results[0].folder).key == results[0].key


def test_specs_name_their_trunk():
    one = spec('detection', dataset='camvid', task='jigsaw', seed=1)
    assert (one.pretext.task, one.pretext.seed, seeded(one, 2).pretext.seed) == ('jigsaw', 1, 2)
    assert spec('detection', dataset='camvid', task='none').pretext is None
    with pytest.raises(Refused, match='frozen'):
        spec('detection', dataset='camvid', frozen=2)
    with pytest.raises(Refused, match='supervised'):
        spec('detection', dataset='camvid', task='supervised')


def test_what_cannot_run_is_refused_before_training(tmp_path, monkeypatch):
    with pytest.raises(Refused, match='has no masks or boxes'):
        detection.run(spec('detection', dataset='cifar10-mini', task='none'), tmp_path)
    write_camvid(tmp_path / 'camvid')
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    with pytest.raises(Refused, match='has no box to train on, or'):
        detection.run(spec('detection', dataset='camvid:32', task='none'), tmp_path)
