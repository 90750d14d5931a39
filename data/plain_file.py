"""Open the files that people name: plain ones only, and no more of them than memory holds.

Opening a pipe waits for whoever writes to it, a device may never end, and a small gzip file can
unpack to a thousand times its length.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_ALWAYS_UNPACKED = 64 << 20  # bytes: sorted labels and blank images do pack a thousandfold
_MOST_PACKED = 100  # times; the pixels of real images pack less than tenfold


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file to read its bytes, without waiting. Raises OSError, also for a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe or a device, not a plain file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def most_unpacked(path: Path) -> int:
    """Return how many bytes a gzip file of images or labels may unpack to. Raises OSError."""
    return max(_ALWAYS_UNPACKED, _MOST_PACKED * path.stat().st_size)
