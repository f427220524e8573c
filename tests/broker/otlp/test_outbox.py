"""The queue before an exporter: whoever puts never waits, what does not fit is counted, and the end is bounded."""

import asyncio
import threading

from broker.otlp.outbox import Exporter, Outbox


class Collector:
    """Keeps its batches; waits where it is told to; fails where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.outcome: bool | Exception = True
        self.stopped = 0

    def export(self, batch):
        self.entered.set()
        assert self.go.wait(10)
        self.batches.append(list(batch))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def stop(self):
        self.stopped += 1


def outbox(exporter, *, size=100, batch=10, delay_s=3600.0):
    return Outbox(Exporter("traces", exporter.export, exporter.stop, lambda: "503"), size=size, batch=batch, delay_s=delay_s)


async def until(true):
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


async def test_a_full_batch_goes_at_once_and_the_rest_waits():
    exporter = Collector()
    box = outbox(exporter)
    for number in range(15):
        box.put(number)
    await until(lambda: box.sent == 10)
    assert exporter.batches == [list(range(10))]
    await box.close(10)
    assert exporter.batches == [list(range(10)), list(range(10, 15))]
    assert (box.sent, box.dropped, exporter.stopped) == (15, 0, 1)


async def test_a_batch_that_is_not_full_goes_after_a_while():
    exporter = Collector()
    box = outbox(exporter, delay_s=0.01)
    box.put(1)
    await until(lambda: box.sent == 1)
    await box.close(10)


async def test_what_does_not_fit_is_dropped_and_counted_and_nobody_waits():
    exporter = Collector()
    exporter.go.clear()
    box = outbox(exporter, size=3, batch=1)
    box.put(0)
    await until(exporter.entered.is_set)
    for number in range(1, 10):
        box.put(number)
    assert box.dropped == 6
    exporter.go.set()
    await box.close(10)
    assert exporter.batches == [[0], [1], [2], [3]]


async def test_a_batch_that_did_not_arrive_is_dropped_and_said_once(caplog):
    exporter = Collector()
    exporter.outcome = False
    box = outbox(exporter, batch=1)
    for number in range(3):
        box.put(number)
    await until(lambda: box.dropped == 3)
    exporter.outcome = True
    box.put(3)
    await box.close(10)
    assert (box.sent, box.dropped) == (1, 3)
    assert [record.message for record in caplog.records if record.message == "otlp_away"] == ["otlp_away"]
    assert caplog.records[0].why == "503"


async def test_an_exporter_with_a_defect_ends_nothing_and_its_words_are_not_repeated(caplog):
    exporter = Collector()
    exporter.outcome = ValueError("header value Bearer sk-canary")
    box = outbox(exporter, batch=1)
    box.put(1)
    await until(lambda: box.dropped == 1)
    exporter.outcome = True
    box.put(2)
    await box.close(10)
    assert box.sent == 1
    assert [record.why for record in caplog.records if record.message == "otlp_away"] == ["ValueError"]
    assert not any("sk-canary" in str(vars(record)) for record in caplog.records)


async def test_an_exporter_that_hangs_does_not_hold_up_the_end_and_is_told_to_stop():
    exporter = Collector()
    exporter.go.clear()
    box = outbox(exporter, batch=1)
    for number in range(3):
        box.put(number)
    await until(exporter.entered.is_set)
    await box.close(0.01)
    assert exporter.stopped == 1
    assert box.dropped == 2
    exporter.go.set()
    await until(lambda: exporter.batches == [[0]])


async def test_what_comes_after_the_end_is_dropped():
    box = outbox(Collector())
    await box.close(10)
    box.put(1)
    assert box.dropped == 1
