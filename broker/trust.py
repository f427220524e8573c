"""Whom we believe, and as whom we speak: one process's X509-SVID, the trust bundles, and the TLS contexts made of them.

A peer is judged three times over: OpenSSL proves that it holds the key; before the handshake ends its chain is verified
against the bundle *of its own trust domain* and no other (SPIFFE Federation §4.2: bundles are never merged); and `Trust.judge`
asks again for every request, because a kept-alive connection outlives SVIDs and bundles. TLS 1.3 alone, and no session is ever
resumed: a resumed handshake would skip all of this.

Every doubt is a no: an unknown trust domain, an expired certificate on either side, a withdrawn SVID of our own.
"""

import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, Self

from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import Unavailable, Unidentified
from broker.identity import Identity
from broker.keyfile import open_briefly
from broker.svids import Update, X509Svid
from broker.truststate import Bundle, Peer, TrustState, bundles_of

log = logging.getLogger(__name__)

Authorize = Callable[[Identity], bool]


class SpiffeTls(ssl.SSLObject):
    """The TLS of one connection. Its handshake ends well only for a peer that TrustState and `authorize` accept."""

    peer: Peer | None = None
    state: TrustState | None = None

    def do_handshake(self) -> None:
        """Raises SSLWantRead/WriteError until it is complete; then, for a peer that we refuse, SSLCertVerificationError."""
        context = self.context
        if not isinstance(context, _Moment):
            raise TypeError("made by another context")
        try:
            super().do_handshake()
            self.peer, self.state = context.accept(_peer_chain(self))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as failed:
            context.trust.refused(failed.verify_message if isinstance(failed, ssl.SSLCertVerificationError) else str(failed.reason))
            raise


def _peer_chain(tls: ssl.SSLObject) -> list[bytes]:
    public: Callable[[], list[bytes]] | None = getattr(tls, "get_unverified_chain", None)
    if public is not None:  # Python 3.13 on
        return public()
    inner: Any = getattr(tls, "_sslobj")  # noqa: B009  before that it is there, but private: bytes and objects mixed
    return [cert if isinstance(cert, bytes) else cert.public_bytes(_ENCODING_DER) for cert in inner.get_unverified_chain() or ()]


_ENCODING_DER: Final = 2  # _ssl.ENCODING_DER


class _Moment(ssl.SSLContext):
    """A complete context, made of one TrustState; never changed after it was made."""

    trust: "Trust"
    authorize: Authorize | None

    def accept(self, chain_der: Sequence[bytes]) -> tuple[Peer, TrustState]:
        """Judge by what is in force now: it may have changed since this handshake began."""
        state = self.trust.in_force
        if state is None:
            raise _verification_error("our own SVID was withdrawn during the handshake")
        try:
            peer = state.verify(chain_der, self.trust.clock())
        except Unidentified as refusal:
            raise _verification_error(str(refusal)) from refusal
        if self.authorize is not None and not self.authorize(peer.identity):
            raise _verification_error(f"the peer is {peer.identity.spiffe_id}, which is not whom we want to talk to")
        return peer, state


def _verification_error(reason: str) -> ssl.SSLCertVerificationError:
    # only an ssl.SSLError ends a handshake in order, in asyncio and uvloop
    error = ssl.SSLCertVerificationError(1, reason)
    error.verify_code, error.verify_message = 1, reason
    return error


class RotatingContext(ssl.SSLContext):
    """Handed to the event loop once; each new connection is made with the newest state. Older connections stay as they are."""

    def __new__(cls, trust: "Trust", *, server: bool, authorize: Authorize | None) -> Self:  # noqa: ARG004  __init__ has the same
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, trust: "Trust", *, server: bool, authorize: Authorize | None) -> None:
        self._trust = trust
        self._server = server
        self._authorize = authorize
        self._now: _Moment | None = None

    def build(self, state: TrustState) -> _Moment:
        """Make a context, without using it yet. Raises ssl.SSLError for what OpenSSL does not take."""
        moment = _Moment(ssl.PROTOCOL_TLS_SERVER if self._server else ssl.PROTOCOL_TLS_CLIENT)
        moment.trust, moment.authorize = self._trust, self._authorize
        moment.sslobject_class = SpiffeTls
        moment.minimum_version = ssl.TLSVersion.TLSv1_3
        moment.check_hostname = False  # there are no host names in this: identity is the SPIFFE ID
        moment.verify_mode = ssl.CERT_REQUIRED
        moment.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # a bundle may hold an intermediate alone
        moment.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        if self._server:
            moment.num_tickets = 0  # resumption skips verification; OP_NO_TICKET alone leaves stateful tickets
        moment.set_alpn_protocols(["http/1.1"])
        with open_briefly(_pem(state.svid)) as path:
            moment.load_cert_chain(path)
        # OpenSSL gets the union: it proves possession of the key; whose CA vouches for whom is TrustState's to say
        moment.load_verify_locations(
            cadata=b"".join(cert.public_bytes(Encoding.DER) for bundle in state.bundles.values() for cert in bundle)
        )
        return moment

    def swap(self, moment: _Moment | None) -> None:
        self._now = moment

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002  the signature of the standard library
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection. Raises ssl.SSLError when there is no SVID, or a session to resume."""
        if self._now is None:
            raise ssl.SSLError(1, "no SVID: this process has no identity to speak as")
        if session is not None:
            raise ssl.SSLError(1, "sessions are not resumed")
        return self._now.wrap_bio(incoming, outgoing, server_side, server_hostname)

    def wrap_socket(self, *_args: object, **_options: object) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise ssl.SSLError(1, "use an event loop: a socket wrapped here would not be judged")


def _pem(svid: X509Svid) -> bytes:
    # SSLContext takes PEM alone; the key is PKCS#8, as the Workload API has it
    key = ssl.DER_cert_to_PEM_cert(svid.key).replace("CERTIFICATE", "PRIVATE KEY")
    return (key + "".join(ssl.DER_cert_to_PEM_cert(der) for der in svid.chain)).encode()


class Trust:
    """What a process holds: the current TrustState, and the contexts that follow it.

    static: further bundles of the operator (`--trust-bundle`), by trust domain; `anchor` changes one.
    clock: the wall clock, in epoch seconds; what certificates are dated in.
    on_refusal: told, for each failed handshake, why. Strangers can cause these: count them, do not log each.

    `in_force` is the current state, None when there is none; `generation` counts what came into force. Both are for reading.
    """

    def __init__(
        self,
        static: Mapping[str, Bundle] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        on_refusal: Callable[[str], None] | None = None,
    ) -> None:
        self.clock = clock
        self._static: Mapping[str, Bundle] = dict(static or {})
        self._on_refusal = on_refusal
        self._contexts: list[RotatingContext] = []
        self.in_force: TrustState | None = None
        self._update: Update | None = None
        self._withdrawn = False
        self._note = ""
        self.generation = 0

    def apply(self, update: Update | None) -> None:
        """Put an update into force, whole or not at all. None: we have no identity any more, so nothing is served.

        The same update again changes nothing.

        Raises:
            BadUpdate, ssl.SSLError: it is unfit; what was in force stays in force.
        """
        if update is None:
            self._enforce(None, [(context, None) for context in self._contexts])
            self._update, self._withdrawn = None, True
            log.error("svid_withdrawn")
            return
        if update == self._update:
            return
        self._put(update, self._static)
        self._update, self._withdrawn, self._note = update, False, ""

    def anchor(self, trust_domain: str, anchors: Bundle) -> None:
        """From now on this is the operator's bundle of a trust domain; what the Workload API says of that domain still wins.

        Raises:
            BadUpdate, ssl.SSLError: it is unfit; what was in force stays in force.
        """
        static = {**self._static, trust_domain: anchors}
        if static != self._static and self._update is not None:
            self._put(self._update, static)
        self._static = static

    def _put(self, update: Update, static: Mapping[str, Bundle]) -> None:
        state = TrustState(update.svids[0], bundles_of(update, static))
        self._enforce(state, [(context, context.build(state)) for context in self._contexts])
        log.info(
            "trust_updated",
            extra={"spiffe_id": state.identity.spiffe_id, "trust_domains": sorted(state.bundles), "expires": state.not_after},
        )

    def _enforce(self, state: TrustState | None, built: Sequence[tuple[RotatingContext, _Moment | None]]) -> None:
        for context, moment in built:
            context.swap(moment)
        self.in_force = state
        self.generation += 1

    def server_context(self, authorize: Authorize | None = None) -> RotatingContext:
        """For a listener: any peer of a trusted domain gets in that `authorize` takes. Who may do what is not decided here."""
        return self._context(server=True, authorize=authorize)

    def client_context(self, authorize: Authorize) -> RotatingContext:
        """For connections out: no byte of ours leaves before `authorize` has said yes to the other side's identity."""
        return self._context(server=False, authorize=authorize)

    def _context(self, *, server: bool, authorize: Authorize | None) -> RotatingContext:
        context = RotatingContext(self, server=server, authorize=authorize)
        if self.in_force is not None:
            context.swap(context.build(self.in_force))
        self._contexts.append(context)
        return context

    def judge(self, tls: ssl.SSLObject, now: float) -> Identity:
        """Say, for one request, who is at the other end. Costs next to nothing while nothing has changed.

        Raises:
            Unidentified: the peer's SVID has expired, or today's bundles do not vouch for it. Close the connection after saying so.
            Unavailable: we have no valid SVID ourselves, so what we know of others may be stale too.
        """
        state = self.in_force
        if state is None or not state.not_before <= now <= state.not_after:
            raise Unavailable("this side has no valid X509-SVID at the moment: try again, and tell the operator if it lasts")
        if not isinstance(tls, SpiffeTls) or tls.peer is None:
            raise Unidentified("this connection was never identified: connect with mutual TLS and an X509-SVID")
        peer = tls.peer
        if tls.state is state and peer.not_before <= now <= peer.not_after:
            return peer.identity
        tls.peer = state.verify(peer.chain, now)
        tls.state = state
        return peer.identity

    @property
    def own_id(self) -> Identity | None:
        return None if self.in_force is None else self.in_force.identity

    @property
    def expires(self) -> float | None:
        """Epoch seconds of the end of our own SVID."""
        return None if self.in_force is None else self.in_force.not_after

    def why_not_ready(self, now: float) -> str | None:
        """What keeps this process from speaking as anybody; None when nothing does."""
        state = self.in_force
        if state is None:
            reason = "our SVID was withdrawn" if self._withdrawn else "no SVID yet"
            return f"{reason} ({self._note or 'the Workload API has not answered'}): check the SPIFFE agent and this workload's entry"
        if now < state.not_before:
            return "our SVID is not valid yet: check this machine's clock"
        if now > state.not_after:
            return f"our SVID has expired ({self._note or 'no renewal came'}): check the SPIFFE agent"
        return None

    def note(self, text: str) -> None:
        """Keep what the Workload API's watch reported last, for `why_not_ready`; log it when it is news."""
        if text != self._note:
            log.warning("workload_api", extra={"report": text})
        self._note = text

    def refused(self, reason: str) -> None:
        if self._on_refusal is not None:
            self._on_refusal(reason)
