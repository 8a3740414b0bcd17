"""Files that are written whole, sealed and swept."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pt4al import files
from pt4al.errors import Refused


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.written(tmp_path / 'deep' / 'a') as file:
        file.write(b'half')
        raise ZeroDivisionError
    assert list((tmp_path / 'deep').iterdir()) == []
    with files.written(tmp_path / 'deep' / 'a') as file:
        file.write(b'all')
    assert [path.read_bytes() for path in (tmp_path / 'deep').iterdir()] == [b'all']


@pytest.mark.parametrize('umask', [0o022, 0o077, 0o002])
def test_the_umask_says_who_can_read(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files.seal(tmp_path / 'file', b'x')
        with files.scratch_folder(tmp_path) as part:
            os.rename(part, tmp_path / 'folder')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'file').stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / 'folder').stat().st_mode) == 0o777 & ~umask


def test_every_flipped_bit_of_a_sealed_file_is_noticed(tmp_path: Path) -> None:
    path, content = tmp_path / 'a', b'{"picked": [1, 2]}'
    files.seal(path, content)
    whole = path.read_bytes()
    assert files.unseal(path) == content
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(Refused, match='damaged'):
            files.unseal(path)


WRITE = """
import sys, time; from pathlib import Path; from pt4al import files
with files.written(Path(sys.argv[1]) / 'a') as file, files.scratch_folder(Path(sys.argv[1])) as folder:
    file.write(b'half'); file.flush(); (folder / 'b').touch(); print('writing', flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_leaves_goes_with_the_next_and_what_is_being_written_stays(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, '-c', WRITE, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == 'writing\n'
    assert len(list(tmp_path.iterdir())) == 4
    files.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    writers[0].send_signal(signal.SIGKILL)
    writers[0].wait()
    files._swept.clear()  # as a later process
    files.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    writers[1].terminate()
    writers[1].wait()
    for writer in writers:
        writer.stdout.close()


def test_names_of_parts_cannot_be_guessed(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with files.written(tmp_path / 'a'):
            names |= {path.name for path in tmp_path.iterdir() if path.name != 'a'}
    assert len(names) == 3 and not any(str(os.getpid()) in name for name in names)


def test_pipes_devices_and_folders_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    start = time.monotonic()
    for path, message in [
        (tmp_path / 'pipe', 'a pipe or a device'),
        (Path('/dev/zero'), 'a pipe or a device'),
        (tmp_path, 'a folder'),
        (tmp_path / 'none', 'cannot be read'),
    ]:
        with pytest.raises(Refused, match=message):
            files.unseal(path)
    assert time.monotonic() - start < 1


def test_a_user_without_a_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(name: str) -> Path:
        raise RuntimeError('could not determine the home directory')

    for answer in (homeless, lambda name: Path('~/.cache') / name):  # of new and old platformdirs
        monkeypatch.setattr(files.platformdirs, 'user_cache_path', answer)
        with pytest.raises(Refused, match='set HOME or XDG_CACHE_HOME'):
            files.cache()
    monkeypatch.delenv('PT4AL_DATA', raising=False)
    assert files.roots() == []
    monkeypatch.setenv('PT4AL_DATA', '~nobody-of-this-name/data')
    with pytest.raises(Refused, match='has no home'):
        files.roots()
