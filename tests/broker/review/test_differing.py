"""What `broker diff` says of an edit, and with which exit code."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.worlds import AGENT, SETTINGS, access, files, routing, secret

from broker.files import Folder
from broker.review.differing import diff
from broker.review.printing import GAINED, OK, WRONG, Output

TEAM = "spiffe://example.org/ns/team1/"
OTHER = f"{TEAM}sa/other"
DAY = "quotas: [{name: day, tokens: 5, per: Day}]"


def grant(subjects: str = f"{{spiffeIDPrefix: '{TEAM}'}}", rest: str = "models: [gpt]", name: str = "access") -> str:
    return access(name, spec=f"{{subjects: [{subjects}], {rest}}}")


def run(tmp_path: Path, old: str, new: str, output: Output = "text", **settings: object) -> tuple[int, str]:
    for name, text in (("old", old), ("new", new)):
        files(tmp_path, {f"{name}/a.yaml": text})
    out = io.StringIO()
    read = [Folder(tmp_path / name, {}).read for name in ("old", "new")]
    code = diff(*read, replace(SETTINGS, **settings), output, out)
    return code, out.getvalue()


def told(tmp_path: Path, old: str, new: str, **settings: object) -> list[tuple[str, bool, str, str, list[str]]]:
    changes = json.loads(run(tmp_path, old, new, "json", **settings)[1])["changes"]
    return [(one["kind"], one["givesMore"], one["class"], one["model"], [str(d["text"]) for d in one["details"]]) for one in changes]


def test_nothing_changes_for_anybody_when_objects_are_renamed_moved_or_said_otherwise(tmp_path: Path):
    old = routing() + grant(f"{{spiffeID: '{AGENT}'}}")
    new = routing("renamed") + grant("{serviceAccount: {name: agent, namespace: team1, trustDomain: example.org}}", name="elsewhere")
    assert run(tmp_path, old, new) == (OK, "no decision changes for anybody\n")


def test_a_new_grant_is_a_gain_and_its_removal_a_loss(tmp_path: Path):
    without, with_it = routing(), routing() + grant()
    assert run(tmp_path, without, with_it) == (
        GAINED,
        f"+ {TEAM}* gains team1/gpt, granted by AIAccessPolicy team1/access\nsomebody gains: 1 gained, 0 lost, 0 changed\n",
    )
    assert run(tmp_path, with_it, without) == (
        OK,
        f"- {TEAM}* loses team1/gpt, was granted by AIAccessPolicy team1/access\nnobody gains: 0 gained, 1 lost, 0 changed\n",
    )


def test_a_grant_to_a_whole_trust_domain_is_said_loudly(tmp_path: Path):
    code, text = run(tmp_path, routing(), routing() + access(spec="{mtls: {trustDomain: partner.org}, models: ['*']}"))
    assert (code, text.splitlines()[0]) == (
        GAINED,
        "+ EVERY identity of trust domain partner.org gains team1/gpt, granted by AIAccessPolicy team1/access",
    )


def test_who_is_denied_is_left_out_of_a_gain_with_the_reason(tmp_path: Path):
    deny = access("stop", spec=f"{{action: Deny, subjects: [{{spiffeIDPrefix: '{TEAM}sa/'}}]}}")
    code, text = run(tmp_path, routing() + deny, routing() + deny + grant())
    assert code == GAINED
    assert text.splitlines()[1] == f"    except {TEAM}sa/*: is refused as before, by AIAccessPolicy team1/stop"


def test_who_had_it_already_is_left_out_of_a_gain(tmp_path: Path):
    own = grant(f"{{spiffeID: '{AGENT}'}}", name="own")
    code, text = run(tmp_path, routing() + own, routing() + own + grant())
    assert (code, text.splitlines()[1]) == (GAINED, f"    except {AGENT}: is granted it as before")


def test_a_deny_that_goes_is_a_gain_and_one_that_comes_is_a_loss(tmp_path: Path):
    granted = routing() + grant()
    denied = granted + access("stop", spec=f"{{action: Deny, subjects: [{{spiffeID: '{AGENT}'}}]}}")
    assert told(tmp_path, denied, granted) == [("gains", True, AGENT, "team1/gpt", [])]
    assert told(tmp_path, granted, denied) == [("loses", False, AGENT, "team1/gpt", [])]
    shadow = denied.replace("action: Deny", "action: Deny, mode: Shadow")
    assert told(tmp_path, denied, shadow)[0][:2] == ("gains", True)
    assert told(tmp_path, granted, shadow) == [("changes", False, AGENT, "team1/gpt", ["a policy in Shadow mode would refuse it"])]


def test_a_deny_of_the_operator_counts_in_every_namespace(tmp_path: Path):
    old = routing() + grant()
    new = old + access("stop", namespace=SETTINGS.namespace, spec="{action: Deny, mtls: {trustDomain: example.org}}")
    assert told(tmp_path, old, new) == [("loses", False, TEAM, "team1/gpt", [])]
    assert told(tmp_path, old, new, namespace="elsewhere") == []


@pytest.mark.parametrize(
    ("old", "new", "more", "text"),
    [
        (DAY, DAY.replace("5", "6"), True, "6 total tokens per day, each identity its own, by AIAccessPolicy team1/access/day; was 5"),
        (DAY.replace("5", "6"), DAY, False, "5 total tokens per day, each identity its own, by AIAccessPolicy team1/access/day; was 6"),
        (DAY, "", True, "a quota less: 5 total tokens per day, each identity its own, by AIAccessPolicy team1/access/day"),
        ("", DAY, False, "a quota more: 5 total tokens per day, each identity its own, by AIAccessPolicy team1/access/day"),
        (DAY, DAY.replace("}]", ", cutOff: true}]"), False, "was 5"),
        (DAY.replace("}]", ", strict: true}]"), DAY, True, "was 5 [strict]"),
        ("", "features: [Storage]", True, "feature Storage is granted"),
        ("features: [Storage]", "", False, "feature Storage is not granted any more"),
        ("", "maxStreamDuration: 2h", True, "an exchange may take 7200 s, was 3600 s"),
        ("maxStreamDuration: 2h", "", False, "an exchange may take 3600 s, was 7200 s"),
    ],
)
def test_what_a_policy_adds_or_takes_is_more_or_less(tmp_path: Path, old: str, new: str, *, more: bool, text: str):
    worlds = [routing() + grant(rest=f"models: [gpt], {rest}" if rest else "models: [gpt]") for rest in (old, new)]
    (change,) = told(tmp_path, *worlds)
    assert change[:4] == ("changes", more, TEAM, "team1/gpt")
    assert change[4][0].endswith(text)
    assert run(tmp_path, *worlds)[0] == (GAINED if more else OK)


def test_a_quota_under_another_name_is_one_less_and_one_more(tmp_path: Path):
    worlds = [routing() + grant(rest=f"models: [gpt], {rest}") for rest in (DAY, DAY.replace("name: day", "name: daily"))]
    (change,) = told(tmp_path, *worlds)
    assert change[1] is True
    assert [text[:12] for text in change[4]] == ["a quota more", "a quota less"]


def test_a_quota_that_becomes_shadow_gives_more_and_a_shadow_quota_nothing(tmp_path: Path):
    limit = access("limit", spec=f"{{action: Limit, {DAY}}}")
    shadow = limit.replace("Limit,", "Limit, mode: Shadow,")
    assert told(tmp_path, routing() + grant() + limit, routing() + grant() + shadow)[0][1] is True
    assert told(tmp_path, routing() + grant() + shadow, routing() + grant())[0][1] is False


def test_an_exception_for_one_identity_is_told_of_that_identity_alone(tmp_path: Path):
    limit = access("limit", spec="{action: Limit, quotas: [{name: day, tokens: 5, per: Day, overridable: true}]}")
    exception = access(
        "exception", spec=f"{{action: Limit, subjects: [{{spiffeID: '{AGENT}'}}], quotas: [{{name: day, tokens: 9, per: Day}}]}}"
    )
    old = routing() + grant() + limit
    (change,) = told(tmp_path, old, old + exception)
    assert change[:4] == ("changes", True, AGENT, "team1/gpt")


def test_a_name_that_leads_elsewhere_is_lost_there_and_gained_here(tmp_path: Path):
    old = routing(namespace="shared") + access(namespace="shared") + access()
    new = old + routing()
    assert [one[:4] for one in told(tmp_path, old, new)] == [
        ("gains", True, AGENT, "team1/gpt"),
        ("loses", False, AGENT, "shared/gpt"),
    ]
    text = run(tmp_path, old, new)[1]
    assert f"- {AGENT} loses shared/gpt (asked for as gpt), was granted by AIAccessPolicy shared/access" in text


def test_service_accounts_whose_own_namespace_takes_a_name_are_a_class_of_their_own(tmp_path: Path):
    old = routing(namespace="shared") + access(namespace="shared", spec=f"{{subjects: [{{spiffeIDPrefix: '{TEAM}'}}], models: ['*']}}")
    assert told(tmp_path, old, old + routing()) == [("loses", False, f"{TEAM}sa/*", "shared/gpt", [])]
    assert told(tmp_path, old, old + routing(), trust_domain="elsewhere.org") == []
    assert "every service account of namespace team1" in run(tmp_path, old, old + routing())[1]


def test_where_prompts_go_is_told_and_is_no_gain(tmp_path: Path):
    old = routing() + grant()
    (change,) = told(tmp_path, old, old.replace("schema: OpenAI}", "schema: OpenAI, endpoint: 'https://elsewhere.test/v1'}"))
    assert change[1:] == (
        False,
        TEAM,
        "team1/gpt",
        [
            "prompts may go to team1/p (https://elsewhere.test/v1), model real",
            "prompts do not go to team1/p (https://api.openai.com/v1), model real any more",
        ],
    )
    (change,) = told(tmp_path, old, old.replace("schema: OpenAI}", "schema: OpenAI, timeouts: {connect: 1s}}"))
    assert change[4] == ["how its providers are asked is different (order, weight, timeouts, headers or failover)"]


def test_another_key_is_told_though_its_secret_is_not_there(tmp_path: Path):
    keyed = "schema: OpenAI, credentials: {type: APIKey, secretRef: {name: SECRET, key: k}}}"
    old, new = (routing().replace("schema: OpenAI}", keyed.replace("SECRET", name)) + grant() for name in ("one", "two"))
    assert "of Secret two), model real" in told(tmp_path, old, new)[0][4][0]
    there = secret("one", data="{k: '${env:NOT_SET}'}", hosts="api.openai.com")
    code, text = run(tmp_path, old + there, old + there)
    assert (code, text) == (OK, "no decision changes for anybody\n")


def test_a_lower_price_lets_a_quota_in_dollars_last_longer(tmp_path: Path):
    priced = routing().replace("model: real}]", "model: real}], price: {inputPerMillionTokens: '2', outputPerMillionTokens: '4'}") + grant()
    cheaper = priced.replace("'4'", "'3'")
    assert told(tmp_path, priced, cheaper)[0][1] is True
    assert told(tmp_path, cheaper, priced)[0][1] is False
    assert "costs 2.00 in, 3.00 out for a million tokens, was 2.00 in, 4.00 out" in run(tmp_path, priced, cheaper)[1]


def test_new_objects_that_are_not_accepted_are_exit_code_1_and_what_they_do_is_told(tmp_path: Path):
    good, bad = routing() + grant(), routing() + grant(rest="models: [gpt], unknown: 1")
    code, text = run(tmp_path, good, bad)
    assert code == WRONG
    assert "new/a.yaml:14:" in text
    assert f"- {TEAM}* loses team1/gpt" in text
    assert run(tmp_path, bad, good)[0] == GAINED
    broken = run(tmp_path, good, bad, "markdown")[1]
    assert broken.startswith("### Access policy review: ⚠️ objects that are not accepted\n\n**To be mended first**\n")


def test_objects_that_cannot_be_read_are_exit_code_1_and_nobody_claims_that_nothing_changed(tmp_path: Path):
    for worlds in ((routing(), "a: ["), ("a: [", routing())):
        code, text = run(tmp_path, *worlds)
        assert (code, "is no YAML" in text, "no decision changes" in text) == (WRONG, True, False)
        assert json.loads(run(tmp_path, *worlds, "json")[1]) | {"errors": 0} == {"errors": 0, "gains": None, "changes": None}


def test_a_comment_for_a_pull_request_has_a_table_of_each_kind(tmp_path: Path):
    old = routing(models=("gpt", "a-b")) + grant(rest=f"models: ['*'], {DAY}")
    new = (
        routing()
        + grant(rest=f"models: [gpt], {DAY.replace('5', '6')}")
        + grant(f"{{spiffeID: '{OTHER}x'}}, {{spiffeIDPrefix: 'spiffe://b.org/'}}", name="b")
    )
    assert run(tmp_path, old, new, "markdown")[1].splitlines() == [
        "### Access policy review: ⚠️ somebody gains: 1 gained, 1 lost, 1 changed",
        "",
        "**Gained**",
        "",
        "| who | model | what |",
        "|---|---|---|",
        "| **EVERY identity of trust domain b.org** | `team1/gpt` | granted by team1/b |",
        "",
        "**Lost**",
        "",
        "| who | model | what |",
        "|---|---|---|",
        f"| `{TEAM}*` | `team1/a-b` | was granted by team1/access |",
        "",
        "**Changed**",
        "",
        "| who | model | what |",
        "|---|---|---|",
        f"| `{TEAM}*` | `team1/gpt` | (more) 6 total tokens per day, each identity its own, by AIAccessPolicy team1/access/day; was 5 |",
    ]


def test_what_somebody_wrote_into_an_object_cannot_write_the_comment(tmp_path: Path):
    wrong = grant(rest="models: [gpt], '](http://x)|`<img>@all': 1")
    comment = run(tmp_path, routing(), routing() + wrong, "markdown")[1]
    assert "<img" not in comment
    assert "@all" not in comment
    assert "\\](http" in comment


def test_many_who_are_left_out_are_counted_for_eyes_and_named_for_programs(tmp_path: Path):
    own = grant(", ".join(f"{{spiffeID: '{TEAM}sa/a{number}'}}" for number in range(12)), name="own")
    code, text = run(tmp_path, routing() + own, routing() + own + grant())
    assert (code, text.count("except"), "except 4 more" in text) == (GAINED, 9, True)
    (change,) = json.loads(run(tmp_path, routing() + own, routing() + own + grant(), "json")[1])["changes"]
    assert len(change["except"]) == 12


def test_a_field_with_a_hostile_name_does_not_steer_a_terminal(tmp_path: Path):
    code, text = run(tmp_path, routing(), routing() + grant(rest='models: [gpt], "a\\e[2J": 1'))
    assert (code, "\x1b" in text, "a\\u001b[2J" in text) == (WRONG, False, True)


def test_a_rejected_object_names_no_trust_domain_that_cannot_be(tmp_path: Path):
    limit = access("limit", spec=f'{{action: Limit, mtls: {{trustDomain: "\\e[2J\\n+ nobody"}}, {DAY}, wrong: 1}}')
    code, text = run(tmp_path, routing() + grant(), routing() + grant() + limit)
    assert (code, text.splitlines()[-1]) == (WRONG, "no decision changes for anybody")
    assert "\x1b" not in text
