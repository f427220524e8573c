"""The objects of a cluster, read once: for commands that answer and end."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

from broker.kube.connection import Connection, NoCluster
from broker.kube.source import Cluster, Scope
from broker.objects import Resources

PATIENCE_S: Final = 30.0


def read_once(kubeconfig: str | None, environ: Mapping[str, str], scope: Scope) -> Resources:
    """Everything in this scope that this identity may read; a namespace that it may not read is `unreadable`.

    Raises:
        NoCluster: there are no credentials, or the API server does not answer; the message says what is missing.
    """
    return asyncio.run(_read(kubeconfig, environ, scope))


async def _read(kubeconfig: str | None, environ: Mapping[str, str], scope: Scope) -> Resources:
    connection = await Connection.open(kubeconfig, environ)
    try:
        cluster = Cluster(connection, scope)
        try:
            async with asyncio.timeout(PATIENCE_S), aclosing(cluster.changes()) as changes:
                async for resources in changes:
                    if not resources.pending:
                        return resources
        except TimeoutError:
            missing = [*cluster.why_not_ready(), *cluster.remarks()]
            raise NoCluster(f"not all objects could be read within {PATIENCE_S:.0f} s: {'; '.join(missing[:5])}") from None
        raise AssertionError("changes never end")
    finally:
        await connection.close()
