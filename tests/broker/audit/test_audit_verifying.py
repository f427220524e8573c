"""Every edit of an audit log that SECURITY.md says is found is found, at its place; and what cannot be found is said."""

import io
import random
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.audit_logs import KEY, Files, a_line, in_order, judge, live, made_up, places, rotated_log, verify

from broker.audit import Head, Rotation, Start, Stop
from broker.audit.lines import Chain, link_of
from broker.audit.verdict import Noted, noted
from broker.audit.verifying import FAULTS_KEPT, KeyNeeded, Verifier
from broker.measures import Kept

EDITS = 1_000
Place = tuple[str, int]


@pytest.fixture(scope="module", params=[None, KEY], ids=["without a key", "with a key"])
def key(request):
    return request.param


@pytest.fixture(scope="module")
def log(tmp_path_factory, key) -> Files:
    return rotated_log(tmp_path_factory.mktemp("log"), key)


def lines_in(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def last_head(files: Files) -> Noted:
    link = link_of(lines_in(list(files.values())[-1])[-1])
    assert link
    return Noted(link.hash, link.seq)


def flip(files: Files, dice: random.Random) -> set[Place]:
    name = dice.choice(list(files))
    at = dice.randrange(len(files[name]))
    other = dice.choice([byte for byte in range(256) if byte != files[name][at]])
    line = files[name][:at].count(b"\n") + 1
    files[name] = files[name][:at] + bytes((other,)) + files[name][at + 1 :]
    return {(name, line)}


def drop(files: Files, dice: random.Random) -> set[Place]:
    """Any line but the last of all: that is a cut end, which only a noted head shows. It is missed at the next line of its chain, and a
    half line has no chain.
    """
    names = list(files)
    name = dice.choice(names)
    lines = lines_in(files[name])
    at = dice.randrange(len(lines) - (name == names[-1]))
    files[name] = b"".join(lines[:at] + lines[at + 1 :])
    return {(name, at + 1), (name, at + 2)} if at + 1 < len(lines) else {(names[names.index(name) + 1], 1)}


def swap(files: Files, dice: random.Random) -> set[Place]:
    name = dice.choice(list(files))
    lines = lines_in(files[name])
    one, other = sorted(dice.sample(range(len(lines)), 2))
    lines[one], lines[other] = lines[other], lines[one]
    files[name] = b"".join(lines)
    return {(name, one + 1), (name, other + 1)}


def repeat(files: Files, dice: random.Random) -> set[Place]:
    """A line of any file once more, anywhere."""
    source, name = dice.choice(list(files)), dice.choice(list(files))
    line, lines = dice.choice(lines_in(files[source])), lines_in(files[name])
    at = dice.randrange(len(lines) + 1)
    files[name] = b"".join([*lines[:at], line, *lines[at:]])
    return {(name, at), (name, at + 1), (name, at + 2)}


def insert(files: Files, dice: random.Random) -> set[Place]:
    name = dice.choice(list(files))
    lines = lines_in(files[name])
    at = dice.randrange(len(lines) + 1)
    made = dice.choice([b"\n", b"{}\n", b"hello\n", lines[dice.randrange(len(lines))].replace(b'"seq":', b'"seq":1'), b"\xff\x00\n"])
    files[name] = b"".join([*lines[:at], made, *lines[at:]])
    return {(name, at), (name, at + 1)}


def shorten(files: Files, dice: random.Random) -> set[Place]:
    name = dice.choice(list(files))
    lines = lines_in(files[name])
    at = dice.randrange(len(lines))
    lines[at] = lines[at][: dice.randrange(len(lines[at]) - 1)] + b"\n"
    files[name] = b"".join(lines)
    return {(name, at + 1)}


def cut(files: Files, dice: random.Random) -> set[Place]:
    """The end of a file, in the middle of a line; of the last file as well."""
    name = dice.choice(list(files))
    lines = lines_in(files[name])
    at = dice.randrange(len(lines))
    files[name] = b"".join(lines[:at]) + lines[at][: dice.randrange(1, len(lines[at]))]
    return {(name, at + 1)}


def remove_file(files: Files, dice: random.Random) -> set[Place]:
    """Any but the last."""
    names = list(files)
    at = dice.randrange(len(names) - 1)
    del files[names[at]]
    return {(names[at + 1], 1)}


def replace_rest_of_a_line(files: Files, dice: random.Random) -> set[Place]:
    """Somebody changes a figure, and ties that line anew without the key; not the ones after it."""
    names = list(files)
    name = dice.choice(names[:-1])
    lines = lines_in(files[name])
    at = dice.choice([at for at, line in enumerate(lines) if b'"kind":"exchange"' in line and link_of(line)])
    link = link_of(lines[at])
    assert link
    tied = Chain(Head(link.chain, link.seq - 1, link.prev), None)
    lines[at] = tied.tie(a_line(9, status=403))
    files[name] = b"".join(lines)
    after = {(name, at + 2), (name, at + 3)} if at + 1 < len(lines) else {(names[names.index(name) + 1], 1)}
    return {(name, at + 1), *after}


KINDS = (flip, flip, drop, swap, repeat, insert, shorten, cut, remove_file, replace_rest_of_a_line)


def test_an_untouched_log_shows_no_fault_in_whatever_order_its_files_come(log, key):
    assert len(log) == 4
    for files in (log, dict(reversed(log.items()))):
        verdict = judge(files, key)
        assert (verdict.faults, len(verdict.heads), verdict.firsts) == ((), 1, (1,))


def test_each_of_a_thousand_random_edits_is_found_at_its_place(log, key):
    assert places(judge(log, key)) == set()
    missed = []
    for seed in range(EDITS):
        dice, files = random.Random(seed), dict(log)  # noqa: S311  dice, no secret
        edit = KINDS[seed % len(KINDS)]
        expected = edit(files, dice)
        found = places(judge(files, key))
        if files != log and not found & expected:
            missed.append((seed, edit.__name__, sorted(expected), sorted(found)))
    assert missed == []


def test_one_altered_line_is_one_fault_wherever_it_stands(log, key):
    for name, content in log.items():
        lines = lines_in(content)
        for at, line in enumerate(lines):
            altered = line.replace(b"2026-", b"2025-", 1)
            if altered != line and link_of(line):
                verdict = judge({**log, name: b"".join([*lines[:at], altered, *lines[at + 1 :]])}, key)
                assert [(fault.file, fault.line) for fault in verdict.faults] == [(name, at + 1)]


def test_lines_that_were_cut_off_at_the_end_show_against_a_noted_head_alone(log, key):
    head, names = last_head(log), list(log)
    for cut_off in range(1, len(lines_in(log[names[-1]]))):
        files = {**log, names[-1]: b"".join(lines_in(log[names[-1]])[:-cut_off])}
        without = judge(files, key)
        assert without.faults == ()
        assert "cut off at the end" in without.blind[0]
        (fault,) = judge(files, key, (head,)).faults
        assert (fault.file, "cut off: the chain ends with seq" in fault.what) == (names[-1], True)


def test_the_last_file_of_all_is_missed_against_a_noted_head_alone(log, key):
    files = dict(list(log.items())[:-1])
    assert judge(files, key).faults == ()
    assert [fault.file for fault in judge(files, key, (last_head(log),)).faults] == [list(files)[-1]]


def test_a_log_written_anew_to_its_end_is_found_with_a_key_or_a_noted_head_and_else_said_to_be_out_of_sight(log, key):
    head, name = last_head(log), list(log)[-1]
    for at in range(1, len(lines_in(log[name])) - 1):
        lines = lines_in(log[name])
        link = link_of(lines[at])
        assert link
        forged = Chain(Head(link.chain, link.seq - 1, link.prev), None)
        files = {**log, name: b"".join([*lines[:at], *(forged.tie(a_line(n, status=403)) for n in range(len(lines) - at))])}
        plain = judge(files, key)
        if key:
            assert (name, at + 1) in places(plain)
        else:
            assert plain.faults == ()
            assert any("written anew" in what for what in plain.blind)
        assert (name, len(lines)) in places(judge(files, key, (head,)))


def test_a_noted_head_of_thirteen_digits_vouches_as_well(log, key):
    head = last_head(log)
    verdict = judge(log, key, (Noted(head.hash[:13], head.seq),))
    assert (verdict.faults, verdict.vouched) == ((), (head.seq,))
    assert "cut off after the noted head" in verdict.blind[0]


def test_a_noted_head_that_no_chain_reaches_is_said_of_several_chains(log, key):
    files = {**log, "other": live_chain(key)}
    verdict = judge(files, key, (Noted("0" * 13, 10**6),))
    assert any(fault.line == 0 and "no chain has the noted head" in fault.what for fault in verdict.faults)


def test_a_chain_that_somebody_made_up_is_found_with_a_key(log, key):
    files = {**log, "made-up": live_chain(None)}
    assert any(fault.file == "made-up" for fault in judge(files, key).faults) == bool(key)


def live_chain(key):
    tied = Chain(Head("0badcafe", 0, ""), key)
    return tied.tie(Start(time=a_line().time, version="0", keyed=bool(key))) + tied.tie(a_line())


def test_a_chain_that_begins_with_no_start_is_found(log, key):
    assert ("made-up", 1) in places(judge({**log, "made-up": made_up("0badcafe", 3, key)}, key))


def test_the_same_file_by_another_name_is_found(log, key):
    name = next(iter(log))
    (fault,) = judge({**log, "copy": log[name]}, key).faults
    assert (fault.file, "lines are repeated" in fault.what) == ("copy", True)


def test_a_file_that_two_names_have_for_a_moment_is_read_once(tmp_path):
    path = tmp_path / "audit.jsonl"
    live(path, 3)
    (tmp_path / "other").hardlink_to(path)
    verdict = verify(str(path), str(tmp_path / "other"))
    assert (verdict.files, verdict.faults) == (1, ())


def discarded_log(folder, key=None) -> Files:
    path = folder / "audit.jsonl"
    live(path, 40, key, Rotation(max_bytes=3_000, kept=Kept(number=3)))
    return in_order(path)


def test_files_that_were_discarded_are_accounted_for_and_the_next_one_is_not(tmp_path, key):
    files = discarded_log(tmp_path, key)
    verdict = judge(files, key)
    assert (verdict.faults, verdict.firsts[0] > 1) == ((), True)
    del files[next(iter(files))]
    (fault,) = judge(files, key).faults
    assert (fault.file, fault.line) == (next(iter(files)), 1)
    assert "no line says that it was discarded" in fault.what


def test_a_noted_head_accounts_for_what_came_before_as_well(log, key):
    names = list(log)
    before = link_of(lines_in(log[names[0]])[-1])
    assert before
    rest = {name: log[name] for name in names[1:]}
    assert judge(rest, key).faults != ()
    assert judge(rest, key, (Noted(before.hash, before.seq),)).faults == ()


def test_a_log_that_was_made_with_a_key_is_not_judged_without_one(tmp_path):
    files = rotated_log(tmp_path, KEY)
    for name, content in files.items():
        with pytest.raises(KeyNeeded, match=f"{name} was made with a key: give it with --key-file"):
            judge({name: content})


def test_another_key_is_no_key(tmp_path):
    live(tmp_path / "audit.jsonl", 3, KEY)
    assert len(verify(str(tmp_path / "audit.jsonl"), keys=(b"another key, of the same length.",)).faults) >= 5


def test_a_key_that_was_changed_at_a_restart_is_given_beside_the_new_one(tmp_path):
    path, other = tmp_path / "audit.jsonl", b"another key, of the same length."
    live(path, 3, KEY)
    live(path, 3, other)
    assert verify(str(path), keys=(other, KEY)).faults == ()
    assert verify(str(path), keys=(other,)).faults != ()


def test_a_log_that_got_its_key_later_is_vouched_for_as_a_whole(tmp_path):
    path = tmp_path / "audit.jsonl"
    live(path, 3)
    live(path, 3, KEY)
    assert verify(str(path), keys=(KEY,)).faults == ()


def test_a_log_that_goes_on_without_its_key_is_found(tmp_path):
    path = tmp_path / "audit.jsonl"
    live(path, 3, KEY)
    live(path, 1)
    assert [(fault.line, fault.what) for fault in verify(str(path), keys=(KEY,)).faults] == [
        (6, "made without the key, after lines that were made with it")
    ]


def test_a_log_that_goes_on_without_its_key_in_the_next_file_is_found(tmp_path):
    path = tmp_path / "audit.jsonl"
    live(path, 1, KEY)
    first = path.read_bytes()
    live(path, 1)
    rest = path.read_bytes()[len(first) :]
    assert [(fault.file, fault.line) for fault in judge({"first": first, "rest": rest}, KEY).faults] == [("rest", 1)]


def test_without_any_line_made_with_the_key_nothing_is_vouched_for(tmp_path):
    path = tmp_path / "audit.jsonl"
    live(path, 3)
    (fault,) = verify(str(path), keys=(KEY,)).faults
    assert "was made with the key" in fault.what


def test_a_whole_last_line_without_its_line_end_is_said_and_the_next_start_mends_it(tmp_path):
    path = tmp_path / "audit.jsonl"
    live(path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    (fault,) = verify(str(path)).faults
    assert (fault.line, "line end is missing" in fault.what) == (4, True)
    live(path, 1)
    verdict = verify(str(path))
    assert (verdict.faults, verdict.lines, len(verdict.heads)) == ((), 7, 1)


def test_the_half_line_that_a_start_names_must_be_there(tmp_path):
    path = tmp_path / "audit.jsonl"
    live(path, 2, killed=b"half")
    live(path, 0)
    lines = lines_in(path.read_bytes())
    assert lines[3] == b"half\n"
    (fault,) = judge({"f": b"".join(lines[:3] + lines[4:])}).faults
    assert (fault.line, "half line before it" in fault.what) == (4, True)


@pytest.mark.parametrize("text", ["", "@1", "abc@1", f"{'0' * 13}@0", f"{'0' * 13}@-1", f"{'0' * 65}@1", f"{'g' * 13}@1", f"{'0' * 13}"])
def test_what_is_no_head_is_refused(text):
    with pytest.raises(ValueError, match="is not HASH@SEQ"):
        noted(text)


def test_a_head_is_read_as_it_is_printed():
    assert noted(str(Head("c", 7, "a" * 64))) == Noted("a" * 64, 7)


def test_a_line_longer_than_any_of_ours_is_a_fault_and_costs_no_memory(tmp_path):
    path = tmp_path / "audit.jsonl"
    live(path, 1)
    with path.open("ab") as file:
        for _ in range(20):
            file.write(b"x" * (1 << 20))
        file.write(b"\n")
    tracemalloc.start()
    faults = verify(str(path)).faults
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [fault.line for fault in faults] == [4]
    assert most < 8 << 20


def test_memory_does_not_grow_with_the_number_of_lines():
    def peak(lines: int) -> int:
        content = live_chain(None)
        link = link_of(lines_in(content)[-1])
        assert link
        content += made_up("", lines, head=link.head())
        verifier = Verifier()
        tracemalloc.start()
        verifier.read("f", io.BytesIO(content))
        assert verifier.verdict().faults == ()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(4_000) < 2 * peak(400)


def test_of_very_many_faults_the_first_are_named_and_the_others_counted():
    verdict = judge({"f": b"?\n" * (FAULTS_KEPT + 5)})
    assert (len(verdict.faults), verdict.left_out) == (FAULTS_KEPT, 5)


def test_more_chains_than_a_log_has_are_a_fault_and_not_kept(monkeypatch):
    monkeypatch.setattr("broker.audit.verifying.CHAINS_MAX", 3)
    content = b"".join(Chain(Head(f"{number:08x}", 0, ""), None).tie(Stop(time=a_line().time)) for number in range(6))
    verdict = judge({"f": content})
    assert len(verdict.heads) == 3
    assert any("this is not one log" in fault.what for fault in verdict.faults)


def test_chains_of_several_brokers_in_one_file_are_each_their_own():
    one = live_chain(None)
    mine = Chain(Head("00000001", 0, ""), None)
    lines = [*lines_in(one), mine.tie(Start(time=a_line().time, version="0", keyed=False)), mine.tie(a_line())]
    verdict = judge({"f": lines[0] + lines[2] + lines[1] + lines[3]})
    assert (verdict.faults, [head.seq for head in verdict.heads]) == ((), [2, 2])


@given(st.binary(max_size=300))
def test_no_bytes_crash_it(content):
    judge({"f": content})
    judge({"f": content}, KEY)


@given(st.dictionaries(st.sampled_from(["chain", "seq", "prev", "hash", "kind", "time"]), st.one_of(st.text(), st.integers(), st.none())))
def test_no_json_crashes_it(record):
    assert judge({"f": msgspec.json.encode(record) + b"\n"}).faults != ()
