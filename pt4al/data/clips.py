"""Clips and sounds as arrays: digits with a sound each, and folders of the user's clips.

The sounds of `digits_sound` are constructed: no number from them says how a task fares on real
ones. Shapes: n clips, T frames, m sounds, L samples.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pt4al import files
from pt4al.data import folders, splits
from pt4al.data.splits import Pair
from pt4al.errors import Refused
from pt4al.progress import log
from pt4al.rng import stream

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 32  # bands and moments of a spectrogram
FRAMES = 8  # frames kept of a clip read from a folder
RANGE = 60  # dB below the loudest moment at which a spectrogram is black
# s; at every rate, four bins are a band of 125 Hz, and 32 bands hold the formants
WINDOW = 0.032
RATE = 8000  # Hz, of synthesised sounds
# First and second formant, Hz, at the start and the end of each digit: loosely after the vowels of
# its English name.
FORMANTS = np.array(
    [
        *([[300, 2200], [500, 900]], [[350, 750], [700, 1250]], [[320, 1700], [320, 900]]),
        *([[480, 1350], [280, 2350]], [[480, 900], [620, 950]], [[750, 1150], [400, 2000]]),
        *([[400, 2000], [450, 1700]], [[580, 1850], [520, 1250]], [[530, 1800], [350, 2300]]),
        [[800, 1500], [300, 2000]],
    ],
    float,
)


def still(pixels: Tensor) -> Tensor:
    """The picture of each image, or the middle frame of each clip, without sound: [n,3,h,w]."""
    return (pixels if pixels.ndim == 4 else pixels[:, pixels.shape[1] // 2])[:, :3]


def spectrogram(waves: np.ndarray, rate: int) -> np.ndarray:
    """Log spectrogram of sounds [m,L]: uint8 [m,32 bands of 125 Hz,32 moments].

    Hann windows of 32 ms, spread evenly; a moment is the mean power of up to 16 of them. 255 is
    the loudest moment of a sound, 0 is 60 dB below, and silence.
    """
    length = round(WINDOW * rate)
    waves = waves - np.mean(waves, 1, float, keepdims=True)
    waves = np.pad(waves, ((0, 0), (0, max(length - waves.shape[1], 0))))
    each = int(np.clip(2 * waves.shape[1] // (SIDE * length), 1, 16))
    starts = np.linspace(0, waves.shape[1] - length, SIDE * each).round().astype(int)
    windows = waves[:, starts[:, None] + np.arange(length)] * np.hanning(length)
    # [m,32*each,bins]
    power = np.abs(np.fft.rfft(windows)) ** 2
    bins = SIDE * 4
    power = np.pad(power[..., :bins], ((0, 0), (0, 0), (0, max(bins - power.shape[2], 0))))
    power = power.reshape(len(waves), SIDE, each, SIDE, 4).mean((2, 4)).transpose(0, 2, 1)
    loudest = power.max((1, 2), keepdims=True)
    level = np.maximum(power / np.where(loudest > 0, loudest, 1), 10 ** (-RANGE / 10))
    return np.rint(255 * (1 + 10 * np.log10(level) / RANGE)).astype(np.uint8)


def spoken(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Synthesised tones [m,2240], 0.28 s at 8 kHz, one for each digit of `labels` [m].

    The digit fixes where two formants start and end; pitch (90 to 260 Hz), its fall, the length of
    the vocal tract (formants scaled by up to a tenth), onset, duration and noise are drawn.
    """
    pitch, fall, tract, onset, duration, noise = rng.uniform(size=(6, len(labels), 1))
    time = np.arange(2240) / 2240
    start, length = 0.3 * onset, 0.5 + 0.2 * duration
    # [m,L], 0 to 1 within the word
    place = np.clip((time - start) / length, 0, 1)
    base = 90 * (260 / 90) ** pitch * (1 - 0.2 * fall * place)
    phase = 2 * np.pi * np.cumsum(base, 1) / RATE
    # where formants are taken anew
    knots = place[:, ::64]
    first, last = (FORMANTS[labels, end][..., None] for end in (0, 1))
    formants = (0.9 + 0.2 * tract)[:, None] * (first + (last - first) * knots[:, None])  # [m,2,35]
    before, tone, twice = np.zeros_like(phase), np.sin(phase), 2 * np.cos(phase)
    wave = np.zeros_like(phase)
    for k in range(1, 29):
        pitches = k * base[:, ::64]
        near = (1 / (1 + ((pitches[:, None] - formants) / 90) ** 2)).sum(1) * (pitches < RATE / 2)
        wave += np.repeat(near, 64, 1) * tone
        # sin((k+1)x) of the two before
        before, tone = tone, twice * tone - before
    wave *= np.sin(np.pi * place)
    # 10 to 30 dB below the tones
    loud = wave.std(1, keepdims=True) * 10 ** (-0.5 - noise)
    return wave + loud * rng.standard_normal(wave.shape)


def digits_sound() -> Pair:
    """Written digits with a synthesised sound each: uint8 [N,4,32,32], 1,438 and 359 of them.

    Channels: red, green and blue, all equal, of scikit-learn's 8x8 images, enlarged; then the
    spectrogram of a sound of the same digit. Images: Alpaydin & Kaynak, UCI, 1998.
    """
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    large = zoom(images.reshape(-1, 8, 8), (1, 4, 4), order=1, mode='nearest', grid_mode=True)
    grey = np.rint(255 / 16 * large)
    sounds = spectrogram(spoken(labels, stream(0, 'digits-sound')), RATE)
    pixels = np.stack([grey.astype(np.uint8)] * 3 + [sounds], 1)
    pair = _halves(pixels, labels, [str(digit) for digit in range(10)], 0.2, 'digits-sound')
    return splits.checked('digits-sound', pair, 'what was synthesised')


def _halves(x: np.ndarray, labels: np.ndarray, classes: list[str], share: float, path: str) -> Pair:
    test = splits.stratified(labels, round(share * len(labels)), path)
    train, held = (splits.split(x[part], labels[part], classes) for part in (~test, test))
    return train, held


def _listed(root: Path) -> list[tuple[str, Path]]:
    """Class and folder of every clip, or one class where the first folders hold images."""
    top = folders.folders_in(root, root)
    if any(folders.images_in(one, root) for one in top):
        return [('clip', one) for one in top]
    return [(one.name, clip) for one in top for clip in folders.folders_in(one, root)]


def _unusable(clips: list[tuple[str, Path]], wrong: dict[int, str]) -> str:
    reasons = [(clips[index][1], reason) for index, reason in sorted(wrong.items())]
    return f'{len(wrong)} of {len(clips)} clips cannot be used: {folders.shown(reasons)}'


def _frames(
    clips: list[tuple[str, Path]], root: Path, size: int
) -> tuple[np.ndarray, dict[int, str]]:
    """Evenly spread frames [m,FRAMES,3,size,size] of usable clips; what is wrong with others."""
    chosen: dict[int, list[Path]] = {}
    wrong: dict[int, str] = {}
    for index, (_, folder) in enumerate(clips):
        paths = folders.images_in(folder, root)
        if len(paths) < FRAMES:
            wrong[index] = f'{len(paths)} frames, {FRAMES} are needed'
        else:
            even = np.linspace(0, len(paths) - 1, FRAMES).round().astype(int)
            chosen[index] = [paths[k] for k in even]
    if not chosen:
        raise Refused(f'{_unusable(clips, wrong)}; a clip is a folder of {FRAMES} images or more')
    every = [path for paths in chosen.values() for path in paths]
    pixels, unreadable, _ = folders.read_images(every, size, files.cache() / 'decoded')
    there = np.ones((len(chosen), FRAMES), bool)
    for place, reason in unreadable:
        there.flat[place] = False
        wrong[list(chosen)[place // FRAMES]] = reason
    left = np.repeat(there.all(1), FRAMES)[there.flatten()]
    return (pixels if left.all() else pixels[left]).reshape(-1, FRAMES, 3, size, size), wrong


def clip_folder(argument: str) -> Pair:
    """The user's clips, `PATH/<clip>/*` or `PATH/<class>/<clip>/*`: uint8 [N,8,3,32,32].

    8 images of each, spread evenly in order of name, are brought to 32 pixels (`PATH?size=64`: 64)
    by `folders.decode`. A tenth of every class becomes the test set. Clips that are too short or
    damaged are left out with a warning; `Refused` if none is left.
    """
    root, size = folders.place(argument)
    clips = _listed(root) if root.is_dir() else []
    if not clips:
        must = 'it must hold PATH/<clip>/* or PATH/<class>/<clip>/*'
        raise Refused(f'{str(root)!r} holds no clips: {must}')
    pixels, wrong = _frames(clips, root, size)
    if wrong:
        log.warning('%s; they are left out', _unusable(clips, wrong))
    right = [name for index, (name, _) in enumerate(clips) if index not in wrong]
    # a class name that is no UTF-8 could not be written to a page
    names = [os.fsencode(name).decode('utf-8', 'replace') for name in right]
    classes, labels = np.unique(names, return_inverse=True)
    train, test = _halves(pixels, labels, classes.tolist(), folders.TEST_SHARE, 'clips')
    if not len(test.labels):
        raise Refused(f'{str(root)!r} holds one clip of each class: give at least two of one')
    return train, test
