"""The product with short deadlines, so that a test of slowness need not be slow, and with figures for few models, so that a look at them
costs the same after a thousand models as after one: `python -m tests.support.brisk serve …`.
"""

import sys
from functools import partial

from broker import cli, local_gateway, wiring
from broker.http1.limits import ClientLimits, Limits
from broker.telemetry import Telemetry

# Long enough for an honest caller on a busy machine, short enough to be waited for
HEAD_S, BODY_S, IDLE_S, WRITE_S = 2.0, 5.0, 4.0, 3.0
POOL_IDLE_S = 2.0  # below IDLE_S, as everywhere: a request into a closing connection cannot be sent again
LABEL_SETS = 20  # those of the others are counted together

if __name__ == "__main__":
    brisk = partial(Limits, handshake_s=HEAD_S, head_s=HEAD_S, body_s=BODY_S, keep_alive_s=IDLE_S, write_s=WRITE_S, linger_s=0.05)
    wiring.Limits = local_gateway.Limits = brisk  # type: ignore[misc, assignment]
    local_gateway.Pool = partial(local_gateway.Pool, limits=ClientLimits(pool_idle_s=POOL_IDLE_S))  # type: ignore[misc, assignment]
    wiring.Telemetry = partial(Telemetry, label_sets=LABEL_SETS)  # type: ignore[misc, assignment]
    sys.exit(cli.main())
