from __future__ import annotations

import io
import logging
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pt4al import data, files
from pt4al.data import folders, splits
from pt4al.errors import Refused

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no PT4AL_DATA."""
    monkeypatch.delenv('PT4AL_DATA', raising=False)
    monkeypatch.setattr(files, 'cache', lambda: tmp_path / 'cache')
    monkeypatch.setattr(data, 'arrays', data.arrays.__wrapped__)
    return tmp_path / 'cache'


def put(
    path: Path, colour: object = RED, size: tuple[int, int] = (40, 40), mode: str = 'RGB', **options
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def plant(root: Path, counts: dict[str, int], suffix: str = '.png') -> Path:
    """A tree of `counts[class]` images, each of a grey that no other image has."""
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            put(root / name / f'{i:03d}{suffix}', (number * 20, i, 7))
    return root


def shades(part: splits.Images) -> list[tuple[int, ...]]:
    return [tuple(image[:, 0, 0].tolist()) for image in part.pixels]


# --- one image ---


@pytest.mark.parametrize(
    ('name', 'mode', 'colour', 'want', 'options'),
    [
        ('a.png', 'RGB', RED, RED, {}),
        ('a.webp', 'RGB', GREEN, GREEN, {'lossless': True}),
        ('a.bmp', 'RGB', BLUE, BLUE, {}),
        ('a.gif', 'P', 0, (0, 0, 0), {}),
        ('a.tiff', 'RGB', BLUE, BLUE, {}),
        ('a.png', 'L', 100, (100,) * 3, {}),
        ('a.png', '1', 1, (255,) * 3, {}),
        ('a.jpg', 'L', 100, (100,) * 3, {}),
        ('a.jpg', 'CMYK', (0, 0, 0, 0), (255,) * 3, {}),
        ('a.png', 'I;16', 257 * 100, (100,) * 3, {}),
        ('a.tif', 'I;16', 257 * 100 + 200, (101,) * 3, {}),
        ('a.tif', 'I;16B', 257 * 9, (9,) * 3, {}),
        ('a.png', 'RGBA', (255, 0, 0, 0), (255,) * 3, {}),
        ('a.png', 'RGBA', (0, 0, 0, 51), (204,) * 3, {}),
        ('a.png', 'LA', (0, 51), (204,) * 3, {}),
        ('a.png', 'RGB', RED, (255,) * 3, {'transparency': RED}),
        ('a.gif', 'P', 3, (255,) * 3, {'transparency': 3}),
    ],
)
def test_every_mode_and_format_becomes_rgb(
    name, mode, colour, want, options, tmp_path: Path
) -> None:
    pixels = folders.decode(put(tmp_path / name, colour, mode=mode, **options), 16)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert pixels.reshape(3, -1).T.tolist() == [list(want)] * 256


def test_a_jpeg_keeps_its_colours_and_channel_order(tmp_path: Path) -> None:
    pixels = folders.decode(put(tmp_path / 'a.jpg', (200, 100, 20), quality=95), 16)
    assert (abs(pixels.astype(int) - np.array([200, 100, 20])[:, None, None]) <= 3).all()


@pytest.mark.parametrize('size', [(90, 30), (30, 90)])
def test_the_middle_is_kept_of_an_image_that_is_not_square(
    size: tuple[int, int], tmp_path: Path
) -> None:
    # [30,90,3]
    stripes = np.repeat(np.array([RED, GREEN, BLUE], np.uint8), 30, 0)[None].repeat(30, 0)
    Image.fromarray(stripes if size[0] == 90 else stripes.swapaxes(0, 1).copy()).save(
        tmp_path / 'a.png'
    )
    pixels = folders.decode(tmp_path / 'a.png', 30)
    assert (pixels == np.array(GREEN)[:, None, None]).all()


def test_resizing_averages_what_it_leaves_out(tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / 'a.png')
    pixels = folders.decode(tmp_path / 'a.png', 16)[:, 2:-2, 2:-2].astype(int)
    assert (abs(pixels - 128) < 8).all()


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    # the camera was turned: show it a quarter clockwise
    exif[0x0112] = 6
    halves = np.zeros((40, 40, 3), np.uint8)
    # white on the left as stored: on top when shown
    halves[:, :20] = 255
    Image.fromarray(halves).save(tmp_path / 'a.png', exif=exif)
    pixels = folders.decode(tmp_path / 'a.png', 40)
    assert (pixels[:, :20] == 255).all() and (pixels[:, 20:] == 0).all()


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    first, second = Image.new('RGB', (20, 20), RED), Image.new('RGB', (20, 20), BLUE)
    for name in ('a.gif', 'a.tif', 'a.webp'):
        options = {'lossless': True} if 'webp' in name else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        assert (folders.decode(tmp_path / name, 8) == np.array(RED)[:, None, None]).all(), name


def test_a_large_jpeg_is_not_decoded_at_full_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / 'a.jpg', size=(800, 640))
    sizes = []
    monkeypatch.setattr(
        folders.ImageOps, 'exif_transpose', lambda image: sizes.append(image.size) or image
    )
    folders.decode(tmp_path / 'a.jpg', 64)
    # a quarter; an eighth would be below twice 64
    assert sizes == [(200, 160)]


@pytest.mark.parametrize(('mode', 'name'), [('F', 'a.tif'), ('I', 'a.tif')])
def test_pixels_without_a_range_are_not_guessed_at(mode: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='no fixed range'):
        folders.decode(put(tmp_path / name, 1, mode=mode), 8)


# --- many images ---


def test_read_images_keeps_order_and_maps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [put(tmp_path / f'{i}.png', (i, 0, 9)) for i in range(30)][::-1]
    monkeypatch.setattr(folders, 'IN_FLIGHT', 1)  # so that there are several rounds
    monkeypatch.setattr(folders, 'THREADS', 7)
    pixels, unreadable, *_ = folders.read_images(paths, 8)
    assert unreadable == [] and isinstance(pixels, np.memmap) and pixels.shape == (30, 3, 8, 8)
    assert pixels[:, 0, 3, 3].tolist() == list(range(30))[::-1] and (pixels[:, 2] == 9).all()


def test_images_are_decoded_once_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, decoded = [put(tmp_path / f'{i}.png') for i in range(3)], []
    decode = folders.decode
    monkeypatch.setattr(
        folders, 'decode', lambda path, size: decoded.append(path) or decode(path, size)
    )
    for _ in range(2):
        folders.read_images(paths, 8)
    assert len(decoded) == 3
    os.utime(paths[1], ns=(1, 1))
    folders.read_images(paths, 8)
    assert len(decoded) == 6
    put(paths[1], BLUE, (41, 40))
    # as old as before, but of another length
    os.utime(paths[1], ns=(1, 1))
    assert folders.read_images(paths, 8)[0][1].reshape(3, -1)[:, 0].tolist() == list(BLUE)
    assert len(decoded) == 9
    folders.read_images(paths, 9)
    folders.read_images(paths[::-1], 9)
    monkeypatch.setattr(folders, 'DECODER', -1)
    folders.read_images(paths, 9)
    assert len(decoded) == 18


@pytest.mark.parametrize('harm', ['cut short', 'no note', 'note of nonsense', 'objects'])
def test_a_damaged_cache_is_decoded_again(harm: str, tmp_path: Path) -> None:
    paths = [put(tmp_path / f'{i}.png', (i, 0, 0)) for i in range(3)]
    folders.read_images(paths, 8)
    (held,) = (tmp_path / 'cache' / 'decoded').glob('*.npy')
    note = held.with_suffix('.json')
    if harm == 'cut short':
        held.write_bytes(held.read_bytes()[:-1])
    if harm == 'no note':
        note.unlink()
    if harm == 'note of nonsense':
        note.write_text('[1')
    if harm == 'objects':
        np.save(held, np.array([{}], object), allow_pickle=True)
    pixels, *_ = folders.read_images(paths, 8)
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert sorted(path.suffix for path in (tmp_path / 'cache' / 'decoded').iterdir()) == [
        '.json',
        '.npy',
    ]


def broken(path: Path, how: str) -> Path:
    """A file that bears the name of an image and is none."""
    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, 'JPEG')
    path.write_bytes(
        {
            'empty': b'',
            'text': b'not found',
            'cut': content.getvalue()[:300],
            'header': content.getvalue()[:30],
        }[how]
    )
    return path


def test_a_few_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    paths = [put(tmp_path / f'{i:03d}.png', (i, 0, 0)) for i in range(200)]
    broken(paths[5], 'cut')
    broken(paths[150], 'text')
    for _ in range(2):  # decoded, then from the cache
        pixels, unreadable, *_ = folders.read_images(paths, 8)
        assert [index for index, _ in unreadable] == [5, 150] and 'Truncated' in unreadable[0][1]
        assert pixels[:, 0, 0, 0].tolist() == [i for i in range(200) if i not in (5, 150)]


def test_too_many_unreadable_images_are_told_in_one_message(tmp_path: Path) -> None:
    paths = [put(tmp_path / f'{i}.png') for i in range(30)]
    for i, how in enumerate(('empty', 'text', 'cut', 'header') * 3):
        broken(paths[i], how)
    message = r'^12 of 30 images cannot be read: .*0\.png.*9\.png.* and 2 more; repair'
    with pytest.raises(Refused, match=message) as refusal:
        folders.read_images(paths, 8)
    assert '\n' not in str(refusal.value) and list((tmp_path / 'cache' / 'decoded').iterdir()) == []


def test_one_unreadable_image_is_allowed_but_not_if_it_is_the_only_one(tmp_path: Path) -> None:
    paths = [broken(tmp_path / 'a.png', 'text'), put(tmp_path / 'b.png')]
    assert len(folders.read_images(paths, 8)[0]) == 1
    for few in (paths[:1], [tmp_path / 'gone.png'] * 2):
        with pytest.raises(Refused, match='cannot be read'):
            folders.read_images(few, 8)
    with pytest.raises(Refused, match='no images'):
        folders.read_images([], 8)


@pytest.mark.parametrize('factor', [1.5, 3])
def test_a_decompression_bomb_is_not_unpacked(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb, fine = put(tmp_path / 'a.png', size=(100, 100)), put(tmp_path / 'b.png', size=(50, 50))
    # Pillow only warns up to twice its limit
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100 * 100 / factor)
    pixels, unreadable, *_ = folders.read_images([bomb, fine], 8)
    assert len(pixels) == 1 and 'DecompressionBomb' in unreadable[0][1]


def test_a_format_that_starts_other_programs_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / 'a.png').write_bytes(
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n'
    )
    _, unreadable, *_ = folders.read_images([tmp_path / 'a.png', put(tmp_path / 'b.png')], 8)
    assert [index for index, _ in unreadable] == [0] and 'UnidentifiedImageError' in unreadable[0][
        1
    ]


def test_several_threads_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # passes only if two threads are in it at once
    meeting = threading.Barrier(2, timeout=10)
    monkeypatch.setattr(folders, 'THREADS', 2)
    monkeypatch.setattr(
        folders,
        'decode',
        lambda path, size: meeting.wait() * 0 + np.zeros((3, size, size), np.uint8),
    )
    paths = [put(tmp_path / f'{i}.png') for i in range(4)]
    assert folders.read_images(paths, 8)[1] == []


def test_an_interrupted_decoding_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path, size: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, 'decode', stop)
    with pytest.raises(KeyboardInterrupt):
        folders.read_images([put(tmp_path / 'a.png')], 8)
    assert list((tmp_path / 'cache' / 'decoded').iterdir()) == []


def test_no_room_is_told_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [put(tmp_path / 'a.png')]
    monkeypatch.setattr(folders, 'decode', lambda path, size: pytest.fail('decoded'))
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: SimpleNamespace(free=3 * 8 * 8 - 1))
    with pytest.raises(Refused, match='0.0 GB: choose a smaller size or free some space'):
        folders.read_images(paths, 8)
    with pytest.raises(Refused, match=r'take 1\.6 GB and'):
        folders.read_images(paths * 500, 1024)
    monkeypatch.setattr(files, 'cache', lambda: paths[0])
    with pytest.raises(Refused, match='writable'):
        folders.read_images(paths, 8)


# --- trees ---


def test_a_tree_with_a_test_set_of_its_own(tmp_path: Path) -> None:
    plant(tmp_path / 'mine' / 'train', {'cat': 3, 'dog': 2, 'eel': 1})
    plant(tmp_path / 'mine' / 'val', {'cat': 1, 'dog': 2})
    train, test = data.arrays(f'imagefolder:{tmp_path}/mine')
    assert train.classes == test.classes == ('cat', 'dog', 'eel')
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 2] and test.labels.tolist() == [0, 1, 1]
    assert shades(train) == [(0, 0, 7), (0, 1, 7), (0, 2, 7), (20, 0, 7), (20, 1, 7), (40, 0, 7)]
    assert shades(test) == [(0, 0, 7), (20, 0, 7), (20, 1, 7)] and train.pixels.shape == (
        6,
        3,
        32,
        32,
    )
    # a test set comes before a validation set
    put(tmp_path / 'mine' / 'test' / 'dog' / 'x.png', BLUE)
    assert data.arrays(f'imagefolder:{tmp_path}/mine')[1].labels.tolist() == [1]


def test_labels_are_by_name_also_where_the_test_set_lacks_a_class(tmp_path: Path) -> None:
    plant(tmp_path / 'train', {'b': 1, 'a': 1, 'c': 1})
    plant(tmp_path / 'test', {'c': 2})
    train, test = data.arrays(f'imagefolder:{tmp_path}')
    assert train.classes == ('a', 'b', 'c') and test.labels.tolist() == [2, 2]
    plant(tmp_path / 'test', {'d': 1})
    with pytest.raises(Refused, match="holds the class 'd', of which"):
        data.arrays(f'imagefolder:{tmp_path}')


def test_one_tree_is_split_class_by_class_and_always_alike(tmp_path: Path) -> None:
    plant(tmp_path / 'a', {'cat': 40, 'dog': 20, 'eel': 1})
    train, test = data.arrays(f'imagefolder:{tmp_path}/a')
    counts = [np.bincount(one.labels, minlength=3).tolist() for one in (train, test)]
    assert counts == [[36, 18, 1], [4, 2, 0]]
    assert len({*shades(train), *shades(test)}) == 61
    assert shades(train) == sorted(shades(train))  # in the order of the tree
    assert shades(test) != [(0, i, 7) for i in range(4)] + [(20, i, 7) for i in range(2)]
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    assert [one.digest for one in data.arrays(f'imagefolder:{tmp_path}/b')] == [
        train.digest,
        test.digest,
    ]


def test_digest_is_that_of_the_arrays_and_part_of_the_key(tmp_path: Path) -> None:
    name = f'imagefolder:{plant(tmp_path / "a", {"cat": 12, "dog": 12})}'
    pair = data.arrays(name)
    assert [one.digest for one in pair] == [
        data.split(one.pixels, one.labels).digest for one in pair
    ]
    assert data.key_digest(name) == pair[0].digest[:16] + pair[1].digest[:16]


def test_arrays_of_a_tree_are_mapped_and_read_only(tmp_path: Path) -> None:
    train, test = data.arrays(f'imagefolder:{plant(tmp_path / "a", {"cat": 12, "dog": 12})}')
    for one in (train, test):
        assert isinstance(one.pixels, np.memmap) and one.labels.dtype == np.int64
        for array in (one.pixels, one.labels):
            with pytest.raises(ValueError, match='read-only'):
                array[0] = 0


@pytest.mark.filterwarnings('error')
def test_load_gives_the_mapped_images_to_torch(tmp_path: Path) -> None:
    name = f'imagefolder:{plant(tmp_path / "a", {"cat": 12, "dog": 12})}'
    for one, same in zip(data.load(name), data.arrays(name), strict=True):
        assert (one.pixels.numpy() == same.pixels).all() and (
            one.labels.numpy() == same.labels
        ).all()
        assert one.digest == same.digest and one.pixels.device.type == 'cpu'


def test_an_unreadable_image_leaves_with_its_label(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plant(tmp_path / 'train', {'cat': 3, 'dog': 3})
    plant(tmp_path / 'test', {'cat': 1, 'dog': 1})
    broken(tmp_path / 'train' / 'cat' / '001.png', 'cut')
    train, test = data.arrays(f'imagefolder:{tmp_path}')
    assert train.labels.tolist() == [0, 0, 1, 1, 1] and test.labels.tolist() == [0, 1]
    assert shades(train)[:3] == [(0, 0, 7), (0, 2, 7), (20, 0, 7)] and '001.png' in caplog.text
    put(tmp_path / 'train' / 'cat' / '001.png', BLUE)
    broken(tmp_path / 'test' / 'cat' / '000.png', 'cut')
    train, test = data.arrays(f'imagefolder:{tmp_path}')
    assert len(train.labels) == 6 and test.labels.tolist() == [1]


def test_a_part_without_readable_images_is_refused(tmp_path: Path) -> None:
    plant(tmp_path / 'train', {'cat': 3, 'dog': 3})
    plant(tmp_path / 'test', {'cat': 1})
    broken(tmp_path / 'test' / 'cat' / '000.png', 'cut')
    with pytest.raises(Refused, match='6 train and 0 test images can be read'):
        data.arrays(f'imagefolder:{tmp_path}')


def test_file_names_are_data(tmp_path: Path) -> None:
    names = [
        'a b.png',
        '<b>"\'&.png',
        'é\u202e.png',
        'x\ny.png',
        '?size=9.PNG',
        '-rf.Jpeg',
        '%s{0}.gif',
    ]
    for name in names:
        put(tmp_path / 'cl%ss <i>' / name)
    for i in range(9):
        put(tmp_path / os.fsdecode(b'\xff\xfe') / f'{i}.png')
    broken(tmp_path / 'cl%ss <i>' / 'x\ny.png', 'text')
    train, test = data.arrays(f'imagefolder:{tmp_path}?size=16')
    # what is not UTF-8 is left out
    assert train.classes == ('cl%ss <i>',) and train.pixels.shape[1:] == (3, 16, 16)
    assert len(train.labels) + len(test.labels) == 6
    broken(tmp_path / 'cl%ss <i>' / '-rf.Jpeg', 'text')
    with pytest.raises(Refused) as refusal:
        data.arrays(f'imagefolder:{tmp_path}?size=16')
    assert '\n' not in str(refusal.value) and str(refusal.value).isprintable()


def test_what_is_no_image_of_the_tree_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree, outside = (
        plant(tmp_path / 'tree', {'cat': 10, 'dog': 10}),
        plant(tmp_path / 'outside', {'cat': 3}),
    )
    for name in ('.hidden.png', 'readme.txt', 'Thumbs.db', 'png'):
        (tree / 'cat' / name).write_text('no image')
    (tree / 'cat' / 'folder.png').mkdir()
    os.mkfifo(tree / 'cat' / 'pipe.png')  # opening it would wait for ever
    (tree / '.git').mkdir()
    (tree / 'nothing').mkdir()
    (tree / 'loose.png').write_bytes(b'')
    put(tree / '.trash' / 'x.png')
    (tree / 'cat' / 'link.png').symlink_to(outside / 'cat' / '000.png')
    (tree / 'cat' / 'dead.png').symlink_to(tree / 'gone.png')
    (tree / 'cat' / 'loop.png').symlink_to(tree / 'cat' / 'loop.png')
    (tree / 'ant').symlink_to(outside / 'cat')
    (tree / 'dog' / 'within.png').symlink_to(tree / 'cat' / '009.png')
    with caplog.at_level(logging.WARNING):
        train, test = data.arrays(f'imagefolder:{tree}')
    assert train.classes == ('cat', 'dog') and len(train.labels) + len(test.labels) == 20
    assert '10 files are left out' in caplog.text and "within.png' (is a link" in caplog.text


def test_the_tree_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    plant(tmp_path / 'tree', {'cat': 10, 'dog': 10})
    (tmp_path / 'link').symlink_to(tmp_path / 'tree')
    train, test = data.arrays(f'imagefolder:{tmp_path}/link')
    assert train.classes == ('cat', 'dog') and len(train.labels) + len(test.labels) == 20


@pytest.mark.parametrize(
    ('counts', 'message'),
    [
        ({}, 'holds no class folders with images: it must be PATH'),
        ({'train/a': 2}, 'holds no class folders with images: it must be PATH'),
        ({'train/a': 2, 'test/.x': 1}, "test' holds no class folders"),
        ({'train/.x': 2, 'test/.x': 2}, "train' holds no class folders"),
        ({'train/.x': 2, 'test/a': 1}, "holds the class 'a'"),
        ({'a': 1, 'b': 1}, '2 train and 0 test images'),
    ],
)
def test_a_tree_of_another_shape_is_refused(
    counts: dict[str, int], message: str, tmp_path: Path
) -> None:
    plant(tmp_path, counts)
    with pytest.raises(Refused, match=message):
        data.arrays(f'imagefolder:{tmp_path}')


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert data.available(f'imagefolder:{tmp_path}')
    assert not data.available(f'imagefolder:{tmp_path}/gone')
    with pytest.raises(Refused, match='is not a folder'):
        data.arrays(f'imagefolder:{tmp_path}/gone')


@pytest.mark.parametrize(
    'argument', ['PATH?size=7', 'PATH?size=1025', 'PATH?size=99999999999', '?size=32']
)
def test_a_size_or_path_that_cannot_be_is_refused(argument: str) -> None:
    with pytest.raises(Refused, match='image size|name the folder'):
        data.check_name(f'imagefolder:{argument}')


# --- Caltech-101 ---


@pytest.fixture
def caltech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tree laid out as the data set is; returns the folder of class folders."""
    root = plant(
        tmp_path / 'given' / 'caltech101' / '101_ObjectCategories',
        {'BACKGROUND_Google': 40, 'ant': 10, 'bass': 50},
    )
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path / 'given'))
    return root


def test_caltech_counts_the_background_unless_told_otherwise(caltech: Path) -> None:
    train, test = data.arrays('caltech101')
    assert train.classes == ('BACKGROUND_Google', 'ant', 'bass') and train.pixels.shape == (
        88,
        3,
        64,
        64,
    )
    assert (
        np.bincount(test.labels).tolist() == [5, 1, 6]
        and len({*shades(train), *shades(test)}) == 100
    )
    train, test = data.arrays('caltech101:background=no,size=16')
    assert (
        train.classes == ('ant', 'bass')
        and train.pixels.shape == (53, 3, 16, 16)
        and len(test.labels) == 7
    )
    assert data.arrays('caltech101:size=64')[0].digest == data.arrays('caltech101')[0].digest


def test_caltech_is_looked_for_and_not_fetched(
    caltech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data.available('caltech101') and data.available('caltech101:size=32')
    monkeypatch.delenv('PT4AL_DATA')
    assert not data.available('caltech101')
    with pytest.raises(
        Refused, match='not on this machine: put caltech101/101_ObjectCategories under .PT4AL_DATA'
    ):
        data.arrays('caltech101')


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('size=4', 'image size'),
        ('size=x', 'image size'),
        ('size', 'image size'),
        ('size=32,size=64', 'write for'),
        ('sise=32', 'write for example'),
        ('background=maybe', 'write for example'),
        ('size=32,', 'write for example'),
    ],
)
def test_caltech_options_that_cannot_be_are_refused(argument: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        data.check_name(f'caltech101:{argument}')


def test_caltech_has_the_published_sizes() -> None:
    for place in filter(
        None,
        (os.environ.get('PT4AL_DATA'), Path(__file__).resolve().parents[3] / 'shared' / 'data'),
    ):
        root = Path(place) / 'caltech101' / '101_ObjectCategories'
        if root.is_dir():
            break
    else:
        pytest.skip(
            'needs Caltech-101: set PT4AL_DATA to a folder that holds '
            'caltech101/101_ObjectCategories'
        )
    for skip, want in (('', (8046, 1098)), ('BACKGROUND_Google', (7635, 1042))):
        tree = folders.classes_in(root)
        if skip:
            del tree[skip]
        _, labels = folders._flat(tree, list(tree))
        test = splits.test_mask_by_class(
            labels, round(len(labels) * folders.CALTECH_TEST / folders.CALTECH), 'caltech101'
        )
        assert (int((~test).sum()), int(test.sum())) == want


# --- what people and their devices leave in folders ---


def test_folders_below_a_class_are_of_the_class_as_torchvision_has_it(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    plant(tmp_path / 'tree', {'cat': 6, 'cat/indoor': 5, 'cat/indoor/sofa': 4, 'dog/out': 7})
    plant(tmp_path / 'tree', {'cat/@eaDir': 3})
    train, test = data.arrays(f'imagefolder:{tmp_path}/tree')
    shutil.rmtree(tmp_path / 'tree' / 'cat' / '@eaDir')
    theirs = ImageFolder(str(tmp_path / 'tree'))
    assert train.classes == tuple(theirs.classes) == ('cat', 'dog')
    counts = np.bincount(np.concatenate([train.labels, test.labels]))
    assert counts.tolist() == np.bincount(theirs.targets).tolist() == [15, 7]
    listed = folders.classes_in(tmp_path / 'tree')
    assert [str(path) for paths in listed.values() for path in paths] == [
        path for path, _ in theirs.samples
    ]


def test_a_train_folder_of_classes_without_a_test_folder_is_no_class(tmp_path: Path) -> None:
    plant(tmp_path, {'train/a': 4, 'train/b': 4})
    with pytest.raises(Refused, match='holds no class folders'):
        data.arrays(f'imagefolder:{tmp_path}')


def test_twelve_bits_in_sixteen_are_not_black(tmp_path: Path) -> None:
    ramp = np.linspace(0, 4095, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / 'a.png')
    pixels = folders.decode(tmp_path / 'a.png', 16)
    assert pixels[0].min() == 0 and pixels[0].max() == 255
    assert abs(pixels[0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1
    assert (
        folders._attempt(tmp_path / 'a.png', 16)[1] == 'its 16 bits hold 12, which are read as such'
    )


def test_a_png_with_much_text_is_read(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text('workflow', 'x' * 3_000_000, zip=True)
    put(tmp_path / 'a.png', pnginfo=text)
    assert folders.decode(tmp_path / 'a.png', 16)[0].min() == 255


@pytest.mark.parametrize('name', ['a.jfif', 'a.ppm', 'a.pgm'])
def test_other_names_of_images_are_known(name: str, tmp_path: Path) -> None:
    grey = name.endswith('pgm')
    Image.new('L' if grey else 'RGB', (9, 9), 200 if grey else GREEN).save(
        tmp_path / name, 'JPEG' if name.endswith('jfif') else 'PPM'
    )
    assert folders.walk(tmp_path)[0] == [tmp_path / name]
    pixels, said, _ = folders._attempt(tmp_path / name, 16)
    assert pixels is not None and said == 'is blank: one colour throughout'


def test_what_is_no_image_here_is_named_as_what_it_is(tmp_path: Path) -> None:
    for name in ('a.heic', 'b.nef', 'c.txt'):
        (tmp_path / name).write_bytes(b'x')
    (tmp_path / '@eaDir').mkdir()
    put(tmp_path / '@eaDir' / 'thumb.jpg')
    found, others = folders.walk(tmp_path)
    assert not found and others == {
        'a.heic': 'is HEIC, which is not read: save it as JPEG',
        'b.nef': 'is a raw format, which is not read: save it as JPEG',
        'c.txt': 'is no image by its name',
        '@eaDir': 'is a folder of thumbnails',
    }


@pytest.mark.parametrize(
    'brand, kind', [('heic', 'HEIC'), ('heix', 'HEIC'), ('mif1', 'HEIC'), ('avif', 'AVIF')]
)
def test_a_picture_of_a_phone_under_another_name_is_named_as_what_it_is(tmp_path, brand, kind):
    (tmp_path / 'a.jpg').write_bytes(b'\0\0\0\x18ftyp' + brand.encode() + b'\0' * 99)
    reason = f'it is {kind} under another name: save it as JPEG'
    assert folders._attempt(tmp_path / 'a.jpg', 16) == (None, reason, '')
    (tmp_path / 'a.jpg').write_bytes(b'\0\0\0\x18ftypmp42')
    assert folders._attempt(tmp_path / 'a.jpg', 16)[1].startswith('UnidentifiedImageError: cannot')


def test_what_programs_write_beside_a_jpegs_picture_does_not_change_its_digest(tmp_path):
    path = tmp_path / 'a.jpg'
    Image.new('RGB', (9, 9), 'red').save(path)
    plain = path.read_bytes()
    rating = b'\xff\xe1\x00\x08Exif\0\0'
    comment = b'\xff\xfe\x00\x04ok'
    digest = folders.picture_digest(plain)
    assert folders.picture_digest(plain[:2] + rating + comment + plain[2:]) == digest
    Image.new('RGB', (9, 9), 'blue').save(path)
    assert folders.picture_digest(path.read_bytes()) != digest
    # cut anywhere it ends
    assert len({folders.picture_digest(plain[:at]) for at in range(2, len(plain))}) > 9
