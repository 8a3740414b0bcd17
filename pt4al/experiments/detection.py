"""What a trunk is worth for detection: Faster R-CNN on its stages, average precision at half
overlap.

Shapes: N images of S x S pixels, n boxes, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou

from pt4al.data import boxes as box_files
from pt4al.data.boxes import Boxed
from pt4al.errors import Refused
from pt4al.experiments.representation import Encode, trunk
from pt4al.experiments.running import epochs_table, schedule, table, title, to_device
from pt4al.experiments.specs import Detection, Representation
from pt4al.experiments.store import Computed
from pt4al.rng import device_stream, initialising
from pt4al.tasks.task import recalibrate
from pt4al.training.execution import Execution, execution, float32, machine
from pt4al.training.fit import History, fit, minibatches
from pt4al.training.nets import Inputs, stage_maps

BATCH = 50  # images of one forward pass
LEVELS = ('0', '1', '2', '3')


class Pyramid(nn.Module):
    """The four stages of a trunk, joined from the last to the first (Lin et al. 2017)."""

    def __init__(self, trunk: nn.Module, frozen: bool):
        super().__init__()
        width = next(trunk.parameters()).shape[0]
        self.trunk, self.frozen, self.out_channels = trunk, frozen, 2 * width
        self.trunk.requires_grad_(not frozen)
        self.join = FeaturePyramidNetwork([k * width for k in (1, 2, 4, 8)], self.out_channels)

    def train(self, mode: bool = True) -> Pyramid:
        super().train(mode)
        self.trunk.train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.join(dict(zip(LEVELS, stage_maps(self.trunk, images))))


class Detector(nn.Module):
    """torchvision's Faster R-CNN (Ren et al. 2015) in small: few proposals, a narrow head; anchors
    up to four times as high as wide.
    """

    def __init__(self, trunk: nn.Module, frozen: bool, side: int, classes: int):
        super().__init__()
        body = Pyramid(trunk, frozen)
        sizes, shapes = [(side // k,) for k in (16, 8, 4, 2)], [(0.5, 1.0, 2.0, 4.0)] * 4
        self.net = FasterRCNN(
            body,
            min_size=side,
            max_size=side,
            image_mean=[0, 0, 0],
            image_std=[1, 1, 1],
            rpn_anchor_generator=AnchorGenerator(sizes, shapes),
            rpn_pre_nms_top_n_train=200,
            rpn_post_nms_top_n_train=200,
            rpn_pre_nms_top_n_test=200,
            rpn_post_nms_top_n_test=100,
            box_roi_pool=MultiScaleRoIAlign(LEVELS, 7, 2),
            box_head=TwoMLPHead(body.out_channels * 49, 128),
            box_predictor=FastRCNNPredictor(128, classes + 1),
            box_batch_size_per_image=32,
            _skip_resize=True,
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """The batch's loss, once for every image [n], of images [n,3,S,S] and targets [n,m,5],
        class from 1 on and box; class 0 fills up.
        """
        images, targets = inputs
        there = [rows[rows[:, 0] > 0] for rows in targets]
        known = [{'boxes': rows[:, 1:], 'labels': rows[:, 0].long()} for rows in there]
        return sum(self.net([*images], known).values()).expand(len(images))


Detections = list[dict[str, Tensor]]  # of each image: boxes [k,4], labels [k] from 1 on, scores [k]


def average_precision(detections: Detections, truth: Boxed) -> list[float]:
    """AP50 of each class, nan where it has no box: the area under precision made monotone, over
    recall (VOC 2010 on). Every detection belongs to the box that it overlaps most; of several that
    overlap one box by at least half, the surest is right. One on a difficult box does not count.
    """
    return [_of_class(detections, truth, label) for label in range(len(truth.classes))]


def _of_class(detections: Detections, truth: Boxed, label: int) -> float:
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for image, one in enumerate(detections):
        here = (truth.image == image) & (truth.label == label)
        mine = one['labels'] == label + 1
        order = one['scores'][mine].argsort(descending=True, stable=True)
        score = one['scores'][mine][order].cpu().numpy()
        hits, counts = np.zeros(len(score), bool), np.ones(len(score), bool)
        if here.any() and len(score):
            overlap = box_iou(one['boxes'][mine][order].cpu(), torch.from_numpy(truth.box[here]))
            best, which = overlap.max(1)
            near = best.numpy() >= 0.5
            counts = ~(near & truth.difficult[here][which])
            hits[np.unique(np.where(near, which, -1), return_index=True)[1]] = True
            hits &= near & counts
        scores.append(score[counts])
        right.append(hits[counts])
    if not (n := int(((truth.label == label) & ~truth.difficult).sum())):
        return float('nan')
    hits = np.concatenate(right)[np.argsort(-np.concatenate(scores), kind='stable')]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(np.maximum.accumulate(precision[::-1])[::-1][hits].sum() / n)


@torch.no_grad()
@float32()
def detect(model: Detector, pixels: Tensor, encode: Encode) -> Detections:
    """The detections in every image of uint8 pixels [N,3,S,S]."""
    model.eval()
    return [one for part in pixels.split(BATCH) for one in model.net([*encode(part)])]


def run(s: Detection, scratch: Path) -> Computed:
    """'classes': AP50 of each class on the test and the train images, and boxes; 'epochs'.

    Arithmetic is float32 whatever the precision in use, for the coordinates of boxes need it.
    """
    truth, held = box_files.read(s.dataset)
    if truth.difficult.all() or held.difficult.all():
        raise Refused(f'{s.dataset} has no box to train on, or to test on: at least one is needed')
    chosen = replace(execution(), precision='fp32')
    train, test = (torch.tensor(part.pixels, device=chosen.device) for part in (truth, held))
    start, encode = trunk(Representation(s.dataset, s.seed, s.width, pretext=s.pretext))
    model, history = learn(s, start, encode, train, truth, chosen)
    pairs = ((test, held), (train, truth))
    precision = [average_precision(detect(model, part, encode), boxes) for part, boxes in pairs]
    counts = [
        np.bincount(boxes.label[~boxes.difficult], minlength=len(boxes.classes))
        for _, boxes in pairs
    ]
    kinds = {'ap50': 'float32', 'train': 'float32', 'boxes': 'int32', 'train_boxes': 'int32'}
    classes = table(zip(*precision, *counts), **kinds)
    tables = {'classes': classes, 'epochs': epochs_table([history])}
    summary = {name: float(np.nanmean(classes[name])) for name in ('ap50', 'train')}
    return Computed(tables, summary, truth.classes, machine(chosen))


def learn(
    s: Detection, start: nn.Module, encode: Encode, pixels: Tensor, truth: Boxed, chosen: Execution
) -> tuple[Detector, History]:
    """Train a detector on a copy of a trunk, which gets the batch-norm statistics of the images
    [N,3,S,S] before, and after; half of these are mirrored.
    """

    def calibrated(body: nn.Module) -> nn.Module:
        return recalibrate(body, (encode(part) for part in pixels.split(BATCH)))

    targets = _targets(truth, len(pixels)).to(pixels.device)
    with initialising(s.seed, 'detection', 'weights'):
        model = Detector(calibrated(start), bool(s.frozen), pixels.shape[-1], len(truth.classes))
    model = to_device(model, chosen)
    everything, side = torch.arange(len(pixels), device=pixels.device), pixels.shape[-1]
    # left is the side less right, and right the side less left
    flip = torch.tensor([[1, -1, 1, -1, 1], [0, side, 0, side, 0]], device=pixels.device)

    def batches(epoch: int) -> Iterator[tuple[Inputs, Tensor]]:
        rng = device_stream(s.seed, 'detection', 'epoch', epoch, device=pixels.device)
        for index in minibatches(everything, s.batch, rng):
            mirror = torch.randint(2, (len(index), 1, 1), generator=rng, device=index.device).bool()
            images, rows = pixels[index], targets[index]
            turned = rows[..., [0, 3, 2, 1, 4]] * flip[0] + flip[1]
            images = torch.where(mirror[..., None], images.flip(3), images)
            yield (encode(images), torch.where(mirror, turned, rows)), index

    # torchvision draws the anchors and proposals of a step from torch's own generator
    with initialising(s.seed, 'detection', 'draws'):
        plan, label = schedule(s), title(s, 'detection')
        history = fit(model, batches, lambda losses, _: losses, plan, chosen, len(pixels), label)  # type: ignore[arg-type]
    body = model.net.backbone
    body.trunk = calibrated(body.trunk)
    return model, history


def _targets(truth: Boxed, n: int) -> Tensor:
    """Class from 1 on and box of every box that is not difficult: [n,m,5], filled up with 0."""
    rows = torch.from_numpy(np.column_stack([truth.label + 1, truth.box]).astype('float32'))
    image = torch.from_numpy(np.where(truth.difficult, -1, truth.image))
    return pad_sequence([rows[image == number] for number in range(n)], batch_first=True)
