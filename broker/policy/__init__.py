"""Which policies match, and the one decision they lead to. Pure: objects and settings in, a Snapshot out; the same always decides the same.

settings.py     what the operator said                connections.py  providers, and what they lack
offers.py       what can be called                    rules.py        who may call it, by identity
precedence.py   which quotas of one name count        prices.py       what a quota of money makes of a model
snapshot.py     decide(), and the listings beside it  building.py     all of it into a Snapshot
explanation.py  why yes, why no                       status.py       what each object is told
oversights.py   what was meant to count, and does not  written.py      and how Kubernetes writes that
"""

from broker.policy.building import build
from broker.policy.explanation import Explanation, Standing, explain
from broker.policy.oversights import Oversight, oversights
from broker.policy.settings import Settings
from broker.policy.snapshot import Snapshot, VisibleModel

__all__ = ["Explanation", "Oversight", "Settings", "Snapshot", "Standing", "VisibleModel", "build", "explain", "oversights"]
