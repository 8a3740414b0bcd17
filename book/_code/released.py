"""The per-image rotation losses that PT4AL's authors and a fork published, and the statistics of
them that we keep.

Neither repository has a licence: the files are read where they lie, or fetched, and never shipped;
what goes into the store is counts, shares and correlations. Shapes: N = 50,000 images in the order
of CIFAR-10's training set.

    python book/_code/released.py       computes what is not stored
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pt4al import data, experiments, files, stats
from pt4al.claims import sensitivity
from pt4al.data import download
from pt4al.errors import Refused, choose
from pt4al.experiments import store

RAW = 'https://raw.githubusercontent.com'
OFFICIAL = f'{RAW}/johnsk95/PT4AL/9a0da4af383fd66be2df0ee8a6feb233009c17d5'
# two further runs of the same recipe
FORK = f'{RAW}/junbum766/PT4AL/cb7a1c6a5999c30edb65fcaa0bf578a07eeef530'
# the ten files, joined in their order
BATCHES = 'official_batches_0_to_9.txt'
RUNS = {
    'official': 'official_rotation_loss.txt',
    'run A': 'rerun_a_rotation_loss.txt',
    'run B': 'rerun_b_rotation_loss.txt',
}
DIGESTS = (
    'c717bd61e8ab6e630d1056bfd520d45747319306f08eed002cc84ee5fcb12e1a',
    '6707b41e8dd10e06b02c447368327d6b3e6113a652bf7a2efc16e86fdfefcfd6',
    '696ffa387e8b56c355b0fb82e026c82e0018aab7537b52f8f21da55949ae5a89',
    '820485d9cf801974f09c428c98e22e3d9f0b107d01f917fd0fa9b89ce34d6732',
)
SHA256 = dict(zip((*RUNS.values(), BATCHES), DIGESTS))
BATCH_SHA256 = (
    '0c436f4e32f426c61a4f1487d460b6cb1b80ebc0b4403e413452981a094d22aa',
    'c19890d6f500ed6c4fbe0b7d1d146f5c8109c76f64e7ef2e9298bedda83b635b',
    '30371013a5169a135947fb7188aca6bc22217a441958e66d28564541ece957e4',
    'a4395def5883a831e783e0e22152e0fe0bcbd18e17101c0fe19a4db73e9bdcdf',
    '2a170521ba8b1dac8a638302428ae9c784c1b4f2fb1698cc919faece7d3904fa',
    '541715f89a20e99d3a87635d8fdf237e7480415a9ac9b2a788701691ce229a1a',
    '9c40620d8c960943e579e1ce8ff2e7760656a138183dca06041a49e8b9aea146',
    'bb08f399c772589bdb2f4ae06e61cae09be7a2529f6741f9882908f512e632d3',
    '791325c2564598c57744842c8aa9cecf7ea998311788c79acb5715e10099c4b9',
    '9ae3f8aecb61956261645d71ce969d712f775096c3f6155f2ae21fddb5b16c53',
)
# file -> (address, SHA-256) of each of its parts
SOURCES: dict[str, tuple[tuple[str, str], ...]] = {
    **{
        name: ((f'{base}/{path}', SHA256[name]),)
        for name, base, path in zip(
            RUNS.values(),
            (OFFICIAL, FORK, FORK),
            ('rotation_loss.txt', 'rotation_loss.txt', 'rotation_loss_6.txt'),
        )
    },
    BATCHES: tuple(
        (f'{OFFICIAL}/loss/batch_{k}.txt', digest) for k, digest in enumerate(BATCH_SHA256)
    ),
}
# names the files in a result's key
DIGEST = hashlib.sha256(''.join(SHA256.values()).encode()).hexdigest()[:32]
# QUERY: labels a cycle; PARTS: batches of the order
IMAGES, QUERY, PARTS = 50_000, 1000, 10
# Python prints smaller losses as 9.9e-05
TINY = 1e-4
# what shrinks the losses, as longer training would
SCALES = (0.1, 0.01, 0.003, 0.001)
FORMATS: dict[str, Callable[[float], str]] = {
    'as released': repr,
    'always fixed': '{:.20f}'.format,
    'always scientific': '{:.16e}'.format,
}


# --- the files ---


def at_hand(name: str) -> Path | None:
    """Where $PT4AL_DATA holds a published file, else None; its digest is not yet checked."""
    folder = os.environ.get('PT4AL_DATA')
    path = Path(folder).expanduser() / 'published-losses' / name if folder else None
    return path if path and path.is_file() else None


def read(name: str) -> bytes:
    """One published file, from $PT4AL_DATA/published-losses, else from the user's cache, else
    fetched.

    Raises `Refused` if its SHA-256 is not the pinned one, naming the file, or if it cannot be had.
    """
    choose('published file', name, SOURCES)
    local = at_hand(name)
    content = (
        local.read_bytes() if local else b''.join(_fetch(name, *part) for part in SOURCES[name])
    )
    if (digest := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise Refused(
            f'{local or name} is not as published: sha256 {digest}, expected {SHA256[name]}; '
            'replace it'
        )
    return content


def _fetch(name: str, url: str, digest: str) -> bytes:
    try:
        folder = files.cache() / 'published-losses'
        return download.fetch(url, digest, folder, f'{digest[:12]}.txt').read_bytes()
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise Refused(
            f'{url} is not on this machine and could not be fetched '
            f'({" ".join(str(error).split())}): connect to the network, or set PT4AL_DATA to a '
            f'folder with published-losses/{name}'
        ) from error


@dataclass(frozen=True)
class Losses:
    """One run's losses in the order of the images."""

    text: np.ndarray  # [N] str, the loss as the file prints it
    value: np.ndarray  # [N] float64
    label: np.ndarray  # [N] int16, the class that the image's folder names

    @property
    def text_rank(self) -> np.ndarray:
        """Place [N] of each loss among the texts, smallest first, equal texts alike."""
        return np.unique(self.text, return_inverse=True)[1]


def parse(content: bytes, name: str, images: int = IMAGES) -> Losses:
    """Losses of a file with one line `loss_folder/class/index.png` an image, each index of
    0..images-1 exactly once.

    The line is split at the first underscore: folders may hold more. `Refused` names the file and
    the damaged line.
    """
    texts, index, label = [], [], []
    for number, line in enumerate(content.decode('utf-8', 'replace').splitlines(), 1):
        text, _, path = line.partition('_')
        try:
            good = math.isfinite(float(text))
        except ValueError:
            good = False
        if not good:
            raise Refused(
                f'{name}, line {number}: {line[:60]!r} does not begin with a loss; replace the file'
            )
        texts.append(text)
        _add(path, index, label, f'{name}, line {number}')
    back = np.argsort(_each_once(index, images, name))
    return Losses(
        np.array(texts)[back], np.array(texts, float)[back], np.array(label, 'int16')[back]
    )


def parse_order(content: bytes, name: str, images: int = IMAGES) -> tuple[np.ndarray, np.ndarray]:
    """Indices and labels, [N] each, in the order in which a file of lines `folder/class/index.png`
    has them.
    """
    index: list[int] = []
    label: list[int] = []
    for number, line in enumerate(content.decode('utf-8', 'replace').splitlines(), 1):
        _add(line, index, label, f'{name}, line {number}')
    return _each_once(index, images, name), np.array(label, 'int16')


def _add(path: str, index: list[int], label: list[int], where: str) -> None:
    parts = re.fullmatch(r'.*/([0-9])/([0-9]{1,7})\.png', path)
    if parts is None:
        raise Refused(f'{where}: {path[:60]!r} is not folder/class/index.png; replace the file')
    label.append(int(parts[1]))
    index.append(int(parts[2]))


def _each_once(index: list[int], images: int, name: str) -> np.ndarray:
    if len(index) != images or set(index) != set(range(images)):
        raise Refused(
            f'{name} has {len(index):,} lines on {len(set(index)):,} images, not one on each of '
            f'{images:,}; replace the file'
        )
    return np.array(index)


def load() -> tuple[dict[str, Losses], np.ndarray]:
    """The three published runs by name, and the official batches' order [N] of indices; errors as
    `read`, `parse`.
    """
    runs = {run: parse(read(name), name) for run, name in RUNS.items()}
    order, label = parse_order(read(BATCHES), BATCHES)
    for run, losses in runs.items():
        if (losses.label[order] != label).any():
            raise Refused(
                f'{RUNS[run]} and {BATCHES} put images into different classes; replace both'
            )
    return runs, order


# --- what they say ---


def text_order(losses: Losses) -> np.ndarray:
    """Indices [N] by descending loss compared as text, as the release's make_batches.py does."""
    return np.argsort(losses.text_rank, kind='stable')[::-1]


def number_order(losses: Losses) -> np.ndarray:
    """Indices [N] by descending loss, as the paper says."""
    return np.argsort(-losses.value, kind='stable')


def printed(value: np.ndarray, label: np.ndarray, form: Callable[[float], str] = repr) -> Losses:
    """Losses [N] and labels [N] with the text that `form` makes of each loss; `repr` is what the
    release writes.
    """
    return Losses(np.array([form(loss) for loss in value.tolist()]), value, label)


def severity(losses: Losses) -> dict[str, float]:
    """What comparing these losses as text does: rho of text order and number order, and what the
    first query becomes.

    The interval is a bootstrap over images, 200 draws. Tiny losses, below 1e-4, print in scientific
    notation.
    """
    order = text_order(losses)
    first = order[: len(order) // PARTS]
    rho = stats.rank_correlation(losses.text_rank, losses.value, draws=200)
    return {
        'tiny_share': float((losses.value < TINY).mean()),
        'rho': rho.value,
        'low': rho.low,
        'high': rho.high,
        'tiny_in_first_batch': float((losses.value[first] < TINY).mean()),
        **_query(losses, every_fifth(first)),
    }


def every_fifth(batch: np.ndarray) -> np.ndarray:
    """The release's first query: positions 0, 5, 10, ... of a batch."""
    return batch[::5]


def _query(losses: Losses, chosen: np.ndarray) -> dict[str, float]:
    return {
        'query_entropy': stats.normalised_entropy(losses.label[chosen], len(data.CLASSES)),
        'query_tiny_share': float((losses.value[chosen] < TINY).mean()),
        'query_percentile': float(stats.normalised_ranks(losses.value)[chosen].mean()),
    }


def _counts(label: np.ndarray) -> dict[str, int]:
    return dict(zip(data.CLASSES, np.bincount(label, minlength=len(data.CLASSES)).tolist()))


def _table(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {column: np.array([row[column] for row in rows]) for column in rows[0]}


def _batch_rows(losses: Losses, orders: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    for name, order in orders.items():
        for number, part in enumerate(np.array_split(order, PARTS)):
            value, label = losses.value[part], losses.label[part]
            yield {
                'order': name,
                'batch': number,
                'entropy': stats.normalised_entropy(label, len(data.CLASSES)),
                'lowest': float(f'{value.min():.2g}'),
                'highest': float(f'{value.max():.2g}'),
                'tiny': int((value < TINY).sum()),
                **_counts(label),
            }


def _query_rows(losses: Losses, released: np.ndarray) -> Iterator[dict[str, Any]]:
    """First queries of 1,000: of the release's main.py, as intended, of its main_pt4al.py, of the
    reproduction.
    """
    intended, size = number_order(losses), len(released) // PARTS
    queries = {
        'released': every_fifth(released[:size]),
        'intended': every_fifth(intended[:size]),
        'batch 5': every_fifth(released[5 * size : 6 * size]),
        'hardest': intended[:QUERY],
    }
    for name, chosen in queries.items():
        yield {
            'query': name,
            'images': len(chosen),
            **_query(losses, chosen),
            **_counts(losses.label[chosen]),
        }


def _format_rows(losses: Losses) -> Iterator[dict[str, Any]]:
    """The control for the text sort: the same losses in notations that differ in nothing else."""
    hardest_first = losses.value[number_order(losses)]
    for name, form in FORMATS.items():
        written = printed(losses.value, losses.label, form)
        yield {
            'format': name,
            'rho': stats.spearman(written.text_rank, losses.value),
            'in_place': int((losses.value[text_order(written)] == hardest_first).sum()),
        }


def _order_counts(losses: Losses, released: np.ndarray) -> dict[str, float]:
    """How the released order agrees with the text order and the number order.

    Texts and losses at a place are compared, not indices: equal ones may stand in any order.
    """
    intended, size = number_order(losses), len(released) // PARTS
    place, first = np.argsort(intended), released[:size]
    tiny = losses.value < TINY
    return {
        'released_as_text': int((losses.text[released] == losses.text[text_order(losses)]).sum()),
        'released_as_number': int((losses.value[released] == losses.value[intended]).sum()),
        'same_batch': int((place[released] // size == np.arange(len(released)) // size).sum()),
        'tiny': int(tiny.sum()),
        'tiny_in_first': int(tiny[first].sum()),
        'hardest_in_first': int((place[first] < (~tiny[first]).sum()).sum()),
        'rho_text_number': stats.spearman(losses.text_rank, losses.value),
    }


def _run_row(name: str, losses: Losses) -> dict[str, Any]:
    value = losses.value
    return {
        'run': name,
        'mean': value.mean(),
        'median': np.median(value),
        'q95': np.quantile(value, 0.95),
        'tiny': int((value < TINY).sum()),
        'zero': int((value == 0).sum()),
        'eta_squared': stats.between_within(value, value, losses.label).eta_squared,
    }


def _pair_rows(runs: dict[str, Losses]) -> Iterator[dict[str, Any]]:
    names = list(runs)
    for a, b in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        x, y = runs[a].value, runs[b].value
        rho, parts = stats.rank_correlation(x, y), stats.between_within(x, y, runs[a].label)
        yield {
            'a': a,
            'b': b,
            'rho': rho.value,
            'low': rho.low,
            'high': rho.high,
            'within': parts.within_class_rho,
            'class_means': parts.class_mean_correlation,
        }


@dataclass(frozen=True)
class Published:
    """Statistics of the published files; everything that decides them is pinned."""

    kind: ClassVar[str] = 'published'
    recipe: ClassVar[int] = 2
    dataset: str = 'cifar10'


def get(policy: str | None = None) -> store.Result:
    """Read the statistics of the published files from the store, or compute them from the files;
    policy as elsewhere.

    Tables: `batches` (order, batch, label entropy, loss range, images a class), `queries` (first
    queries of 1,000), `severity` (text order against number order as losses shrink), `formats` (the
    same losses in other notations), `runs` and `pairs` (how far three runs of one recipe agree).
    The summary holds single counts and correlations.
    """
    return store.get_or_compute(Published(), DIGEST, _compute, _policy(policy))


def _policy(policy: str | None) -> str:
    return choose(
        'policy', policy or os.environ.get('PT4AL_COMPUTE', 'missing'), ('missing', 'never')
    )


def _compute(_spec: Published, _scratch: Path) -> store.Computed:
    runs, released = load()
    official = runs['official']
    orders = {'released': released, 'intended': number_order(official)}
    sources = runs | {
        f'official x {s:g}': printed(official.value * s, official.label) for s in SCALES
    }
    tables = {
        'batches': _table([*_batch_rows(official, orders)]),
        'queries': _table([*_query_rows(official, released)]),
        'severity': _table(
            [{'source': name, **severity(losses)} for name, losses in sources.items()]
        ),
        'formats': _table([*_format_rows(official)]),
        'runs': _table([_run_row(name, losses) for name, losses in runs.items()]),
        'pairs': _table([*_pair_rows(runs)]),
    }
    summary = _order_counts(official, released) | {
        'reliability': stats.reliability([losses.value for losses in runs.values()]),
        'reliability_within': float(np.mean(tables['pairs']['within'])),
        'reliability_class_means': float(np.mean(tables['pairs']['class_means'])),
    }
    return store.Computed(tables, summary, data.CLASSES, _machine())


def _machine() -> dict[str, str]:
    return {'device': 'cpu', 'python': platform.python_version(), 'numpy': np.__version__}


# --- the published runs against ours ---

AGREE = ('pretext_reliability', 'main_reliability')
OLDER_WORDS = {  # of stored tables
    **{'where': 'evaluation set', 'kept epoch': 'checkpoint', 'points': 'number of images'},
    'as text': 'sorted as text',
}


@dataclass(frozen=True)
class Against:
    """Correlation of the published runs with stored runs of this report; one more of ours makes
    another result.
    """

    kind: ClassVar[str] = 'against'
    recipe: ClassVar[int] = 2
    dataset: str = 'cifar10'
    of: str = 'main'  # kind of our results
    results: tuple[str, ...] = ()  # their keys


def against(results: Sequence[store.Result], policy: str | None = None) -> store.Result:
    """Rank correlation of each published run with our runs of one spec, as a stored result; policy
    as elsewhere.

    `results` are main, pretext or trajectory results on CIFAR-10, as `pt4al.runs` finds them. Table
    `rho`: one row a published run (and all three; and the official one compared as text) and a loss
    of ours, with bootstrap interval, the mean rho within a class and the share between classes; the
    summary holds our runs' own reliability where there are two. Of trajectories instead table
    `levels`, as `as_columns` writes it, of all three runs.
    """
    if not results:
        raise Refused(
            'no results to hold the published runs against: run  '
            'pt4al run main dataset=cifar10  first'
        )
    kinds, datasets = {r.kind for r in results}, {r.spec.dataset for r in results}
    if len(kinds) > 1 or datasets != {'cifar10'}:
        raise Refused(
            f'results of {", ".join(sorted(kinds | datasets))}: give those of one kind, on cifar10'
        )
    spec = Against(of=kinds.pop(), results=tuple(r.key for r in results))
    return store.get_or_compute(
        spec, DIGEST, lambda _spec, _scratch: _against(results), _policy(policy)
    )


def _against(results: Sequence[store.Result]) -> store.Computed:
    runs, _ = load()
    label = results[0].tables['images']['label']
    if not np.array_equal(label, runs['official'].label):
        raise Refused(
            'the published files and our results do not hold the same images in the same order'
        )
    if results[0].kind == 'trajectory':
        levels = sensitivity.of_losses(
            np.stack([losses.value for losses in runs.values()]), list(results)
        )
        return store.Computed(
            {'levels': as_columns(levels)}, {'runs': len(results)}, data.CLASSES, _machine()
        )
    pretext = {name: losses.value[None] for name, losses in runs.items()}
    pretext |= {
        'all three': np.concatenate([*pretext.values()]),
        'official, compared as text': runs['official'].text_rank[None],
    }
    columns = [c for c in ('loss_out', 'loss_in', 'loss') if c in results[0].tables['images']]
    rows, summary = [], {'runs': len(results), 'width': results[0].spec.width}
    for column in columns:
        ours = np.stack([r.tables['images'][column] for r in results])
        if len(ours) > 1:
            summary[f'reliability_{column}'] = stats.reliability(ours)
        rows += [
            _against_row(name, column, losses, ours, label) for name, losses in pretext.items()
        ]
    return store.Computed({'rho': _table(rows)}, summary, data.CLASSES, _machine())


def _against_row(
    name: str, column: str, published: np.ndarray, ours: np.ndarray, label: np.ndarray
) -> dict[str, Any]:
    rho = stats.rank_correlation(published, ours, draws=400)
    parts = [stats.between_within(x, y, label) for x in published for y in ours]
    return {
        'published': name,
        'ours': column,
        'rho': rho.value,
        'low': rho.low,
        'high': rho.high,
        'images': rho.n,
        'runs': f'{len(published)} published x {len(ours)} of ours',
        'method': rho.method,
        'within': float(np.mean([p.within_class_rho for p in parts])),
        'between_share': float(np.mean([p.between_share for p in parts])),
    }


def published_levels() -> list[sensitivity.Level]:
    """The levels of the three published rotation runs, from their stored comparison with the most
    of our trajectories.
    """
    held = store.find('against', of='trajectory')
    most = max(held, key=lambda r: len(r.spec.results), default=None)
    return from_columns(most.tables['levels']) if most else []


def as_columns(levels: Sequence[sensitivity.Level]) -> dict[str, np.ndarray]:
    """Levels as the columns of a stored table; `from_columns` reads them back."""
    rows = []
    for one in levels:
        row = {'factor': one.factor, 'level': one.level, **asdict(one.rho)}
        row |= {name: getattr(one, name) for name in AGREE}
        rows.append({name: math.nan if value is None else value for name, value in row.items()})
    return _table(rows)


def from_columns(table: Mapping[str, np.ndarray]) -> list[sensitivity.Level]:
    """The levels that `as_columns` made a table of."""
    levels = []
    for values in zip(*(column.tolist() for column in table.values())):
        row = dict(zip(table, values))
        agree = [None if math.isnan(value) else value for value in map(row.pop, AGREE)]
        factor, level = row.pop('factor'), row.pop('level')
        factor = OLDER_WORDS.get(factor, factor)
        levels.append(sensitivity.Level(factor, level, stats.Estimate(**row), *agree))
    return levels


# --- a control for confidence on unit-norm logits ---


def unit_norm_range(classes: int) -> tuple[float, float]:
    """Least and greatest top-1 soft-max of `classes` logits that are centred and scaled to length
    1.

    The least has all logits but one equal and that one below, the greatest one above: the length
    allows no more.
    """
    # then the odd one out is classes - 1 steps from zero
    step = 1 / math.sqrt(classes * (classes - 1))
    low, high = math.exp(step), math.exp((classes - 1) * step)
    return low / ((classes - 1) * low + 1 / high), high / (high + (classes - 1) / low)


def unit_norm_control(
    spread: float, images: int = 5000, classes: int = 10, length: float = 8, seed: int = 0
) -> dict[str, float]:
    """How least confidence on unit-norm logits orders simulated images, against soft-max
    confidence.

    Directions of the centred logits are uniform; their length is log-normal around `length` with
    deviation `spread` of its logarithm. `overlap` is the share of the 1,000 least confident that
    both pick.
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(images, classes))
    direction -= direction.mean(1, keepdims=True)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    lengths = length * np.exp(spread * rng.normal(size=(images, 1)))
    unit, plain = _top1(direction), _top1(direction * lengths)
    both = np.intersect1d(np.argsort(unit)[:QUERY], np.argsort(plain)[:QUERY])
    return {
        'lowest': float(unit.min()),
        'highest': float(unit.max()),
        'rho': stats.spearman(unit, plain),
        'overlap': len(both) / QUERY,
    }


def _top1(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return 1 / odds.sum(1)


def main() -> None:
    """Print where the statistics lie, and those of the published runs against ours on CIFAR-10."""
    sides = [
        experiments.runs(kind, dataset='cifar10', width=width)
        for width in (16, 64)
        for kind in ('main', 'pretext')
    ]
    ours = filter(None, [*sides, experiments.runs('trajectory', dataset='cifar10')])
    for result in (get(), *map(against, ours)):
        print(result.folder)


if __name__ == '__main__':
    main()
