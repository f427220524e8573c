"""The serving certificate, and its change without a restart: new connections get the new one, open ones go on."""

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from webhook.authority import Pair

log = logging.getLogger(__name__)

LOOK_S: Final = 10.0  # between two looks at the files; a kubelet takes about a minute to bring a changed Secret


def server_context() -> ssl.SSLContext:
    """TLS 1.2 and above, since an API server's Go may be set to it; HTTP/1.1 alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(slots=True)
class GivenFiles:
    """A certificate that somebody else makes and renews: cert-manager, by a mounted Secret, or the operator.

    Raises:
        OSError: a file cannot be read.
        ValueError: they are no certificate and its key.
    """

    certificate: Path
    key: Path
    context: ssl.SSLContext
    _seen: tuple[bytes, bytes] = (b"", b"")

    def load(self) -> None:
        """Take what is in the files now. Raises OSError or ValueError, and then what was loaded last goes on."""
        found = self.certificate.read_bytes(), self.key.read_bytes()
        if found == self._seen:
            return
        try:
            server_context().load_cert_chain(self.certificate, self.key)  # on another context first: half a change is none
            self.context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            raise ValueError(f"{self.certificate} and {self.key} are no certificate and its key: {error.reason or error}") from error
        self._seen = found

    @property
    def ends(self) -> float:
        """When the certificate that is served ends, as a Unix timestamp; 0 before there is one."""
        return Pair(*self._seen).ends.timestamp() if self._seen[0] else 0.0

    def why_not_ready(self, now: float) -> list[str]:
        """Once it has ended no API server takes our answers."""
        ended = self.ends <= now
        return [f"the serving certificate in {self.certificate} has ended: see who renews it"] if ended else []

    async def watch(self) -> None:
        """Load again, for ever, whenever the files have changed."""
        while True:
            await asyncio.sleep(LOOK_S)
            before = self._seen
            try:
                self.load()
            except (OSError, ValueError) as error:
                log.error("certificate_not_reloaded", extra={"why": str(error)})  # noqa: TRY400  the sentence says it all
            else:
                if self._seen != before:
                    log.info("certificate_reloaded")
