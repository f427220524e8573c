"""Which address comes first: in turn, and those that failed of late last."""

import asyncio
import socket

import pytest
from support.clock import Clock

from broker.config import Address
from broker.http1 import places
from broker.http1.places import FIRST_REST_S, LONGEST_REST_S, Places, hear_silence

A, B, C = (Address(f"10.0.0.{number}", 8443) for number in (1, 2, 3))


async def firsts(made: Places, count: int) -> list[Address]:
    return [(await made.in_turn())[0] for _ in range(count)]


async def test_addresses_take_turns():
    made = Places((A, B, C))
    assert sorted(map(str, await firsts(made, 3))) == sorted(map(str, (A, B, C)))
    assert set(await made.in_turn()) == {A, B, C}


async def test_one_that_failed_comes_last_and_returns_after_its_rest():
    clock = Clock()
    made = Places((A, B), clock)
    made.failed(A)
    assert await firsts(made, 4) == [B] * 4
    assert (await made.in_turn()) == [B, A]  # but it does come
    clock.now += FIRST_REST_S
    assert set(await firsts(made, 2)) == {A, B}


async def test_rests_grow_to_a_bound_and_count_one_failure_once():
    clock = Clock()
    made = Places((A, B), clock)
    slept = []
    for _ in range(7):
        began = clock.now
        for _ in range(5):  # as many requests as met it
            made.failed(A)
        while made.rests(A):
            clock.now += 1
        slept.append(clock.now - began)
    assert slept == [10, 20, 40, 80, 160, 160, 160]
    assert max(slept) == LONGEST_REST_S


async def test_one_that_works_has_its_rests_forgotten():
    clock = Clock()
    made = Places((A,), clock)
    made.failed(A)
    clock.now += FIRST_REST_S
    made.worked(A)
    made.failed(A)
    clock.now += FIRST_REST_S
    assert not made.rests(A)


async def test_all_addresses_of_a_name_count(monkeypatch):
    async def getaddrinfo(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.9.0.{n}", port)) for n in (1, 2)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert set(await Places((Address("broker", 1), A)).in_turn()) == {Address("10.9.0.1", 1), Address("10.9.0.2", 1), A}


async def test_a_name_that_cannot_be_resolved_leaves_the_others(monkeypatch):
    async def getaddrinfo(host, port, **_):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await Places((Address("broker", 1), A)).in_turn() == [A]
    with pytest.raises(socket.gaierror):
        await Places((Address("broker", 1),)).in_turn()


async def test_a_resolver_that_is_silent_is_a_name_without_an_address(monkeypatch):
    async def getaddrinfo(host, port, **_):
        await asyncio.Event().wait()

    monkeypatch.setattr(places, "RESOLVE_S", 0.01)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror):
        await Places((Address("broker", 1),)).in_turn()


async def test_an_ip_address_is_never_looked_up(monkeypatch):
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", None)
    assert len(await Places((A, Address("::1", 1))).in_turn()) == 2


async def test_what_is_remembered_is_bounded():
    made = Places(())
    for port in range(1000):
        made.failed(Address("10.0.0.1", port))
    assert sum(made.rests(Address("10.0.0.1", port)) for port in range(1000)) <= places.RESTING


def test_a_socket_is_told_when_to_give_up():
    with socket.socket() as sock:
        hear_silence(sock, 30)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3


def test_a_system_without_an_option_is_left_as_it_is(monkeypatch):
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    with socket.socket() as sock:
        hear_silence(sock, 30)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
