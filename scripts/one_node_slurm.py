"""A Slurm of this one machine, with pretend GPUs, for as long as a command runs: try a cluster's
profile without one.

    sudo .venv/bin/python scripts/one_node_slurm.py .venv/bin/python -m benchmarks grid

It needs root, Debian's slurm-wlm and munge, and a machine whose /etc/slurm has no configuration.
All else is in a temporary folder.  The node has as many cores as the machine, most of its memory,
and two GPUs that nothing computes on.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# the only place where Snakemake's executor, which clears SLURM_*, finds it
FOLDER = Path('/etc/slurm')
CONFIGURATION = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
SlurmdPort={next_port}
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
CommunicationParameters=NoAddrCache
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={megabytes} Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
GPUS = 'AutoDetect=off\nName=gpu File=/dev/zero\nName=gpu File=/dev/null\n'


def lacking() -> list[str]:
    """What this machine has not of what is needed, in words."""
    there = {
        'sbatch (Debian: slurm-wlm)': shutil.which('sbatch'),
        'munged (Debian: munge)': shutil.which('munged'),
        'root, to start daemons': hasattr(os, 'geteuid') and os.geteuid() == 0,
        f'a place for its configuration ({FOLDER} has one already)': not (
            FOLDER / 'slurm.conf'
        ).exists(),
    }
    return [what for what, is_there in there.items() if not is_there]


def wait_for(what: Callable[[], object], seconds: float) -> object:
    """The first true answer of `what`."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f'no sign of it for {seconds:g} s')
        time.sleep(0.01)
    return found


def output(*words: str) -> str:
    """What a command prints, whatever its status."""
    return subprocess.run(words, capture_output=True, text=True).stdout


def ended(number: int) -> bool:
    """Whether no process has this number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


@contextmanager
def running(at: Path) -> Iterator[None]:
    """Munge and the two daemons of Slurm, with everything but the configuration's links in the
    folder `at`.
    """
    host, port = socket.gethostname().split('.')[0], 16817 + os.getpid() % 1000 * 2
    for name in ('state', 'spool'):
        (at / name).mkdir(parents=True)
    (at / 'slurm.conf').write_text(
        CONFIGURATION.format(
            at=at,
            host=host,
            port=port,
            next_port=port + 1,
            cores=os.cpu_count(),
            megabytes=int(0.9 * os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**20),
        )
    )
    (at / 'gres.conf').write_text(GPUS)
    (at / 'key').touch(mode=0o600)
    (at / 'key').write_bytes(os.urandom(1024))
    links = [FOLDER / name for name in ('slurm.conf', 'gres.conf')]
    FOLDER.mkdir(exist_ok=True)
    try:
        for link in links:
            link.unlink(missing_ok=True)  # what a killed run left leads nowhere
            link.symlink_to(at / link.name)
        subprocess.run(
            [
                'munged',
                '--force',
                f'--key-file={at}/key',
                f'--socket={at}/munge.sock',
                f'--seed-file={at}/seed',
                f'--pid-file={at}/munged.pid',
                f'--log-file={at}/munged.log',
            ],
            check=True,
        )
        wait_for((at / 'munge.sock').exists, 30)
        subprocess.run(['slurmctld', '-c'], check=True)
        subprocess.run(['slurmd', '-N', host], check=True)
        wait_for(lambda: output('sinfo', '-h', '-o', '%t').strip() == 'idle', 60)
        yield
    finally:
        subprocess.run(['scancel', '-u', 'root', '-s', 'KILL'], capture_output=True)
        for name in ('slurmd', 'slurmctld', 'munged'):
            if (at / f'{name}.pid').exists():
                number = int((at / f'{name}.pid').read_text())
                os.kill(number, signal.SIGTERM)
                # it writes to the folder until then
                wait_for(lambda number=number: ended(number), 30)
        for link in links:
            link.unlink(missing_ok=True)


if __name__ == '__main__':
    if not sys.argv[1:] or lacking():
        sys.exit(f'there is no {", no ".join(lacking())}' if lacking() else __doc__)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / 'slurm'):
        sys.exit(subprocess.run(sys.argv[1:]).returncode)
