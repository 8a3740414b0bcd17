"""Clips and sounds as arrays: digits with a sound each, and folders of the user's clips.

The sounds of `digits_sound` are constructed: no number from them says how a task fares on real
ones. Shapes: n clips, T frames, m sounds, L samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pt4al.data import folders, splits
from pt4al.data.splits import Pair
from pt4al.errors import Refused
from pt4al.rng import stream

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 32  # bands and moments of a spectrogram
FRAMES = 8  # frames kept of a clip read from a folder
RANGE = 60  # dB below the loudest moment at which a spectrogram is black
RATE = 8000  # Hz, of synthesised sounds
WINDOW = 256  # samples, 32 ms: four bins are a band of 125 Hz, and 32 bands hold the formants
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


def spectrogram(waves: np.ndarray) -> np.ndarray:
    """Log spectrogram of sounds [m,L] at 8 kHz: uint8 [m,32 bands of 125 Hz,32 moments].

    Hann windows of 32 ms, spread evenly. 255 is the loudest moment of a sound, 0 is 60 dB below,
    and silence.
    """
    waves = waves - np.mean(waves, 1, float, keepdims=True)
    starts = np.linspace(0, waves.shape[1] - WINDOW, SIDE).round().astype(int)
    windows = waves[:, starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    # [m,32,bins]: four bins are a band; the last one, of half the rate, is left out
    power = np.abs(np.fft.rfft(windows))[..., : 4 * SIDE] ** 2
    power = power.reshape(len(waves), SIDE, SIDE, 4).mean(3).transpose(0, 2, 1)
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
    sounds = spectrogram(spoken(labels, stream(0, 'digits-sound')))
    pixels = np.stack([grey.astype(np.uint8)] * 3 + [sounds], 1)
    pair = _halves(pixels, labels, [str(digit) for digit in range(10)], 0.2, 'digits-sound')
    return splits.checked('digits-sound', pair, 'what was synthesised')


def _halves(x: np.ndarray, labels: np.ndarray, classes: list[str], share: float, path: str) -> Pair:
    test = splits.test_mask_by_class(labels, round(share * len(labels)), path)
    train, held = (splits.split(x[part], labels[part], classes) for part in (~test, test))
    return train, held


def clip_folder(argument: str) -> Pair:
    """The user's clips, `PATH/<clip>/*` or `PATH/<class>/<clip>/*`: uint8 [N,8,3,32,32].

    8 images of each, spread evenly in order of name, are brought to 32 pixels (`PATH?size=64`: 64)
    by `folders.decode`. A tenth of every class becomes the test set. `Refused` names clips that are
    too short and images that cannot be read.
    """
    root, size = folders.parse_folder(argument)
    frames: dict[Path, list[Path]] = {}
    for path in folders.walk(root)[0]:
        if path.parent != root:
            frames.setdefault(path.parent, []).append(path)
    if not frames:
        must = 'it must hold PATH/<clip>/* or PATH/<class>/<clip>/*'
        raise Refused(f'{str(root)!r} holds no clips: {must}')
    short = [(clip, f'{len(one)} frames') for clip, one in frames.items() if len(one) < FRAMES]
    if short:
        what = f'{len(short)} of {len(frames)} clips have fewer than {FRAMES} frames'
        raise Refused(f'{what}: {folders.shown(short)}; leave them out')
    even = [(one, np.linspace(0, len(one) - 1, FRAMES).round()) for one in frames.values()]
    paths = [one[int(place)] for one, places in even for place in places]
    pixels, unreadable, *_ = folders.read_images(paths, size, limit=0)
    if unreadable:
        raise Refused(f'{folders.in_words(paths, unreadable)}; repair or remove them')
    names = [clip.parent.name if clip.parent != root else 'clip' for clip in frames]
    classes, labels = np.unique(names, return_inverse=True)
    x = pixels.reshape(-1, FRAMES, 3, size, size)
    train, test = _halves(x, labels, classes.tolist(), folders.TEST_SHARE, 'clips')
    if not len(test.labels):
        raise Refused(f'{str(root)!r} holds one clip of each class: give at least two of one')
    return train, test
