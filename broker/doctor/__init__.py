"""`broker doctor`: every thing that a broker needs, looked at from where it would run, and what to do about each that is not well.

command.py      what it takes          examining.py  all checks, one after the other
finding.py      one row of the answer  trusting.py   Workload API, SVID, bundles
deciding.py     the objects            reaching.py   providers, and whether they take the key
keeping.py      quotas, audit, clock   entering.py   the doors of a broker that runs here
sealing.py      the keys of kept state
collecting.py   the OpenTelemetry collector
"""
