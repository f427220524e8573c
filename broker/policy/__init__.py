"""Which policies match, and the one decision they lead to. Pure: objects and settings in, a Snapshot out; the same always decides the same.

settings.py     what the operator said                connections.py  providers, and what they lack
offers.py       what can be called                    rules.py        who may call it, by identity
building.py     all of it into a Snapshot             snapshot.py     decide(), and the listings beside it
status.py       what each object is told              explanation.py  why yes, why no
"""

from broker.policy.building import build
from broker.policy.explanation import Explanation, explain
from broker.policy.settings import Settings
from broker.policy.snapshot import Snapshot, VisibleModel

__all__ = ["Explanation", "Settings", "Snapshot", "VisibleModel", "build", "explain"]
