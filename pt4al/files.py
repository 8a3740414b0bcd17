"""Files that are written whole, checked when read, and cleared away if their writer was killed."""

import errno
import fcntl
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from pt4al.errors import Refused

ASSETS = Path(__file__).parent / 'assets'
PART = '.partial-'  # begins the name of a folder in which something is being written
# the line that ends a sealed file: it is part of the file, so that one rename brings both
MARK = b'\nsha256 '
TAIL = len(MARK) + 64 + 1
ABANDONED = 24 * 3600  # seconds after which a part has no writer, where locks do not reach
# where a cell may begin, however the file is cut into cells, and what must not stand there: what a
# spreadsheet takes for the start of a formula (OWASP), behind blanks and quotes, too
_STARTS = r'(?:\A|(?<=[;\t\r\n]))'
_RUNS = r"(?='|[ \"]*[=+\-@\t\r\n])"


# --- places ---


def cache() -> Path:
    """The folder for what was fetched or decoded; `Refused` where the user has no home."""
    try:
        folder = platformdirs.user_cache_path('pt4al')
    except RuntimeError:
        folder = None
    if folder is None or not folder.is_absolute():
        raise Refused(
            'no folder can hold what is fetched or decoded, for this user has no home: '
            'set HOME or XDG_CACHE_HOME to the whole path of a folder you can write to'
        )
    return folder


def roots() -> list[Path]:
    """The folders to look for data sets in: $PT4AL_DATA, then the cache, where there are."""
    named = os.environ.get('PT4AL_DATA')
    folders = [expand_home(named)] if named else []
    try:
        return [*folders, cache()]
    except Refused:
        return folders


def expand_home(path: str | Path) -> Path:
    """A path as a person gives it, with ~ for a home; `Refused` where that user has none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise Refused(f'{str(path)!r}: that user has no home, give a whole path') from None


# --- writing ---


@contextmanager
def written(path: Path) -> Iterator[io.BufferedRandom]:
    """Open a file that becomes `path` when the block ends well and vanishes when it does not.

    It can be read by whom the umask allows, and its name until then cannot be guessed.
    """
    path = Path(os.path.realpath(path))  # a link stays, what it names is written
    with scratch_folder(path.parent) as folder:
        part = folder / 'part'
        try:
            with open(part, 'w+b') as file:
                yield file
        except OSError as error:
            error.filename = error.filename or str(path)  # as where the disk is full
            raise
        if path.is_file():
            shutil.copymode(path, part)
        os.replace(part, path)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with written(path) as file:
        file.write(content)


def move_into_place(made: Path, target: Path) -> None:
    """Give a folder its name; one that another process placed there meanwhile stays."""
    try:
        os.rename(made, target)
    except OSError:
        if not target.is_dir():
            raise


def check_writable(folder: Path, cure: str) -> None:
    """Make a folder; `Refused` with this cure where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Refused(f'cannot write to {str(folder)!r} ({error.strerror}): {cure}') from None


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Give a new folder in `parent`; what is not renamed when the block ends is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    part, descriptor = _made(parent)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(descriptor)


def _made(parent: Path) -> tuple[Path, int]:
    """Make a part and hold it, so that no sweep takes it; again where one came between."""
    while True:
        part = parent / f'{PART}{secrets.token_hex(8)}'
        try:
            part.mkdir()
        except OSError as error:
            error.filename = str(parent)  # what a person can mend
            raise
        try:
            descriptor = os.open(part, os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        if _hold(descriptor) is not False and part.exists():
            return part, descriptor
        os.close(descriptor)


def _hold(descriptor: int) -> bool | None:
    """Lock an open folder until it is closed: False if it is held, None without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None


_swept: set[Path] = set()


def sweep(folder: Path) -> None:
    """Remove the parts in a folder whose writers are dead; looked at once a process."""
    folder = folder.resolve()
    if folder not in _swept:
        _swept.add(folder)
        for part in folder.glob(f'{PART}*'):
            _clear(part)


def _clear(part: Path) -> None:
    # a lock says it even where all processes have one number, as in containers
    try:
        descriptor = os.open(part, os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        alone, old = _hold(descriptor), time.time() - part.lstat().st_mtime > ABANDONED
        if alone or alone is None and old:
            shutil.rmtree(part)
    except OSError:
        pass  # another process has done it, or the folder is only to be read
    finally:
        os.close(descriptor)


# --- cells of tables ---


def escape_formula(text: str) -> str:
    """A cell's text that no spreadsheet runs, whether it cuts at commas, semicolons or tabs: an
    apostrophe before what starts a formula, or before an apostrophe.
    """
    return re.sub(_STARTS + _RUNS, "'", text)


def unescape_formula(text: str) -> str:
    """What `escape_formula` was given; text that it does not change comes back as it is."""
    return re.sub(_STARTS + "'" + _RUNS, '', text)


# --- reading ---


def check_regular_file(path: Path, most: int | None = None) -> Path:
    """Return `path` if it is a plain file, of `most` bytes at most; a pipe could hang a reader."""
    try:
        about = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise Refused(f'{path} cannot be read ({reason})') from None
    if not stat.S_ISREG(about.st_mode):
        kind = 'a folder' if stat.S_ISDIR(about.st_mode) else 'a pipe or a device'
        raise Refused(f'{path} is {kind}: give a file')
    if most and about.st_size > most:
        raise Refused(f'{path} is too large: it has more than {most:,} bytes')
    return path


def check_zip(path: Path, most: int) -> Path:
    """Return `path` if it is an archive whose members take `most` bytes at most, unpacked."""
    with zipfile.ZipFile(check_regular_file(path, most)) as archive:
        if sum(member.file_size for member in archive.infolist()) > most:
            raise Refused(f'{path} is too large: it unfolds to more than {most:,} bytes')
    return path


def seal(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole, with a last line that `unseal` knows it by."""
    write(path, bytes(content) + _seal_of(content))


def _seal_of(content: bytes | memoryview) -> bytes:
    return MARK + hashlib.sha256(content).hexdigest().encode() + b'\n'


def unseal(path: Path) -> bytes:
    """The content of a sealed file; `Refused` if it is not what was written."""
    content = check_regular_file(path).read_bytes()
    body, tail = memoryview(content)[:-TAIL], content[-TAIL:]
    if tail != _seal_of(body):
        raise Refused(f'{path} is damaged: it is not what was written')
    return bytes(body)
