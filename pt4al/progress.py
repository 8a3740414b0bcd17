"""Progress of long work: a bar with ETA at a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import threading
import time

from tqdm import tqdm

log = logging.getLogger('pt4al')


def log_lines() -> None:
    """Have log lines appear on stderr, with the time of day."""
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')


class Progress:
    """Images done of `total` under one label; a log line comes at most once a minute.

    Those that an earlier, interrupted run has done do not enter the rate.
    """

    def __init__(self, label: str, total: int, done: int = 0):
        self.label, self.total, self.text = label, total, ''
        self.done = self.before = done
        self.start = self.last = time.monotonic()
        # one of several stays silent: the study shows the progress of all
        alone = threading.current_thread() is threading.main_thread()
        silent = not (alone and sys.stderr.isatty() and multiprocessing.parent_process() is None)
        self.bar = tqdm(
            None, label, total, False, unit='img', unit_scale=True, disable=silent, initial=done
        )

    def add(self, images: int) -> None:
        """Count `images` more as done."""
        self.done += images
        self.bar.update(images)
        now = time.monotonic()
        if self.bar.disable and now - self.last > 60:
            self.last, rate = now, (self.done - self.before) / (now - self.start)
            percent, left = 100 * self.done / self.total, (self.total - self.done) / rate / 60
            text = '%s: %.0f %%, %.0f images/s, %.1f minutes left; %s'
            log.info(text, self.label, percent, rate, left, self.text)

    def note(self, text: str) -> None:
        """Show `text` beside the bar or in the next log line."""
        self.text = text
        self.bar.set_postfix_str(text)

    def close(self) -> None:
        """Take the bar off the terminal."""
        self.bar.close()
