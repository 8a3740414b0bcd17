"""What a data set, a pretext task and a query strategy must keep to, as checks for their authors.

    pt4al.testing.check_dataset(my_reader)
    pt4al.testing.check_task(MyTask())
    pt4al.testing.check_query(my_strategy)

A broken promise raises `AssertionError` with its line of `LINES` and what came instead. All of it
runs on the CPU and draws from named streams: a check passes always or never.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from pt4al.data.splits import Images, Pair, digest
from pt4al.errors import Refused, one_line
from pt4al.files import ASSETS
from pt4al.query.strategies import FROM_CLASSIFIER, Pick, Pool, Query, as_query
from pt4al.rng import device_stream, initialising, stream
from pt4al.tasks.task import Task
from pt4al.training.nets import Model, resnet18

LINES: dict[str, str] = yaml.safe_load((ASSETS / 'contract.yaml').read_text('utf-8'))
DRAWN = 'a global generator of random, numpy or torch was drawn from'
PLACES = ('labelled', 'unlabelled')  # fields of a pool that hold indices
IMAGES, BUDGET = 560, 20  # of a pool; the budget is well below the images left in a batch


def _require(holds: bool, line: str, got: str) -> None:
    if not holds:
        raise AssertionError(f'contract line {line}, "{LINES[line]}": {got}')


def _global_generators() -> tuple:
    numpy_state = repr(np.random.get_state(legacy=False))
    return random.getstate(), numpy_state, torch.get_rng_state().numpy().tobytes()


def check_dataset(reader: Callable[[], Pair]) -> None:
    """Check lines D1 to D5 of what reads a data set; one that takes an argument, such as a path,
    is given as `lambda: reader('path')`.
    """
    train, test = _parts(reader)
    shapes = train.pixels.shape[1:], test.pixels.shape[1:]
    _require(shapes[0] == shapes[1], 'D2', f'images are {shapes[0]} and {shapes[1]}')
    classes = train.classes, test.classes
    _require(classes[0] == classes[1], 'D2', f'classes are {classes[0]} and {classes[1]}')
    for part in (train, test):
        fixed = not (part.pixels.flags.writeable or part.labels.flags.writeable)
        _require(fixed, 'D3', 'they can be written to')
        true = part.digest == digest(part.pixels, part.labels)
        _require(true, 'D3', f'{part.digest:.12} is the digest of other images')
    state = _global_generators()
    again = [part.digest for part in _parts(reader)]
    _require(again == [train.digest, test.digest], 'D4', 'the digests differ')
    _require(state == _global_generators(), 'D4', DRAWN)
    known = _contents(train)
    both = sum(content in known for content in _contents(test))
    _require(100 * both <= len(test.labels), 'D5', f'{both} of {len(test.labels)} are')


def _parts(reader: Callable[[], Pair]) -> Pair:
    try:
        pair = reader()
    except TypeError as error:
        _require(False, 'D1', one_line(error))
    holds = isinstance(pair, tuple) and [type(part) for part in pair] == [Images, Images]
    _require(holds, 'D1', f'got {one_line(repr(pair)):.200}')
    return pair


def _contents(part: Images) -> list[bytes]:
    return [hashlib.blake2b(image, digest_size=16).digest() for image in part.pixels]


def check_task(task: Task, pixels: Tensor | None = None) -> None:
    """Check lines T1 to T6 on noise images of 32x32 pixels, or on other pixels."""
    if isinstance(task, type):
        raise Refused(f'give an instance of the class: check_task({task.__name__}())')
    if pixels is None:
        rng = stream(0, 'contract', 'pixels')
        pixels = torch.from_numpy(rng.integers(256, size=(6, 3, 32, 32), dtype=np.uint8))
    side = pixels.shape[-1]
    # oneDNN's convolutions of 4 or 8 channels write out of bounds on maps of 64 pixels
    width = 4 if side <= 32 else 16
    with initialising(0, 'contract', 'weights'):
        model = Model(resnet18(width, side), task.head(8 * width))
    task.start(model, pixels, device_stream(0, 'contract', 'start'))
    scored = task.scoring(model.eval(), pixels, device_stream(0, 'contract', 'scoring'))
    _check_gradients(task, model, pixels)
    model.eval()
    for kind in (task, scored):
        state, once = _global_generators(), _answer(kind, model, pixels)[1]
        same = torch.equal(once, _answer(kind, model, pixels)[1])
        _require(same, 'T4', 'a second call with an equal generator gave other losses')
        _require(state == _global_generators(), 'T4', DRAWN)
    changed = torch.cat([pixels[:1], 255 - pixels[1:]])
    same = torch.equal(_answer(scored, model, changed)[1][0], once[0])
    _require(same, 'T6', 'the first loss changed when the other images were replaced')
    _check_losses(_answer(scored, model, pixels[:1])[1], 1)


def _answer(
    task: Task, model: Model, pixels: Tensor, draw: int = 0
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Outputs and targets, and the loss of each image, of one batch."""
    copy, index = pixels.clone(), torch.arange(len(pixels))
    batch = task.make_batch(copy, index, device_stream(0, 'contract', 'draws', draw))
    pair = isinstance(batch, tuple) and len(batch) == 2 and isinstance(batch[0], tuple)
    shown = [x for x in batch[0] if x.ndim == 4] if pair else []
    fit = all(x.dtype == torch.float32 and len(x) % len(pixels) == 0 for x in shown)
    _require(bool(shown) and fit, 'T1', f'got {batch!r:.200}')
    same = torch.equal(copy, pixels) and torch.equal(index, torch.arange(len(pixels)))
    _require(same, 'T5', 'they changed')
    with torch.set_grad_enabled(model.training):
        outputs = model(batch[0])
    losses = task.per_sample_loss(outputs, batch[1])
    _check_losses(losses, len(pixels))
    return (outputs, batch[1]), losses


def _check_gradients(task: Task, model: Model, pixels: Tensor) -> None:
    """Train on batches until every parameter was reached; a batch may be of one head alone."""
    model.train()
    for draw in range(16):
        (outputs, targets), losses = _answer(task, model, pixels, draw)
        _check_losses(task.per_sample_loss(outputs.detach().bfloat16(), targets), len(pixels))
        losses.mean().backward()
        idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        if not idle:
            break
    _require(not idle, 'T3', f'none reaches {", ".join(idle)}')


def _check_losses(losses: Tensor, images: int) -> None:
    bad = int((~losses.isfinite()).sum())
    holds = losses.shape == (images,) and losses.dtype == torch.float32 and not bad
    text = f'{images} images gave {losses.dtype} {list(losses.shape)}, {bad} of them not finite'
    _require(holds, 'T2', text)


def check_query(query: Query | Pick) -> None:
    """Check lines Q1 to Q8 of a strategy, or of a plain function that needs no optional field, at
    the start of a run and in its fourth cycle of ten.
    """
    fields = {field.name for field in dataclasses.fields(Pool)}
    query = as_query(query)
    unknown = ', '.join(sorted(query.needs - fields))
    _require(not unknown, 'Q1', f'it needs {unknown}; a pool has {", ".join(sorted(fields))}')
    for pool in (_pool(query, cycle=0), _pool(query, cycle=3)):
        _check_choice(query, pool)
        _check_places(query, pool)
        _check_ties(query, pool)
    _check_end(query, _pool(query, cycle=3))


def _pool(query: Query, cycle: int) -> Pool:
    """A pool with the fields that `query` needs; none of a classifier in cycle 0."""
    n, rng = IMAGES, stream(0, 'contract', 'pool')
    labelled = torch.from_numpy(rng.permutation(n)[: cycle * n // 30])
    wide = {'logits': 10, 'features': 16, 'ssl_features': 16}
    values = {name: rng.normal(size=(n, d)) for name, d in wide.items()}
    values['pretext_loss'] = 10 ** rng.uniform(-7, 1, size=n)
    values['predicted_loss'] = rng.normal(size=n)
    fields: dict[str, Any] = {name: torch.from_numpy(x).float() for name, x in values.items()}
    fields |= {'oracle_labels': torch.from_numpy(rng.integers(10, size=n)), 'classes': 10}
    fields['pixels'] = torch.from_numpy(rng.integers(256, size=(n, 3, 8, 8), dtype=np.uint8))
    wanted = query.needs - (FROM_CLASSIFIER if cycle == 0 else set())
    free = torch.from_numpy(np.setdiff1d(np.arange(n), labelled.numpy()))
    return Pool(labelled, free, cycle, 10, **{name: fields[name] for name in wanted})


def _tensors(pool: Pool, but: tuple[str, ...] = ()) -> dict[str, Any]:
    fields = {name: value for name, value in vars(pool).items() if name not in but}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


def _ask(query: Query, pool: Pool, seed: int = 0) -> Tensor:
    try:
        picked = query(pool, BUDGET, stream(seed, 'contract', 'query'))
    except (TypeError, AttributeError) as error:
        _require(False, 'Q1', f'in cycle {pool.cycle}, {error}')
    holds = isinstance(picked, Tensor) and picked.dtype == torch.int64 and picked.shape == (BUDGET,)
    kind, shape = getattr(picked, 'dtype', type(picked).__name__), getattr(picked, 'shape', [])
    _require(holds, 'Q2', f'a budget of {BUDGET} gave {kind} {list(shape)}')
    distinct = len(picked.unique())
    _require(distinct == BUDGET, 'Q2', f'{distinct} of {BUDGET} indices are distinct')
    strange = picked[~torch.isin(picked, pool.unlabelled)].tolist()
    _require(not strange, 'Q3', f'{strange} are labelled or do not exist')
    return picked


def _check_choice(query: Query, pool: Pool) -> None:
    before = {name: value.clone() for name, value in _tensors(pool).items()}
    picked = _ask(query, pool)
    # after the first call, since importing a library may draw from one
    state = _global_generators()
    changed = [name for name, x in _tensors(pool).items() if not torch.equal(x, before[name])]
    _require(not changed, 'Q4', f'it changed {", ".join(changed)}')
    same = torch.equal(picked, _ask(query, pool))
    _require(same, 'Q5', 'a second call with an equal generator chose others')
    _require(state == _global_generators(), 'Q5', DRAWN)
    chosen = set(picked.tolist())
    if all(set(_ask(query, pool, seed).tolist()) == chosen for seed in (1, 2, 3)):
        new = torch.from_numpy(stream(0, 'contract', 'names').permutation(IMAGES))
        other = set(_ask(query, _renamed(pool, new)).tolist()) - set(new[picked].tolist())
        text = f'it ignores its generator, yet {len(other)} of {BUDGET} choices become others when '
        _require(not other, 'Q6', text + 'the images are stored in another order')


def _renamed(pool: Pool, new: Tensor) -> Pool:
    """The same pool with image i stored in place new[i]."""
    old = new.argsort()
    moved: dict[str, Any] = {name: value[old] for name, value in _tensors(pool, PLACES).items()}
    free = new[pool.unlabelled].sort().values
    return dataclasses.replace(pool, labelled=new[pool.labelled], unlabelled=free, **moved)


def _check_places(query: Query, pool: Pool, orders: int = 16) -> None:
    """In many orders of the images, every tenth of the places is chosen as often, to 4.5 sd."""
    counts = np.zeros(10, int)
    for order in range(orders):
        new = torch.from_numpy(stream(order, 'contract', 'places').permutation(IMAGES))
        part = _renamed(pool, new)
        place = torch.searchsorted(part.unlabelled, _ask(query, part, order))
        counts += np.bincount(10 * place.numpy() // len(part.unlabelled), minlength=10)
    mean = orders * BUDGET / 10
    even = bool(np.abs(counts - mean).max() < 4.5 * (0.9 * mean) ** 0.5)
    _require(even, 'Q6', f'from the tenths of the places it chose {", ".join(map(str, counts))}')


def _check_ties(query: Query, pool: Pool) -> None:
    ones: dict[str, Any] = {n: torch.ones_like(x) for n, x in _tensors(pool, PLACES).items()}
    flat = dataclasses.replace(pool, **ones)
    place = torch.searchsorted(pool.unlabelled, _ask(query, flat))
    low, high, n = int(place.min()), int(place.max()), len(pool.unlabelled)
    text = f'all {BUDGET} chosen stand between places {low} and {high} of {n}'
    _require(2 * (high - low) >= n, 'Q7', text)


def _check_end(query: Query, pool: Pool, left: int = 7) -> None:
    labelled = torch.cat([pool.labelled, pool.unlabelled[left:]])
    last = dataclasses.replace(pool, labelled=labelled, unlabelled=pool.unlabelled[:left])
    for part in (last, dataclasses.replace(last, cycle=0, cycles=1)):
        try:
            picked = query(part, left, stream(0, 'contract', 'query'))
        except Refused as refusal:
            _require(part is last, 'Q8', str(refusal))
        else:
            everything = sorted(picked.tolist()) == part.unlabelled.tolist()
            _require(everything, 'Q8', f'{left} are left, {len(picked.unique())} were returned')
