"""The audit log: one JSON line per exchange, whatever happened, chained so that an edit shows. Never a prompt, never a header.

    lines.py      what stands in it, and how each line is tied to the one before
    writing.py    the open log, and the promise that nothing is answered that cannot be written
    folder.py     the file that is written, those that it was before, and which of them are kept
    reading.py    line by line, in bounded memory
    verifying.py, verdict.py    is it as it was written?
    showing.py, following.py    the lines that somebody wants to see
    key.py        the secret without which nobody can rewrite the log unseen

The commands are in auditing.py, outside: they are imported at every start, also in agents' pods, and what is in here is not.

What a chain cannot show by itself is a missing tail, or (without a key) a file rewritten from some line to its end: for that the
head goes to the log once a minute and at the end, and to a metric; `broker audit verify --head` compares them.
"""

from broker.audit.folder import NEVER, Rotation
from broker.audit.lines import Discarded, Expired, Head, Line, Lost, Record, Rotated, Start, Stop
from broker.audit.writing import STALLED_BYTES, Audit

__all__ = [
    "NEVER",
    "STALLED_BYTES",
    "Audit",
    "Discarded",
    "Expired",
    "Head",
    "Line",
    "Lost",
    "Record",
    "Rotated",
    "Rotation",
    "Start",
    "Stop",
]
