"""Our kinds as Structs: what somebody wrote, in; typed objects and every fault with its path, out. Pure.

reading.py     the walker that finds all faults at once     words.py        small types that kinds share
routing.py     AIRoutingPolicy.spec                         connections.py  AIProvider.spec
access.py      AIAccessPolicy.spec                          secrets.py      keys, and where they may go
documents.py   one whole document → one object              resources.py    everything that a source has read
status.py      what the controller writes back              metadata.py     whose object it is
yamltext.py    YAML, with a place for each value            origin.py       where something was written
duration.py    durations as the objects write them
"""

from broker.objects.documents import AccessPolicy, Document, ProviderObject, RoutingPolicy, Stray, read_document
from broker.objects.reading import UNREADABLE, Fault
from broker.objects.resources import Resources, collect
from broker.objects.secrets import SecretObject

__all__ = [
    "UNREADABLE",
    "AccessPolicy",
    "Document",
    "Fault",
    "ProviderObject",
    "Resources",
    "RoutingPolicy",
    "SecretObject",
    "Stray",
    "collect",
    "read_document",
]
