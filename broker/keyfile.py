"""A file for libraries that read keys from files alone, which never is on a disk where there is another way."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def open_briefly(content: bytes) -> Generator[str]:
    """Give the path of a file of this content. When the block is left, path and content are gone.

    On Linux the file is anonymous memory of this process, reached through /proc; elsewhere a file that only we can read, in a
    directory that only we can enter.
    """
    if sys.platform == "linux":
        descriptor = os.memfd_create("svid", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory() as directory:  # mode 0700
            path = Path(directory, "svid.pem")
            path.touch(mode=0o600)
            path.write_bytes(content)
            yield str(path)
