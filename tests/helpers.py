"""What several test files share: results that were never computed, figures, photographs, refusals."""

from __future__ import annotations

import importlib.util
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from pt4al import data, figures
from pt4al.data import scenes
from pt4al.experiments import specs, store
from pt4al.own import labels, sheet

ROOT = Path(__file__).resolve().parents[1]
N, BUDGET = 300, 40  # images whose losses `put_losses` stores; first picks that `put_arm` stores
LABEL = np.repeat(np.arange(10, dtype='int16'), N // 10)
PHOTOS = 40  # as `plant` makes them
EVIL = '<script>alert("x")</script>'


def refused(answer: tuple[object, str, str], message: str) -> None:
    """Python prints the text given to sys.exit on stderr and exits with 1."""
    text, printed, errors = answer
    assert isinstance(text, str) and re.search(message, text), text
    assert text.startswith('pt4al: ') and '\n' not in text and not printed and not errors


# --- results that were never computed ---


def put(tables: store.Tables, kind: str, accuracy: float = 0, **fields) -> store.Result:
    """Store a result of `specs.spec(kind, **fields)` that was never computed."""
    spec = specs.spec(kind, **fields)
    made = store.Computed(
        tables, {'accuracy': accuracy}, data.CLASSES, {'chip': 'none', 'device': 'cpu'}
    )
    run = {'commit': 'c0ffee', 'seconds': 0}
    return store.read(store.write(store.roots()[0], spec, data.key_digest(spec.dataset), made, run))


def put_losses(kind: str, seed: int = 0, dataset: str = 'cifar10', **fields) -> np.ndarray:
    """Store losses [N] that agree with every other call's in part; returns them."""
    noise = np.random.default_rng([seed, len(kind)]).normal(size=(3, N))
    out, inside = (np.exp(np.linspace(-2, 2, N) + 2 * row).astype('float32') for row in noise[:2])
    columns = {'loss': out} if kind == 'pretext' else {'loss_out': out, 'loss_in': inside}
    put({'images': {'label': LABEL, **columns}}, kind, dataset=dataset, seed=seed, **fields)
    return out


def put_arm(
    strategy: str,
    seed: int,
    accuracy: list[float],
    labels: list[int] | None = None,
    dataset: str = 'cifar10',
    **fields,
) -> None:
    """Store an active-learning run with these accuracies; its first picks have `labels` [BUDGET]."""
    rng = np.random.default_rng([seed, len(strategy)])
    first = rng.integers(10, size=BUDGET) if labels is None else np.array(labels)
    picked = np.concatenate([first, *[rng.integers(10, size=BUDGET) for _ in accuracy[1:]]]).astype(
        'int16'
    )
    cycles = np.arange(1, len(accuracy) + 1, dtype='int16')
    put(
        {
            'picks': {
                'cycle': np.repeat(cycles, BUDGET),
                'index': np.arange(len(picked)),
                'label': picked,
            },
            'cycles': {
                'cycle': cycles,
                'labels': BUDGET * cycles.astype(int),
                'accuracy': np.array(accuracy, 'float32'),
            },
            'classes': {
                'cycle': np.repeat(cycles, 10),
                'label': np.tile(np.arange(10, dtype='int16'), len(cycles)),
                'accuracy': np.repeat(accuracy, 10).astype('float32'),
            },
        },
        'active',
        accuracy[-1],
        dataset=dataset,
        strategy=strategy,
        seed=seed,
        **fields,
    )


# --- figures and pages ---


def pictures(n: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(256, size=(n, 3, 32, 32), dtype=np.uint8)


def drawn(figure: figures.Figure) -> np.ndarray:
    """The still as [h,w,3]."""
    image = Image.open(io.BytesIO(figure.still))
    assert image.format == 'PNG'
    return np.asarray(image.convert('RGB'))


def scatter(n: int = 200) -> figures.Figure:
    rng = np.random.default_rng(0)
    main = rng.gamma(0.3, 1, n)
    return figures.loss_rank_scatter(
        main,
        main * rng.gamma(1, 1, n),
        rng.integers(2, size=n),
        ('cat', EVIL),
        np.arange(n),
        f'ranks {EVIL}',
    )


def load_checker():
    spec = importlib.util.spec_from_file_location('check_book', ROOT / 'scripts' / 'check_book.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_book = load_checker()


SOUND = (
    '<html><head></head><body><article><h1 id="top">One</h1><h2>Two</h2>{}</article></body></html>'
)


def checked(folder: Path, body: str, capsys) -> list[str]:
    (folder / 'other.html').write_text(SOUND.format(''))
    (folder / 'page.html').write_text(SOUND.format(body))
    for cached in (check_book.soup, check_book.anchors):
        cached.cache_clear()
    check_book.main(folder)
    return capsys.readouterr().out.splitlines()


# --- a folder of photographs ---


def picture(number: int, label: int = 0) -> Image.Image:
    noise = np.random.default_rng(number).integers(120, size=(16, 16, 3))
    noise[..., label] += 120
    return Image.fromarray(noise.astype(np.uint8))


def plant(root: Path, n: int = PHOTOS) -> dict[str, str]:
    """A tree of noise images tinted by class; the truth by name."""
    truth = {}
    for number in range(n):
        name = f'{"ab"[number % 2]}/{number:03d}.png'
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, number % 3).save(root / name)
        truth[name] = 'rgb'[number % 3]
    return truth


def written(path: Path, truth: dict[str, str], names: list[str]) -> Path:
    sheet.write_csv(path, {'path': names, 'label': [truth[name] for name in names]})
    return path


def matched(answers: dict[str, labels.Answer], tree) -> labels.Labels:
    """Labels of names alone, as a person writes them."""
    return labels.match({labels.Row(name): answer for name, answer in answers.items()}, tree)


def by_name(answers: dict[labels.Row, object]) -> dict[str, object]:
    return {row.name: answer for row, answer in answers.items()}


# --- scenes with masks ---


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
        mask[0] = scenes.VOID
    return pixels, masks


def write_camvid(
    root: Path, n: int = 3, side: int = 32, classes: tuple[int, ...] = (0, 1, 2)
) -> np.ndarray:
    """CamVid's layout in `root`, n frames of `shapes` a split, named from n down to 1; the masks."""
    pixels, masks = shapes(n, 0, side)
    masks = np.array([*classes, *[11] * (256 - len(classes))], 'uint8')[masks]
    for split in ('train', 'test'):
        for folder in (split, f'{split}annot'):
            (root / folder).mkdir(parents=True)
        for i, (image, mask) in enumerate(zip(pixels, masks)):
            picture = Image.fromarray(image.transpose(1, 2, 0))
            picture.save(root / split / f'{n - i}.jpg')
            Image.fromarray(mask).save(root / f'{split}annot' / f'{n - i}.png')
    scenes.read.cache_clear()
    data.arrays.cache_clear()
    return masks
