"""Which backend takes a request. Pure: the draw is an argument."""

from broker.grant import Backend


def choose(backends: tuple[Backend, ...], draw: float) -> Backend:
    """The backend to try first: of the lowest priority number one, by weight.

    backends: at least one, weights above 0 (policy leaves the others out of a Grant).
    draw: uniform in [0, 1).
    """
    if len(backends) == 1:
        return backends[0]
    lowest = min(backend.priority for backend in backends)
    peers = [backend for backend in backends if backend.priority == lowest]
    mark = draw * sum(backend.weight for backend in peers)
    for backend in peers:
        mark -= backend.weight
        if mark < 0:
            return backend
    return peers[-1]
