"""One process at a time: a lock that a killed process cannot leave behind."""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_PATIENCE = 5.0  # seconds: what was started by a killed command notices and ends
_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


@contextmanager
def locked(path: Path, target: Path) -> Iterator[int]:
    """Hold a lock file; a child process that inherits it holds the lock too.

    File systems without locks, and Windows, give no protection.

    Args:
        path: The lock file, made if needed.
        target: What is protected, for the message.

    Yields:
        The file's descriptor, for child processes to inherit.

    Raises:
        ValueError: Another process holds the lock.
    """
    if sys.platform == "win32":
        yield -1
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.set_inheritable(handle, True)
        _acquire(handle, target)
        yield handle
    finally:
        os.close(handle)


def _acquire(handle: int, target: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"another process is converting to {target}; wait for it or stop it"
                ) from error
            time.sleep(0.1)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return
            raise
        else:
            break
    if os.fstat(handle).st_nlink == 0:
        raise ValueError(
            f"another process has just finished a conversion to {target}; look at it"
        )
