"""A folder for servers' state that goes when its run does; what a run that was killed has left is removed by the next one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Not pytest's: its names are too long for the sockets of SPIRE, which lie below
ROOM = Path("/tmp")  # noqa: S108  mkdtemp makes what is used of it
PREFIX = "k-"


@contextmanager
def scratch(room: Path = ROOM) -> Iterator[Path]:
    """A folder with a short name that holds our process id, and that every user may pass through."""
    clear(room)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=room))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear(room: Path) -> None:
    """Remove our folders whose process is gone. One whose number another process has by now stays until that is gone too."""
    for folder in room.glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        with suppress(FileNotFoundError):  # another run that begins removes it too
            if number.isdecimal() and not _runs(int(number)) and folder.lstat().st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
