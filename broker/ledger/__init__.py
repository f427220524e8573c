"""Where holds are kept: what may be spent is held before a provider is asked, and settled when it has answered.

Three stores, which pass one suite of tests (tests/broker/ledger/test_contract*.py): memory for tests and benchmarks, SQLite for one node,
Redis for many replicas. `quota.Ledger` is what all of them promise.

opening.py    the store that the operator named           settling.py   settlements outlive a store that is away
holds.py      the arithmetic that all stores share        adjusting.py  grants and resets, where Python counts
memory.py     the one in memory

sqlite.py     the one in a file                           database.py   the file, its schema, one transaction
book.py       what each question reads and writes         counters.py   its counters, read once and written once

redis.py           the one in Redis                       redis_scripts.py    the Lua of lua/, which does the counting
redis_target.py    which one, as whom and how safely      redis_wire.py       one connection
redis_node.py      one server, fit or away                redis_cluster.py    which server counts for which namespace
redis_places.py    namespaces, and what was lost in one   redis_adjusting.py  grants and resets
redis_reports.py   what was counted, for people
"""
