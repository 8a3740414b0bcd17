"""The camera on a ramp, spectrograms of tones of known pitch, and folders of clips as users lay
them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pt4al import files
from pt4al.data import clips, splits
from pt4al.errors import Refused
from pt4al.rng import device_stream
from pt4al.tasks import video

torch.set_num_threads(1)


# --- a camera over stills ---


def test_a_path_is_straight_steady_and_inside_the_still():
    path = video.camera_path(500, 5, device_stream(0, 'x'))
    centre, half = path[..., :2], path[..., 2:]
    assert path.shape == (500, 5, 3) and path.dtype == torch.float32
    assert (centre.abs() + half).max() <= 1 and half.min() > 0.4
    assert torch.allclose(
        centre.diff(dim=1), centre.diff(dim=1)[:, :1].expand(-1, 4, -1), atol=1e-6
    )
    way = (centre[:, -1] - centre[:, 0]).abs().amax(1) / 2  # in sides of the still
    assert 0.3 - 1e-6 <= way.min() < 0.32 and 0.48 < way.max() <= 0.5 + 1e-6
    zoom = half[:, -1] / half[:, 0]
    assert 0.81 < zoom.min() < 0.83 and 1.2 < zoom.max() < 1.23


def test_paths_head_in_all_directions_and_follow_their_generator():
    path = video.camera_path(2000, 2, device_stream(0, 'x'))
    way = path[:, 1, :2] - path[:, 0, :2]
    quadrant = (way[:, 0] > 0).long() * 2 + (way[:, 1] > 0).long()
    assert quadrant.bincount().min() > 420
    assert torch.equal(path, video.camera_path(2000, 2, device_stream(0, 'x')))
    assert not torch.equal(path, video.camera_path(2000, 2, device_stream(0, 'y')))
    assert path[:, 0, :2].abs().max() <= 0.6 and path[:, :, :2].mean((0, 1)).abs().max() < 0.02


def ramp(height: int, width: int) -> torch.Tensor:
    """Red counts columns, green rows, and blue is flat: bilinear reading of it is a straight line."""
    y, x = np.mgrid[:height, :width]
    return torch.from_numpy(np.stack([4 * x, 6 * y, 0 * x + 9]).astype(np.uint8))[None]


def test_a_camera_sees_what_stands_at_its_window():
    path = video.camera_path(3, 4, device_stream(0, 'x'))
    seen = video.follow(ramp(32, 48).expand(3, -1, -1, -1), path)
    assert seen.shape == (3, 4, 3, 16, 24) and seen.dtype == torch.uint8
    for clip in range(3):
        for frame in range(4):
            x, y, half = path[clip, frame].tolist()
            for row, column in ((0, 0), (3, 20), (15, 23)):
                # where on the still, from -1 to 1
                across = x + half * ((column + 0.5) / 12 - 1)
                down = y + half * ((row + 0.5) / 8 - 1)
                at = (across + 1) * 24 - 0.5, (down + 1) * 16 - 0.5  # in pixels
                assert seen[clip, frame, :, row, column].tolist() == pytest.approx(
                    [4 * at[0], 6 * at[1], 9], abs=0.51
                )


def test_a_still_is_one_picture():
    stills = torch.from_numpy(
        np.random.default_rng(0).integers(256, size=(4, 3, 32, 32), dtype=np.uint8)
    )
    moved = video.follow(stills, video.camera_path(4, 5, device_stream(0, 'x')))
    assert torch.equal(clips.still(moved), moved[:, 2]) and torch.equal(clips.still(stills), stills)
    loud = torch.cat([stills, stills[:, :1]], 1)
    assert torch.equal(clips.still(loud), stills) and torch.equal(
        clips.still(loud[:, None]), stills
    )


# --- sounds ---


def tone(pitch: float, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * pitch * np.arange(round(8000 * seconds)) / 8000)


@pytest.mark.parametrize('pitch', [300, 1070, 3400])
def test_a_tone_is_brightest_in_its_band(pitch):
    seen = clips.spectrogram(tone(pitch)[None])
    assert seen.shape == (1, 32, 32) and seen.dtype == np.uint8
    assert (seen[0].argmax(0) == pitch // 125).all() and (seen[0].max(0) > 245).all()


def test_moments_run_from_left_to_right():
    rising = np.concatenate([tone(400), tone(2000)])
    seen = clips.spectrogram(rising[None])[0]
    assert (seen[:, :15].argmax(0) == 3).all() and (seen[:, 17:].argmax(0) == 16).all()


def test_a_level_is_decibels_below_the_loudest():
    quiet = np.concatenate([tone(1070), 0.1 * tone(1070), 1e-4 * tone(1070)])
    seen = clips.spectrogram(quiet[None])[0].astype(int)
    assert seen[8, 5] > 250
    assert seen[8, 5] - seen[8, 15] == pytest.approx(255 * 20 / 60, abs=3) and seen[8, 28] == 0


def test_neither_volume_nor_offset_nor_neighbours_change_a_spectrogram():
    sounds = np.stack([tone(500), tone(900) + tone(2500)])
    seen = clips.spectrogram(sounds)
    assert np.array_equal(clips.spectrogram(1000 * sounds[:1] + 5000), seen[:1])
    assert np.array_equal(clips.spectrogram(sounds[1:]), seen[1:])


def test_silence_is_black():
    assert (clips.spectrogram(np.full((2, 9000), 3.0)) == 0).all()


@pytest.fixture(scope='module')
def digits() -> splits.Pair:
    return clips.digits_sound()


def test_digits_with_sound_are_pinned_and_split_by_class(digits):
    train, test = digits
    assert train.pixels.shape == (1438, 4, 32, 32) and test.pixels.shape == (359, 4, 32, 32)
    assert (train.digest, test.digest) == splits.PINNED['digits-sound']
    assert train.classes == tuple('0123456789') and np.ptp(np.bincount(test.labels)) <= 2


def test_digits_are_those_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    train, test = digits
    found = np.concatenate([train.pixels, test.pixels])
    # softened copies of the 8x8 images
    means = found[:, 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(-1, 64)
    near = np.stack([np.abs(means * 16 / 255 - one).mean(1) for one in small[:20]], 1).argmin(0)
    assert np.array_equal(np.concatenate([train.labels, test.labels])[near], labels[:20])
    assert (found[:, 0] == found[:, 1]).all() and (found[:, 0] == found[:, 2]).all()


def centroid_accuracy(train: splits.Images, test: splits.Images, channel: int) -> float:
    means = np.stack([train.pixels[train.labels == c, channel].mean(0) for c in range(10)])
    far = ((test.pixels[:, None, channel].astype(float) - means) ** 2).sum((2, 3))
    return (far.argmin(1) == test.labels).mean()


def test_a_sound_tells_its_digit_yet_no_two_are_alike(digits):
    train, test = digits
    assert centroid_accuracy(train, test, 3) > 0.75 and centroid_accuracy(train, test, 0) > 0.75
    sounds = np.concatenate([train.pixels, test.pixels])[:, 3].reshape(1797, -1)
    assert len(np.unique(sounds, axis=0)) == 1797


def test_speakers_differ_in_pitch_and_the_formants_are_those_of_the_digit():
    waves = clips.spoken(np.full(200, 1), np.random.default_rng(0))
    power = (np.abs(np.fft.rfft(waves)) ** 2)[:, :1120]
    hertz = np.arange(1120) * 8000 / 2240
    assert waves.shape == (200, 2240)
    assert (
        85
        < np.median(hertz[power.argmax(1)] / np.maximum(1, np.round(hertz[power.argmax(1)] / 160)))
        < 270
    )
    # both formants of 'one' lie there
    share = power[:, (hertz > 250) & (hertz < 1500)].sum(1) / power.sum(1)
    assert np.median(share) > 0.9
    assert len({round(h) for h in hertz[power.argmax(1)]}) > 50


# --- clips of the user's own ---


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, 'cache', lambda: tmp_path / 'cache')


def shoot(folder: Path, frames: int = 8, shade: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """A clip of which frame k has green k and red `shade`; its files are written last first."""
    folder.mkdir(parents=True)
    for k in reversed(range(frames)):
        Image.new('RGB', size, (shade, k, 7)).save(folder / f'{k:03d}.png')
    return folder


def film(root: Path, clips_of: dict[str, int], **settings) -> Path:
    for number, (name, count) in enumerate(clips_of.items()):
        for i in range(count):
            shoot(root / name / f'clip {i:02d}', shade=20 * number + i, **settings)
    return root


def both(pair: splits.Pair) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        np.concatenate([getattr(part, name) for part in pair]) for name in ('pixels', 'labels')
    )


def test_clips_in_class_folders_are_read_in_order(tmp_path):
    train, test = clips.clip_folder(str(film(tmp_path / 'f', {'run': 10, 'jump': 20}, frames=15)))
    assert (
        train.pixels.shape == (27, 8, 3, 32, 32)
        and len(test.pixels) == 3
        and train.classes == ('jump', 'run')
    )
    pixels, labels = both((train, test))
    assert (pixels[:, :, 1, 4, 4] == [0, 2, 4, 6, 8, 10, 12, 14]).all()
    # shades from 20 are of the folder 'jump'
    assert np.array_equal(pixels[:, 0, 0, 0, 0] >= 20, labels == 0)
    assert len(set(pixels[:, 0, 0, 0, 0])) == 30


def test_clips_without_classes_are_read_and_sizes_are_brought_to_one(tmp_path):
    for i, size in enumerate([(64, 64), (31, 90), (20, 20)]):
        shoot(tmp_path / 'f' / f'<b>clip {i}&.png', 8 + i, i, size)
    train, test = clips.clip_folder(f'{tmp_path / "f"}?size=16')
    assert train.pixels.shape == (2, 8, 3, 16, 16) and test.pixels.shape == (1, 8, 3, 16, 16)
    assert train.classes == ('clip',)


def test_clips_that_cannot_be_used_are_named(tmp_path):
    root = film(tmp_path / 'f', {'a': 4})
    (root / 'a' / 'clip 01' / '004.png').write_bytes(b'no image')
    with pytest.raises(
        Refused, match='1 of 32 images cannot be read: .*clip 01/004.png.*; repair or'
    ):
        clips.clip_folder(str(root))
    for k in range(3):
        (root / 'a' / 'clip 00' / f'{k:03d}.png').unlink()
    with pytest.raises(Refused, match="1 of 4 clips have fewer than 8 .*clip 00' .5 frames.; lea"):
        clips.clip_folder(str(root))


@pytest.mark.parametrize(
    ('lay', 'told'),
    [
        (lambda root: None, 'is not a folder'),
        (lambda root: root.mkdir(), 'holds no clips'),
        (
            lambda root: shoot(root / 'a', 7),
            r'1 of 1 clips have fewer than 8 frames: .* \(7 frames\); leave them out',
        ),
        (lambda root: shoot(root / 'a', 8), 'holds one clip of each class'),
        (lambda root: film(root, {'a': 1, 'b': 1}), 'holds one clip of each class'),
    ],
)
def test_a_folder_without_usable_clips_is_refused(tmp_path, lay, told):
    lay(tmp_path / 'f')
    with pytest.raises(Refused, match=told) as refusal:
        clips.clip_folder(str(tmp_path / 'f'))
    assert '\n' not in str(refusal.value)


def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path):
    root, elsewhere = film(tmp_path / 'f', {'a': 3}), shoot(tmp_path / 'secret', shade=99)
    (root / 'a' / 'clip 99').symlink_to(elsewhere)
    (root / 'b').symlink_to(tmp_path)
    pixels, _ = both(clips.clip_folder(str(root)))
    assert set(pixels[:, 0, 0, 0, 0]) == {0, 1, 2}
