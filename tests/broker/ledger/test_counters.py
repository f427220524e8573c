"""The copy of the counters table says what the table says, and writes what it was told."""

import pytest
from support.clock import Clock

from broker.grant import Unit
from broker.ledger.counters import Counters
from broker.ledger.database import Database
from broker.ledger.holds import Charge

CHARGE = Charge("{ns}/hourly", "2026-11-17T12", 3600.0, Unit.TOTAL_TOKENS, 200)


@pytest.fixture
def database(tmp_path):
    opened = Database.open(tmp_path / "quota.db", Clock(), busy_s=1)
    yield opened
    opened.close()


def table(database):
    return database.execute("SELECT counter, label, ends_at, used FROM counters").fetchall()


def test_what_is_taken_and_changed_counts_at_once_and_is_in_the_table_when_written(database):
    counters = Counters(database)
    counters.take(CHARGE)
    counters.take(CHARGE)
    counters.change(CHARGE, -50)
    assert counters.used(CHARGE.counter, CHARGE.window) == 350
    assert table(database) == []
    counters.write()
    assert table(database) == [(CHARGE.counter, CHARGE.window, 3600.0, 350)]


def test_a_second_copy_goes_on_from_what_the_first_has_written(database):
    first, second = Counters(database), Counters(database)
    first.take(CHARGE)
    first.write()
    second.take(CHARGE)
    second.write()
    assert table(database)[0][3] == 400


def test_a_change_of_a_window_that_is_not_there_makes_none(database):
    counters = Counters(database)
    counters.change(CHARGE, -50)
    counters.write()
    assert table(database) == []
    assert counters.used(CHARGE.counter, CHARGE.window) == 0


def test_forgetting_drops_what_was_not_written_and_reads_the_table_anew(database):
    counters = Counters(database)
    counters.take(CHARGE)
    counters.write()
    counters.take(CHARGE)
    counters.forget()
    counters.write()
    assert counters.used(CHARGE.counter, CHARGE.window) == 200
    database.execute("UPDATE counters SET used = 7")
    assert counters.used(CHARGE.counter, CHARGE.window) == 200
    counters.forget()
    assert counters.used(CHARGE.counter, CHARGE.window) == 7
