"""Trees of image files as data sets: the user's with or without classes, and Caltech-101.

Every image is decoded once, to S x S pixels, into a mapped file of the cache.
"""

import difflib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from pt4al import files
from pt4al.data import download, splits
from pt4al.data.splits import Pair
from pt4al.errors import Refused, first, one_line
from pt4al.progress import Progress, log

SUFFIXES = dict.fromkeys(('.jpg', '.jpeg', '.jpe', '.jfif'), 'JPEG')
SUFFIXES |= {'.png': 'PNG', '.webp': 'WEBP', '.bmp': 'BMP', '.gif': 'GIF'}
SUFFIXES |= dict.fromkeys(('.tif', '.tiff'), 'TIFF')
SUFFIXES |= dict.fromkeys(('.ppm', '.pgm', '.pbm', '.pnm'), 'PPM')
# Pillow knows others, some of which start other programs
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
# what cameras and phones write and this package does not read
UNREAD = {'.heic': 'HEIC', '.heif': 'HEIC', '.avif': 'AVIF', '.dng': 'a raw format'}
UNREAD |= dict.fromkeys(('.cr2', '.cr3', '.nef', '.arw', '.raf', '.orf', '.rw2'), 'a raw format')
# how files of theirs begin, whatever their name, after the length of the first box
BRANDS = {b'ftypheic': 'HEIC', b'ftypheix': 'HEIC', b'ftypmif1': 'HEIC', b'ftypavif': 'AVIF'}
# folders of thumbnails and of what was thrown away, as storage systems call them
NO_FOLDER = ('@eaDir', '.@__thumb', '@Recycle', '#recycle', '__MACOSX', '$RECYCLE.BIN')
# a PNG may carry its making as text of some megabytes; Pillow's own bound is one
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, 2**26)
TWELVE = 2**12  # pixel values of 16 bits that hold 12
DECODER = 2  # raise when `decode` changes, so that no older file of the cache is read
DIGITS = 12  # of a file's SHA-256, in hexadecimal, that tell pictures apart
CACHE = 50 * 10**9  # bytes that decoded images may take before those longest unused go
IN_FLIGHT = 2**26  # bytes of decoded images held at once
THREADS = min(16, os.cpu_count() or 1)
UNREADABLE = 0.01  # the share of images that may be unreadable
SIZES = (8, 1024)  # smallest and largest S
TEST_SHARE = 0.1  # of a tree that comes without a test set
# images of the published test set and of the whole set, background included
CALTECH_TEST, CALTECH = 1098, 9144
CALTECH_PLACES = ('caltech101/101_ObjectCategories', '101_ObjectCategories')
BRING_CALTECH = 'put caltech101/101_ObjectCategories under $PT4AL_DATA'

Remarks = list[tuple[int, str]]  # index among the paths, what is wrong or odd
Listed = tuple[list[Path], np.ndarray]  # files and their labels


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits are scaled, or the 12 they hold; what is transparent is white."""
    if image.mode.startswith('I;16'):
        values = np.asarray(image, np.float64)
        scale = (TWELVE - 1) / 255 if _twelve_bits(values) else 257
        return Image.fromarray((values / scale).round().astype(np.uint8)).convert('RGB')
    if image.mode in ('I', 'F'):
        raise ValueError(f'mode {image.mode} has no fixed range: save it with 8 or 16 bits')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert('RGB')


def _twelve_bits(values: np.ndarray) -> bool:
    """Whether 16 bits hold 12, as cameras store them; 8 bits over 16 are multiples of 257."""
    return values.max() < TWELVE and bool((values % 257).any())


def decode(path: Path, size: int) -> np.ndarray:
    """The middle of an image, upright, its shorter side scaled to `size`: [3,size,size] uint8."""
    with Image.open(path, formats=FORMATS) as image:
        # decodes a large JPEG at a fraction of its size, not below twice ours
        image.draft(None, (2 * size, 2 * size))
        upright = _eight_bits(ImageOps.exif_transpose(image))
    fitted = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(fitted).transpose(2, 0, 1).copy()


def _attempt(path: Path, size: int) -> tuple[np.ndarray | None, str, str]:
    """The image, what is odd about it and its file's digest, or None and why it cannot be read."""
    try:
        pixels = decode(path, size)
        blank = 'is blank: one colour throughout' if (pixels == pixels[:, :1, :1]).all() else ''
        return (
            pixels,
            '; '.join(filter(None, [_oddity(path), blank])),
            picture_digest(path.read_bytes()),
        )
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        return None, _reason(path, error), ''


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read."""
    with suppress(OSError), path.open('rb') as file:
        if kind := BRANDS.get(file.read(12)[4:]):
            return f'it is {kind} under another name: save it as JPEG'
    return one_line(f'{type(error).__name__}: {error}')


def picture_digest(content: bytes) -> str:
    """The digest of an image file; of a JPEG without what programs write beside the picture, such
    as ratings and places.
    """
    made, at = hashlib.sha256(), 0
    if content[:2] == b'\xff\xd8':
        at = 2
        # segments of a marker and a length up to the scan; APP0 to APP15 and comments are left out
        while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
            marker, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
            if not 0xE0 <= marker <= 0xEF and marker != 0xFE:
                made.update(content[at:end])
            at = end
    made.update(content[at:])
    return made.hexdigest()[:DIGITS]


def _oddity(path: Path) -> str:
    with Image.open(path, formats=FORMATS) as image:
        # what many cameras call a JPEG with a preview
        content = 'JPEG' if image.format == 'MPO' else image.format
        named = content in (None, SUFFIXES.get(path.suffix.lower()))
        several = image.format != 'MPO' and getattr(image, 'is_animated', False)
        twelve = image.mode.startswith('I;16') and _twelve_bits(np.asarray(image))
    first, bits = 'only its first frame is read', 'its 16 bits hold 12, which are read as such'
    remarks = ((f'its content is {content}', not named), (first, several), (bits, twelve))
    return '; '.join(remark for remark, holds in remarks if holds)


# --- many images, decoded once ---


def _key(paths: Sequence[Path], size: int) -> str:
    """Name a list of files as they are now: paths, lengths and times of change, that of the name
    included, for two files may swap their names.
    """
    listing = hashlib.sha256(f'{DECODER} {size}'.encode())
    for path in paths:
        try:
            about = os.stat(path)
            state = f'{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}'
        except OSError:
            state = 'gone'
        listing.update(os.fsencode(os.path.abspath(path)) + b'\0' + state.encode() + b'\0')
    return listing.hexdigest()[:32]


def _header(file: IO[bytes], images: int, size: int) -> None:
    file.seek(0)
    # numpy leaves room for the first axis to grow: one for fewer images is as long as before
    about = {'descr': '|u1', 'fortran_order': False, 'shape': (images, 3, size, size)}
    np.lib.format.write_array_header_1_0(file, about)


def _decode_into(
    file: IO[bytes], paths: Sequence[Path], size: int
) -> tuple[Remarks, Remarks, list[str]]:
    """Write the readable images as .npy into `file`; what the others are, odd ones, and digests."""
    unreadable: Remarks = []
    odd: Remarks = []
    digests: list[str] = []
    progress = Progress('decoding images', len(paths))
    _header(file, len(paths), size)
    with ThreadPoolExecutor(THREADS) as pool, warnings.catch_warnings():
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        step = min(1000, max(THREADS, IN_FLIGHT // (3 * size * size)))
        for start in range(0, len(paths), step):
            chunk = paths[start : start + step]
            attempts = pool.map(partial(_attempt, size=size), chunk)
            for index, (pixels, remark, digest) in enumerate(attempts, start):
                if pixels is not None:
                    file.write(pixels.data)
                    digests.append(digest)
                if remark:
                    (unreadable if pixels is None else odd).append((index, remark))
            progress.add(len(chunk))
    progress.close()
    _header(file, len(paths) - len(unreadable), size)
    return unreadable, odd, digests


def shown(wrong: Sequence[tuple[Path, str]]) -> str:
    """The first ten of paths and what is wrong with them, in words."""
    return first([f'{str(path)!r} ({reason})' for path, reason in wrong], 10, '; ')


def in_words(paths: Sequence[Path], unreadable: Remarks) -> str:
    """How many of paths cannot be read, the first ten and why."""
    reasons = [(paths[index], reason) for index, reason in unreadable]
    return f'{len(reasons)} of {len(paths)} images cannot be read: {shown(reasons)}'


def read_images(
    paths: Sequence[Path], size: int, limit: float = UNREADABLE
) -> tuple[np.ndarray, Remarks, Remarks, list[str]]:
    """Decode images once: later calls map the file that the first left in the cache.

    Returns pixels [M,3,size,size] uint8 of the M readable images in the order of `paths`, mapped
    from disk, index and reason of the others, what is odd about those that were read, and the
    digest of each one's file. Raises `Refused` if there are no images, if more than the share
    `limit` of them (and more than one, or all) are unreadable, or without room.
    """
    if not paths:
        raise Refused('there are no images to read')
    before = _key(paths, size)
    held = files.cache() / 'decoded' / f'{before}.npy'
    note = held.with_suffix('.json')
    try:
        noted = json.loads(files.unseal(note))
        unreadable, odd = ([(i, why) for i, why in noted[what]] for what in ('unreadable', 'odd'))
        with held.open('rb') as file:
            if hashlib.file_digest(file, 'sha256').hexdigest() == noted['sha256']:
                return _mapped(held), unreadable, odd, noted['digests']
        log.warning('%s is damaged: the images are decoded again', held)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, damaged, or of earlier code: it is only a cache
    files.check_writable(held.parent, 'decoded images are kept there, make it a writable folder')
    needed, free = len(paths) * 3 * size * size, shutil.disk_usage(held.parent).free
    if needed > free:
        raise Refused(
            f'the decoded images take {needed / 1e9:.1f} GB and {held.parent} has room for '
            f'{free / 1e9:.1f} GB: choose a smaller size or free some space'
        )
    with files.written(held) as file:
        unreadable, odd, digests = _decode_into(file, paths, size)
        if _key(paths, size) != before:
            raise Refused('images changed while they were read: run it again when they are at rest')
        if len(unreadable) > max(1, limit * len(paths)) or len(unreadable) == len(paths):
            raise Refused(f'{in_words(paths, unreadable)}; repair or remove them')
        file.seek(0)
        sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
    about = {'unreadable': unreadable, 'odd': odd, 'digests': digests, 'sha256': sha256}
    files.seal(note, json.dumps(about).encode())
    _bound(held)
    return _mapped(held), unreadable, odd, digests


def _mapped(held: Path) -> np.ndarray:
    os.utime(held)  # `_bound` removes what was not used for longest
    return np.load(held, mmap_mode='c', allow_pickle=False)


def _bound(newest: Path) -> None:
    """Remove decoded images that were not used for longest, until all take `CACHE` bytes."""
    sizes = {path: path.stat() for path in newest.parent.glob('*.npy')}
    total = sum(size.st_size for size in sizes.values())
    for path in sorted(sizes.keys() - {newest}, key=lambda path: sizes[path].st_mtime):
        if total <= CACHE:
            break
        total -= sizes[path].st_size
        log.info('%s was not used for longest: removed, to bound the cache', path)
        for part in path.parent.glob(f'{path.stem}.*'):
            part.unlink(missing_ok=True)


# --- trees ---


def walk(root: Path) -> tuple[list[Path], dict[str, str]]:
    """The image files anywhere below `root`, and other files: relative name -> why left out.

    By folder and name. Hidden entries and results of this package (folders *.pt4al) are passed
    over in silence; no link is followed. Raises `Refused` where root is no folder.
    """
    if not root.is_dir():
        hint = '' if root.exists() else near(root)
        raise Refused(
            f'{str(root)!r} is not a folder: give the folder that holds your images{hint}'
        )
    images: list[Path] = []
    others: dict[str, str] = {}

    def unlisted(error: OSError) -> None:
        others[os.path.relpath(error.filename, root)] = f'cannot be listed ({error.strerror})'

    for folder, inside, names in os.walk(root, onerror=unlisted):
        inside[:] = sorted(name for name in inside if not name.endswith('.pt4al'))
        for name in sorted({*inside} & {*NO_FOLDER}):
            others[os.path.relpath(Path(folder, name), root)] = 'is a folder of thumbnails'
        inside[:] = [name for name in inside if name[0] != '.' and name not in NO_FOLDER]
        links = [name for name in inside if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*links, *(name for name in names if not name.startswith('.'))]):
            path = Path(folder, name)
            if why := _no_image(path):
                others[str(path.relative_to(root))] = why
            else:
                images.append(path)
    return images, others


def _no_image(path: Path) -> str:
    """Why a file is not even opened; '' if it is to be."""
    if path.is_symlink():
        return 'is a link, and links are not followed'
    if kind := UNREAD.get(path.suffix.lower()):
        return f'is {kind}, which is not read: save it as JPEG'
    if path.suffix.lower() not in SUFFIXES:
        return 'is no image by its name'
    if not path.is_file():
        return 'is no file'
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return 'its name is not UTF-8: rename it'
    return ''


def classes_in(folder: Path) -> dict[str, list[Path]]:
    """Class -> image files for the class folders of `folder` that hold images, both by name.

    Files in folders below a class folder are of its class, as torchvision's ImageFolder has it.
    """
    images, others = walk(folder)
    wrong = [(folder / name, why) for name, why in others.items()]
    tree: dict[str, list[Path]] = {}
    for path in images:
        name, *below = path.relative_to(folder).parts
        if below:
            tree.setdefault(name, []).append(path)
        else:
            wrong.append((path, 'lies in no class folder'))
    if wrong:
        log.warning('%d files are left out: %s', len(wrong), shown(wrong))
    return tree


def _flat(tree: dict[str, list[Path]], classes: Sequence[str]) -> Listed:
    paths = [path for name in classes for path in tree.get(name, ())]
    return paths, np.repeat(np.arange(len(classes)), [len(tree.get(name, ())) for name in classes])


def _pair(train: Listed, test: Listed, classes: Sequence[str], size: int) -> Pair:
    paths, cut = [*train[0], *test[0]], len(train[0])
    labels = np.concatenate([train[1], test[1]]).astype('<i8')
    pixels, unreadable, *_ = read_images(paths, size)
    if unreadable:
        log.warning('%s; they are left out', in_words(paths, unreadable))
    gone = np.array([index for index, _ in unreadable], np.int64)
    labels, cut = np.delete(labels, gone), cut - int((gone < cut).sum())
    if not 0 < cut < len(labels):
        counts = f'{cut} train and {len(labels) - cut} test images'
        raise Refused(f'{counts} can be read: both are needed')
    ends = (slice(cut), slice(cut, None))
    train_set, test_set = (splits.frozen(pixels[at], labels[at], classes) for at in ends)
    return train_set, test_set


def _halves(tree: dict[str, list[Path]], test: int, stream: str, size: int) -> Pair:
    """Split a tree that comes as one into train and about `test` test images, class by class."""
    paths, labels = _flat(tree, list(tree))
    held = splits.test_mask_by_class(labels, test, stream)
    train, rest = (([paths[i] for i in np.flatnonzero(m)], labels[m]) for m in (~held, held))
    return _pair(train, rest, list(tree), size)


def parse_folder(argument: str) -> tuple[Path, int]:
    """Read `PATH` or `PATH?size=S`; `Refused` says what is wrong with it."""
    path, wanted = re.findall(r'\A(.*?)(?:\?size=(\d+))?\Z', argument, re.DOTALL)[0]
    if not path:
        raise Refused('name the folder of images: imagefolder:PATH or imagefolder:PATH?size=64')
    return files.expand_home(path), side(wanted or 32)


def side(size: str | int) -> int:
    """Read the side of images in pixels; `Refused` where it is no number or out of bounds."""
    if not re.fullmatch('[0-9]{1,4}', str(size)) or not SIZES[0] <= int(size) <= SIZES[1]:
        raise Refused(f'image size {size!r}: give a number of pixels from {SIZES[0]} to {SIZES[1]}')
    return int(size)


def nearest(name: str, names: Iterable[str]) -> str:
    """The nearest of some names as the end of a message; '' where none is near."""
    lower = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), lower, 1)
    return f'; the nearest name is {lower[near[0]]!r}' if near else ''


def near(path: Path) -> str:
    """`nearest` of what lies beside a path that is not there."""
    return nearest(path.name, [other.name for other in path.parent.glob('*')])


def _parts(train: Path, test: Path, size: int) -> Pair:
    trees = [classes_in(part) for part in (train, test)]
    classes = list(trees[0])
    if unknown := sorted(set(trees[1]) - set(classes)):
        lacking = f'of which {str(train)!r} has no image'
        raise Refused(f'{str(test)!r} holds the class {unknown[0]!r}, {lacking}')
    if not all(trees):
        raise Refused(f'{str(test if classes else train)!r} holds no class folders with images')
    return _pair(_flat(trees[0], classes), _flat(trees[1], classes), classes, size)


def imagefolder(argument: str) -> Pair:
    """The user's images `PATH/train/<class>/*` and `PATH/test/<class>/*` (or `val`), or one tree
    `PATH/<class>/*`, of which a tenth of every class becomes the test set.

    Images are brought to 32 pixels (`PATH?size=64`: 64) by `decode`.
    """
    root, size = parse_folder(argument)
    train, tests = root / 'train', [root / name for name in ('test', 'val')]
    if train.is_dir() and (there := [part for part in tests if part.is_dir()]):
        return _parts(train, there[0], size)
    tree = classes_in(root)
    inside = tree.get('train', [])
    if not tree or inside and not any(path.parent == train for path in inside):
        raise Refused(
            f'{str(root)!r} holds no class folders with images: it must be PATH/<class>/*, or '
            'PATH/train/<class>/* and PATH/test/<class>/*'
        )
    return _halves(tree, round(TEST_SHARE * sum(map(len, tree.values()))), 'imagefolder', size)


REGISTERED: dict[str, np.ndarray] = {}  # pixels of `register_pixels`, by digest


def register_pixels(pixels: np.ndarray) -> str:
    """Name images [N,3,S,S] by content: `unlabelled:NAME` is these in this process."""
    name = splits.without_labels(pixels).digest[:16]
    REGISTERED[name] = pixels
    return name


def unlabelled(argument: str) -> Pair:
    """All images below `PATH` (`PATH?size=64`: at 64 pixels), in the order of `walk`, or those that
    `register_pixels` has named, without classes: every label is 0, no test set.
    """
    if (pixels := REGISTERED.get(argument)) is None:
        root, size = parse_folder(argument)
        pixels, *_ = read_images(walk(root)[0], size, limit=1)
    return splits.without_labels(pixels), splits.without_labels(pixels[:0])


def caltech_options(argument: str = '') -> tuple[int, bool]:
    """Read `size=S` and `background=yes|no`, both optional, joined by a comma."""
    parts = [part.partition('=') for part in argument.split(',') if argument]
    options = {'size': '64', 'background': 'yes'} | {name: value for name, _, value in parts}
    twice = len({name for name, _, _ in parts}) < len(parts)
    if twice or len(options) > 2 or options['background'] not in ('yes', 'no'):
        raise Refused(f'caltech101:{argument}: write for example caltech101:size=64,background=no')
    return side(options['size']), options['background'] == 'yes'


def caltech101(argument: str = '') -> Pair:
    """Caltech-101 (Fei-Fei, Fergus & Perona 2004): 8,046 and 1,098 images of 102 classes.

    The published sizes count the folder BACKGROUND_Google, so it is in by default; without it
    (`background=no`) 8,677 images are split in the same proportion. The split is class by class;
    which images the paper tested on is not published.
    """
    size, background = caltech_options(argument)
    if (root := download.find(*CALTECH_PLACES)) is None:
        source = 'https://data.caltech.edu/records/mzrjq-6wc02'
        raise Refused(f'caltech101 is not on this machine: {BRING_CALTECH} ({source})')
    tree = classes_in(root)
    if not background:
        tree.pop('BACKGROUND_Google', None)
    images = sum(map(len, tree.values()))
    return _halves(tree, round(images * CALTECH_TEST / CALTECH), 'caltech101', size)
