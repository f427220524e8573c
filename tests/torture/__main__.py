# ruff: noqa: T201  a script that talks to people
"""Four brokers, one Redis and two hundred callers, and everything is killed: `make torture SEEDS=20`, one line a seed.

What a quota promises is judged by the provider's own ledger. At no moment may what it did, and what it still may do for those in flight, pass
any quota by one token (`strict` seeds); with prompts that are counted instead of bounded by their bytes (`counted` seeds), by no more than
docs/quotas-exactness.md says: nothing costs more than twice what was held. At the end the store has what the provider's ledger has, and on
top the holds of callers that hung up, of brokers that were killed and of answers without a report: charged, never given back.

A provider that says it did more than it did is charged for what it said. That it did more than it says nobody but the provider can know: then
its ledger has what it said, and the line shows what it concealed. Two backends have a price each, and the provider's ledger has money too. In
`edge` seeds nobody hangs up, nothing is killed but the store, and the provider reads and writes all that was held for it: so one quota, in
each seed another, is used up to its last token by use. In `lossy` seeds Redis comes back with less than it had: from then on nothing may be
answered, since the month's quotas cannot be known any more.

Every choice is drawn from the seed, so that `make torture SEED=17` asks, lies, kills and stops as the run that failed; only how the processes'
own steps interleave differs.
"""

import argparse
import asyncio
import sys
import tempfile
import traceback
from pathlib import Path

from .seed import Verdict, run


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="seeds 1 to N")
    parser.add_argument("--seed", type=int, help="this one alone, and say all that is wrong")
    arguments = parser.parse_args()
    failed: list[int] = []
    for seed in [arguments.seed] if arguments.seed is not None else range(1, arguments.seeds + 1):
        with tempfile.TemporaryDirectory(prefix="torture") as folder:
            try:
                verdict = await run(seed, Path(folder))
            except Exception as broken:  # noqa: BLE001  a seed that cannot be judged has failed, and the next one begins
                verdict = Verdict(f"seed {seed:3}         FAIL", ["".join(traceback.format_exception(broken))])
        print(verdict.line, flush=True)
        if verdict.faults:
            failed.append(seed)
            shown = len(verdict.faults) if arguments.seed is not None else 5
            print(*(f"  ! {fault}" for fault in verdict.faults[:shown]), sep="\n", flush=True)
    if failed:
        print(f"{len(failed)} failed; again: " + ", ".join(f"make torture SEED={seed}" for seed in failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
