"""The serving certificate, and its change without a restart."""

import asyncio
import ssl

import pytest
from support.webhook_process import LOOPBACK, an_authority, trusting, write_leaf

from webhook import certs
from webhook.certs import GivenFiles, server_context


async def served_by(context):
    """A TLS server of this context, and the serial numbers that its connections see."""

    async def end(_, writer):
        writer.close()

    return await asyncio.start_server(end, LOOPBACK, 0, ssl=context)


async def certificate_at(server, ca):
    port = server.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection(LOOPBACK, port, ssl=trusting(ca))
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found


async def test_a_changed_certificate_is_served_to_who_comes_next(tmp_path, monkeypatch):
    monkeypatch.setattr(certs, "LOOK_S", 0.01)
    ca, context = an_authority(), server_context()
    files = GivenFiles(*write_leaf(tmp_path, ca), context)
    files.load()
    server = await served_by(context)
    watching = asyncio.create_task(files.watch())
    async with server:
        first = await certificate_at(server, ca)
        write_leaf(tmp_path, ca)
        async with asyncio.timeout(10):
            while await certificate_at(server, ca) == first:
                await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert watching.cancelled()


async def test_half_a_change_is_none(tmp_path, monkeypatch, caplog):
    """Certificate and key are two files: between the two writes they do not fit."""
    monkeypatch.setattr(certs, "LOOK_S", 0.01)
    ca, context = an_authority(), server_context()
    certificate, key = write_leaf(tmp_path, ca)
    files = GivenFiles(certificate, key, context)
    files.load()
    (tmp_path / "other").mkdir()
    other, _ = write_leaf(tmp_path / "other", ca)
    certificate.write_bytes(other.read_bytes())
    server = await served_by(context)
    watching = asyncio.create_task(files.watch())
    async with server, asyncio.timeout(10):
        while "certificate_not_reloaded" not in [record.message for record in caplog.records]:
            await asyncio.sleep(0.01)
        assert await certificate_at(server, ca)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused_by_its_files(tmp_path, content):
    certificate, key = write_leaf(tmp_path, an_authority())
    certificate.write_bytes(content)
    with pytest.raises(ValueError, match=r"tls.crt and .*tls.key are no certificate and its key"):
        GivenFiles(certificate, key, server_context()).load()


def test_a_key_of_another_certificate_is_refused(tmp_path):
    ca = an_authority()
    (tmp_path / "other").mkdir()
    certificate, _ = write_leaf(tmp_path, ca)
    _, key = write_leaf(tmp_path / "other", ca)
    with pytest.raises(ValueError, match="are no certificate and its key"):
        GivenFiles(certificate, key, server_context()).load()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        GivenFiles(tmp_path / "absent", tmp_path / "absent", server_context()).load()


def test_the_context_begins_at_tls_1_2():
    assert server_context().minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_certificate_that_has_ended_is_no_readiness(tmp_path):
    files = GivenFiles(*write_leaf(tmp_path, an_authority()), server_context())
    files.load()
    assert files.why_not_ready(files.ends - 1) == []
    assert "has ended" in files.why_not_ready(files.ends)[0]


def test_before_there_is_a_certificate_nothing_is_ready(tmp_path):
    assert GivenFiles(tmp_path / "a", tmp_path / "b", server_context()).why_not_ready(0)
