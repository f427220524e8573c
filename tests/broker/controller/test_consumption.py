"""What identities used under each policy, from the figures of the store."""

from support.stored_objects import snapshot_of
from support.worlds import access, routing

from broker.controller.consumption import SHOWN, as_time, consumption
from broker.quota import Reading, Tally

NOW = 1_795_262_400.0 + 65  # one minute and five seconds after noon
QUOTAS = "[{name: hourly, tokens: 100, per: Hour}, {name: team, tokens: 900, per: Day, scope: Policy}, {name: width, concurrent: 3}]"
WORLD = snapshot_of(routing(), access(spec=f"{{subjects: [{{spiffeIDPrefix: 'spiffe://example.org/'}}], models: ['*'], quotas: {QUOTAS}}}"))
LIMIT = access("cap", spec="{action: Limit, quotas: [{name: hourly, tokens: 50, per: Hour}]}")
A, B = "spiffe://example.org/a", "spiffe://example.org/ns/x/sa/b"


def tally(
    identity: str, tokens: int = 0, requests: int = 0, denied: int = 0, last_used: float = 0.0, policy: str = "team1/access", cost: int = 0
) -> Tally:
    return Tally(policy, identity, tokens, requests, denied, last_used, cost)


def counter(quota: str, unit: str, per: str, scope: str, policy: str = "access") -> str:
    return f"{{team1}}/AIAccessPolicy/{policy}/{quota}/{unit}/{per}/{scope}"


def test_the_figures_of_a_policy_are_the_sums_of_its_identities():
    found = consumption(WORLD, [tally(A, 10, 1, 0, NOW - 9.5), tally(B, 32, 2, 1, NOW - 4.5), tally(B, 5, policy="team1/other")], [], NOW)
    one = found["team1/access"]
    assert (one.identities, one.tokens, one.requests, one.denied) == (2, 42, 3, 1)
    assert one.last_used == int(NOW - 4.5)
    assert found["team1/other"].tokens == 5


def test_what_was_spent_is_summed_and_said_for_each():
    one = consumption(WORLD, [tally(A, 1, cost=1_250_000), tally(B, 1, cost=7)], [], NOW)["team1/access"]
    assert (one.microusd, [shown.microusd for shown in one.top]) == (1_250_007, [1_250_000, 7])


def test_an_identity_that_was_only_refused_is_seen_and_used_nothing():
    one = consumption(WORLD, [tally(A, denied=3)], [], NOW)["team1/access"]
    assert (one.identities, one.denied, one.last_used) == (1, 3, None)


def test_each_identity_stands_in_each_quota_with_its_end():
    readings = [
        Reading(counter("hourly", "total_tokens", "hour", f"identity/{A}"), 10, 3600 - 65.0),
        Reading(counter("team", "total_tokens", "day", "policy/-"), 42, 43_200 - 65.3),
        Reading(counter("width", "concurrent", "-", f"identity/{A}"), 2, 0.0),
    ]
    one, other = consumption(WORLD, [tally(A, 10), tally(B, 32)], readings, NOW)["team1/access"].top
    assert [(q.name, q.unit, q.used, q.limit, q.resets_at and as_time(q.resets_at)) for q in one.quotas] == [
        ("hourly", "tokens", "10", "100", "2026-11-21T13:00:00Z"),
        ("team", "tokens", "42", "900", "2026-11-22T00:00:00Z"),
        ("width", "concurrent", "2", "3", None),
    ]
    assert [(q.name, q.used) for q in other.quotas] == [("hourly", "0"), ("team", "42"), ("width", "0")]
    assert other.quotas[0].resets_at == one.quotas[0].resets_at


def test_money_is_written_with_a_point_and_what_an_operator_added_is_part_of_the_limit():
    quota = "[{name: money, usd: '5', per: Day}]"
    world = snapshot_of(routing(), access(spec=f"{{subjects: [{{spiffeID: '{A}'}}], models: ['*'], quotas: {quota}}}"))
    reading = Reading(counter("money", "usd", "day", f"identity/{A}"), 1_250_000, 100.0, credit=2_000_000)
    (quota,) = consumption(world, [tally(A)], [reading], NOW)["team1/access"].top[0].quotas
    assert (quota.unit, quota.used, quota.limit) == ("usd", "1.25", "7.00")


def test_the_end_of_a_window_does_not_waver_with_the_time_at_which_one_asks():
    ends = {
        consumption(
            WORLD, [tally(A)], [Reading(counter("hourly", "total_tokens", "hour", f"identity/{A}"), 1, 3535 - passed + slow)], NOW + passed
        )["team1/access"]
        .top[0]
        .quotas[0]
        .resets_at
        for passed in (0.0, 0.4, 10.0, 3000.0)
        for slow in (0.0, 2.0)
    }
    assert len(ends) == 1


def test_only_those_who_used_most_are_shown_and_all_are_counted():
    tallies = [tally(f"spiffe://example.org/{number:03}", tokens=number) for number in range(100)]
    one = consumption(WORLD, tallies, [], NOW)["team1/access"]
    assert one.identities == 100
    assert [shown.identity for shown in one.top] == [f"spiffe://example.org/{number:03}" for number in range(100 - SHOWN, 100)]


def test_whom_a_limit_counts_is_seen_by_its_counters():
    world = snapshot_of(routing(), LIMIT)
    reading = Reading(counter("hourly", "total_tokens", "hour", f"identity/{A}", policy="cap"), 7, 3535)
    one = consumption(world, [], [reading], NOW)["team1/cap"]
    assert [(shown.identity, shown.tokens, shown.quotas[0].used) for shown in one.top] == [(A, 0, "7")]


def test_counters_of_others_and_of_what_is_gone_are_passed_over():
    readings = [
        Reading("{team1}/AIRoutingPolicy/routing/a/b/c/total_tokens/hour/policy/-", 1, 5.0),
        Reading(counter("hourly", "total_tokens", "hour", f"identity/{A}", policy="deleted"), 7, 3535),
        Reading("nonsense", 1, 0.0),
    ]
    assert consumption(WORLD, [], readings, NOW) == {}
