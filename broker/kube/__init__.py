"""The only folder that talks to Kubernetes.

connection.py  the API server, with credentials that are renewed and a deadline on every call
decoding.py    what it says: pages of a list, the events of a watch, byte by byte and bounded        (pure)
watching.py    list, watch, list again: what is there now, and how sure we are of it
holdings.py    what is kept of that: as much of each namespace as it has room for                   (pure)
essence.py     what of an object matters                                                            (pure)
source.py      the objects of a cluster as Resources, as files.py has those of a folder
once.py        the same read once, for commands that answer and end
secrets.py     the Secrets that objects refer to, each by its name
bundles.py     the trust bundles that the operator keeps in ConfigMaps
events.py      Events: what happened, once and with a count
tasks.py       what runs beside, and ends with it
writing.py     the little that we write: statuses, Events, a Lease
"""
