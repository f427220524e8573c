"""One certificate for all replicas, its authority in the webhook configurations, and no moment at which an API server refuses either."""

import asyncio
import base64
import contextlib
import copy
import datetime as dt
import functools
import random
from dataclasses import dataclass, field

import pytest
from support import virtual_time

from broker.kube.connection import Away, Refused
from webhook import custody, rotation
from webhook.authority import Pair
from webhook.certs import server_context
from webhook.config import Kept
from webhook.custody import Custody

BEGIN = dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC)
PLACE = Kept("inference-broker", "webhook-tls", "inference-broker", ("webhook.inference-broker.svc",))
SECRET = "/api/v1/namespaces/inference-broker/secrets/webhook-tls"
CONFIGURATIONS = [f"/apis/admissionregistration.k8s.io/v1/{kind}/inference-broker" for kind in custody.KINDS]
DAY_S = 86_400.0
LAG_S = 300.0  # so old may be what an API server knows of the configurations


def configuration(path):
    return {
        "metadata": {"name": "inference-broker", "labels": {"kept": "yes"}},
        "webhooks": [
            {"name": f"one.{path[-9:-5]}", "failurePolicy": "Fail", "clientConfig": {"service": {"name": "webhook", "path": "/mutate"}}},
            {"name": "two", "clientConfig": {"url": "https://127.0.0.1:1", "caBundle": "b2xk"}},
        ],
    }


@dataclass
class Api:
    """An API server's objects, with versions, told what each caller does. `trouble` is raised by who asks next, if it says so."""

    objects: dict = field(default_factory=dict)
    published: list = field(default_factory=list)  # (when, the CAs of each configuration)
    trouble: object = lambda verb, path: None
    chance: random.Random = field(default_factory=random.Random)
    patience_s: float = 0.0
    writes: list = field(default_factory=list)
    version: int = 0

    def put(self, path, fields):
        self.version += 1
        metadata = fields.get("metadata", {}) | {"resourceVersion": str(self.version)}
        self.objects[path] = copy.deepcopy(fields) | {"metadata": metadata}
        self.published.append((asyncio.get_running_loop().time(), [self.trusted(one) for one in CONFIGURATIONS]))
        return self.objects[path]

    def trusted(self, path):
        found = self.objects.get(path)
        return None if found is None else [bundle(one) for one in found["webhooks"]]

    async def _turn(self, verb, path):
        await asyncio.sleep(self.chance.uniform(0, self.patience_s))
        if (trouble := self.trouble(verb, path)) is not None:
            raise trouble

    async def read(self, path):
        await self._turn("get", path)
        return copy.deepcopy(self.objects.get(path))

    async def create(self, collection, fields):
        path = f"{collection}/{fields['metadata']['name']}"
        await self._turn("create", path)
        if path in self.objects:
            raise Refused(409, "already exists")
        self.writes.append(("create", path))
        return self.put(path, fields)

    async def replace(self, path, fields):
        await self._turn("update", path)
        self._unchanged(path, fields)
        self.writes.append(("update", path))
        return self.put(path, fields)

    async def merge(self, path, fields):
        await self._turn("patch", path)
        self._unchanged(path, fields)
        self.writes.append(("patch", path))
        there = self.objects[path]
        return self.put(path, there | fields | {"metadata": there["metadata"] | fields["metadata"]})

    def _unchanged(self, path, fields):
        if path not in self.objects or fields["metadata"]["resourceVersion"] != self.objects[path]["metadata"]["resourceVersion"]:
            raise Refused(409, "the object has been modified")


def bundle(webhook):
    return base64.b64decode(webhook["clientConfig"].get("caBundle", ""))


class Serving:
    """Stands in for the TLS context: whether OpenSSL takes it is asked once, by the real one."""

    def __init__(self):
        self.leaf = None

    def load_cert_chain(self, path):
        with open(path, "rb") as file:  # noqa: PTH123  a file of this process alone
            certificate, begin, key = file.read().partition(b"-----BEGIN PRIVATE KEY-----")
        self.leaf = Pair(certificate, begin + key)


def now():
    return BEGIN + dt.timedelta(seconds=asyncio.get_running_loop().time())


def replica(api, place=PLACE):
    it = Serving()
    return Custody(api, place, it, now), it


def an_api(**more):
    api = Api(**more)
    for path in CONFIGURATIONS:
        api.put(path, configuration(path))
    return api


def held(api):
    return rotation.read(api.objects[SECRET]["data"])


def trusts(texts, leaf):
    return all(is_trusted(text, leaf) for text in texts)


@functools.cache
def is_trusted(text, leaf):
    return any(leaf.signed_by(one) for one in split(text))


def split(text):
    end = b"-----END CERTIFICATE-----\n"
    return [part + end for part in text.split(end) if part.strip()]


async def test_the_first_look_makes_it_publishes_its_authority_and_serves_it():
    api = an_api()
    it, serving = replica(api)
    assert it.why_not_ready(now().timestamp())
    await it.look()
    assert it.why_not_ready(now().timestamp()) == []
    assert serving.leaf == held(api).leaf
    assert serving.leaf.names() == PLACE.names
    assert it.ends == held(api).leaf.ends.timestamp()
    for path in CONFIGURATIONS:
        assert api.trusted(path) == [held(api).authority.certificate] * 2
        assert api.objects[path]["metadata"]["labels"] == {"kept": "yes"}
        assert api.objects[path]["webhooks"][0]["clientConfig"]["service"] == {"name": "webhook", "path": "/mutate"}


async def test_openssl_takes_what_is_served():
    api = an_api()
    context = server_context()
    await Custody(api, PLACE, context, now).look()
    assert held(api).leaf.certificate


async def test_a_second_look_writes_nothing():
    api = an_api()
    it, _ = replica(api)
    await it.look()
    api.writes.clear()
    await it.look()
    await replica(api)[0].look()
    assert api.writes == []


async def test_it_is_served_only_after_its_authority_is_published():
    api = an_api()
    it, serving = replica(api)
    api.trouble = lambda verb, path: Refused(403, "forbidden: the webhook may not patch") if verb == "patch" else None
    with pytest.raises(Refused):
        await it.look()
    assert serving.leaf is None
    assert it.why_not_ready(0)


async def test_a_configuration_that_is_not_there_is_left_out_and_looked_for_again():
    api = an_api()
    lost = api.objects.pop(CONFIGURATIONS[1])
    it, serving = replica(api)
    await it.look()
    assert serving.leaf is not None
    api.put(CONFIGURATIONS[1], lost)
    await it.look()
    assert api.trusted(CONFIGURATIONS[1]) == [held(api).authority.certificate] * 2


async def test_a_configuration_that_somebody_wrote_anew_is_mended():
    api = an_api()
    it, _ = replica(api)
    await it.look()
    api.put(CONFIGURATIONS[0], configuration(CONFIGURATIONS[0]))
    await it.look()
    assert api.trusted(CONFIGURATIONS[0]) == [held(api).authority.certificate] * 2


async def test_a_secret_of_somebody_else_is_left_alone():
    api = an_api()
    api.put(SECRET, {"type": "kubernetes.io/tls", "metadata": {"name": "webhook-tls"}, "data": {"tls.crt": "", "tls.key": ""}})
    it, serving = replica(api)
    with pytest.raises(custody.Unusable, match="is not ours: give another name with --tls-secret"):
        await it.look()
    assert serving.leaf is None
    assert api.writes == []


async def test_where_it_may_not_create_secrets_it_says_which_to_create():
    api = an_api()
    api.trouble = lambda verb, path: Refused(403, "secrets is forbidden") if verb == "create" else None
    it, _ = replica(api)
    with pytest.raises(
        custody.Unusable, match=r"no Secret inference-broker/webhook-tls: create it, of type aiaccess.dev/webhook-authority"
    ):
        await it.look()


@pytest.mark.parametrize("data", [{}, {"data": {"tls.crt": "", "tls.key": ""}}], ids=["no-data", "empty-as-the-chart-makes-it"])
async def test_an_empty_secret_of_ours_is_filled_and_no_cause_for_a_warning(data, caplog):
    api = an_api()
    api.put(SECRET, {"type": custody.SECRET_TYPE, "metadata": {"name": "webhook-tls", "labels": {"kept": "yes"}}} | data)
    it, serving = replica(api)
    await it.look()
    assert serving.leaf == held(api).leaf
    assert api.objects[SECRET]["metadata"]["labels"] == {"kept": "yes"}
    assert "secret_unreadable" not in caplog.messages


@pytest.mark.parametrize("lose", ["deleted", "spoilt"])
async def test_a_secret_that_is_lost_comes_back_with_a_successor_and_nobody_is_refused(lose):
    api = an_api()
    (one, serving), (two, other) = replica(api), replica(api)
    await one.look()
    await two.look()
    before = held(api)
    if lose == "deleted":
        del api.objects[SECRET]
    else:
        api.put(SECRET, api.objects[SECRET] | {"data": {"tls.crt": "!"}})
    await one.look()
    await two.look()
    assert held(api).authority == before.authority
    assert held(api).next is not None
    assert serving.leaf == other.leaf == before.leaf
    assert all(held(api).next.certificate in text for text in api.trusted(CONFIGURATIONS[0]))


async def test_two_that_begin_at_once_share_one_authority():
    for seed in range(8):
        api = an_api(chance=random.Random(seed), patience_s=0.002)  # noqa: S311  the same again for the same seed
        (one, serving), (two, other) = replica(api), replica(api)
        watching = [asyncio.create_task(each.watch(0.01)) for each in (one, two)]
        async with asyncio.timeout(30):
            while one.why_not_ready(now().timestamp()) or two.why_not_ready(now().timestamp()):
                await asyncio.sleep(0.001)
        await ended(watching)
        assert serving.leaf.signed_by(held(api).authority.certificate)
        assert other.leaf.signed_by(held(api).authority.certificate)
        assert [verb for verb, path in api.writes if path == SECRET] == ["create"]


async def ended(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("seed", range(4))
def test_through_two_hundred_days_every_api_server_believes_every_replica_at_every_moment(seed):
    """Two replicas that look every six hours, an API server that is away now and then and knows the configurations of five minutes ago."""
    chance = random.Random(seed)  # noqa: S311  the same again for the same seed

    async def scenario():
        loop = asyncio.get_running_loop()
        away_until = 0.0

        def trouble(verb, path):
            nonlocal away_until
            if loop.time() < away_until:
                return Away("no answer")
            if chance.random() < 0.02:
                away_until = loop.time() + chance.uniform(0, DAY_S)
            return None

        api = an_api(chance=chance, patience_s=30.0)
        replicas = [replica(api) for _ in range(2)]
        tasks = [asyncio.create_task(each.watch(6 * 3600.0)) for each, _ in replicas]
        while not all(serving.leaf for _, serving in replicas):
            await asyncio.sleep(1)
        await asyncio.sleep(LAG_S)
        api.trouble = trouble
        authorities, begin = set(), loop.time()
        while loop.time() < begin + 200 * DAY_S:
            await asyncio.sleep(chance.uniform(0, 6 * 3600))
            pictures = known(api, loop.time())
            for each, serving in replicas:
                assert each.why_not_ready(now().timestamp()) == []
                assert serving.leaf.begins <= now() < serving.leaf.ends
                assert all(trusts(texts, serving.leaf) for picture in pictures for texts in picture)
            authorities.add(held(api).authority.certificate)
        await ended(tasks)
        return len(authorities)

    assert virtual_time.run(scenario()) == 4


@pytest.mark.parametrize("seed", range(4))
def test_in_the_hour_of_a_rotation_every_api_server_believes_every_replica_at_every_second(seed):
    chance = random.Random(seed)  # noqa: S311  the same again for the same seed

    async def scenario():
        api = an_api(chance=chance)
        loop = asyncio.get_running_loop()
        await replica(api)[0].look()
        await asyncio.sleep(59 * DAY_S)
        await replica(api)[0].look()  # the certificate is renewed, the authority is not
        await asyncio.sleep(DAY_S - LAG_S)
        api.patience_s = 3.0
        replicas = [replica(api) for _ in range(3)]
        tasks = [asyncio.create_task(each.watch()) for each, _ in replicas]
        before = held(api).authority
        while loop.time() < 60 * DAY_S + 3600:
            await asyncio.sleep(1)
            leaves = [serving.leaf for _, serving in replicas if serving.leaf]
            pictures = known(api, loop.time())
            assert all(trusts(texts, leaf) for leaf in leaves for picture in pictures for texts in picture)
        assert [serving.leaf for _, serving in replicas] == [held(api).leaf] * 3
        assert held(api).leaf.signed_by(held(api).authority.certificate)
        assert held(api).authority != before
        await ended(tasks)

    virtual_time.run(scenario())


def known(api, now_s):
    """What an API server may know: the configurations now, and as they were up to five minutes ago."""
    while len(api.published) > 1 and api.published[1][0] <= now_s - LAG_S:
        api.published.pop(0)
    return [picture for _, picture in api.published]


def test_a_replica_that_sleeps_through_a_whole_rotation_is_believed_until_what_it_serves_ends():
    async def scenario():
        api = an_api()
        (awake, _), (asleep, serving) = replica(api), replica(api)
        loop = asyncio.get_running_loop()
        await awake.look()
        for _ in range(60 * 6):
            await asyncio.sleep(DAY_S / 6)
            await awake.look()
        await asleep.look()
        ends = serving.leaf.ends
        while now() + dt.timedelta(hours=1) < ends:
            await asyncio.sleep(DAY_S / 24)
            await awake.look()
            assert all(trusts(api.trusted(path), serving.leaf) for path in CONFIGURATIONS)
        assert not serving.leaf.signed_by(held(api).authority.certificate)
        return loop.time()

    assert virtual_time.run(scenario()) > 60 * DAY_S


def test_a_successor_that_could_not_be_published_signs_nothing_until_every_api_server_knows_it():
    async def scenario():
        api = an_api()
        loop = asyncio.get_running_loop()
        it, serving = replica(api)
        await it.look()
        api.trouble = lambda verb, path: Away("no answer") if verb == "patch" else None
        while held(api).next is None:
            await asyncio.sleep(DAY_S)
            with contextlib.suppress(Away):
                await it.look()
        await asyncio.sleep(DAY_S)
        api.trouble = lambda verb, path: None
        await it.look()
        assert all(trusts(texts, serving.leaf) for picture in known(api, loop.time()) for texts in picture)

    virtual_time.run(scenario())


def test_what_goes_wrong_is_said_once_tried_again_soon_and_forgotten_when_it_is_over(caplog):
    async def scenario():
        api = an_api()
        api.trouble = lambda verb, path: Away("connection refused")
        it, serving = replica(api)
        task = asyncio.create_task(it.watch())
        await asyncio.sleep(60)
        assert it.why_not_ready(now().timestamp()) == ["there is no serving certificate yet: connection refused"]
        api.trouble = lambda verb, path: None
        await asyncio.sleep(1)
        assert serving.leaf is not None
        assert it.why_not_ready(now().timestamp()) == []
        await ended([task])

    virtual_time.run(scenario())
    assert [record.message for record in caplog.records].count("certificate_not_looked_after") == 1


def test_a_certificate_that_could_not_be_renewed_is_no_readiness():
    async def scenario():
        api = an_api()
        it, serving = replica(api)
        task = asyncio.create_task(it.watch(3600.0))
        await asyncio.sleep(1)
        api.trouble = lambda verb, path: Refused(403, "forbidden")
        await asyncio.sleep(8 * DAY_S)
        assert it.why_not_ready(now().timestamp()) == ["the serving certificate has ended: forbidden"]
        api.trouble = lambda verb, path: None
        await asyncio.sleep(3600.0)
        assert it.why_not_ready(now().timestamp()) == []
        assert serving.leaf == held(api).leaf
        await ended([task])

    virtual_time.run(scenario())


async def test_no_key_is_in_the_log(caplog):
    api = an_api()
    it, _ = replica(api)
    with caplog.at_level("DEBUG"):
        await it.look()
    assert caplog.records
    assert all("PRIVATE" not in repr(record.__dict__) for record in caplog.records)
