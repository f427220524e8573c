"""`broker controller`: writes what the broker makes of each object into its status, where `kubectl` shows it.

running.py      what is built, and given back at the end   office.py    what the leader watches
leading.py      one of several controllers at a time       scribe.py    when which status is written
desired.py      what a status says                         bundles.py   what a trust bundle's ConfigMap holds
consumption.py  what identities used, per policy
"""
