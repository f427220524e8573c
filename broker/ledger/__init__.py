"""Where holds are kept: in memory for tests and benchmarks, in SQLite for one node. All of them pass one contract test suite."""
