"""The targets under a coverage-guided fuzzer (atheris, which is libFuzzer for Python).

python tests/fuzz/run.py                               every target, half a minute each
python tests/fuzz/run.py --seconds 600 openai_events    one of them, longer
python tests/fuzz/run.py --keep …                      and keep the smallest inputs that reach new code, in corpus/

An input that breaks a promise is written to .state/fuzz/TARGET/, its path printed, and the exit status is 1: mend what it
found, and move it into corpus/TARGET/ under a name that says what it is, where `make test` tries it from then on.
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

STATE: Final = ROOT / ".state" / "fuzz"
CORPUS: Final = ROOT / "tests" / "fuzz" / "corpus"
ONE_INPUT_S: Final = 10  # longer counts as a fault: nothing here is large enough to take a second
MEMORY_MIB: Final = 1024
KEPT_MAX: Final = 60  # inputs a target, those kept by hand included
SPARE_S: Final = 60  # to start, and to write down the last inputs

_RUNS: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVER: Final = re.compile(r"^#\d+\s+(\w+)\s+cov: (\d+) ft: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ran:
    """One target's figures. Covered are edges of our own code, counted after the kept inputs alone and at the end."""

    name: str
    executions: int
    covered_before: int
    covered: int
    broken: tuple[Path, ...]
    failure: str

    def __str__(self) -> str:
        new = self.covered - self.covered_before
        return f"{self.name:<16} {self.executions:>10,} executions  {self.covered:>6,} edges covered, {new:>4,} of them new  {self.verdict}"

    @property
    def verdict(self) -> str:
        return "ok" if not self.failure else f"BROKEN: {', '.join(map(str, self.broken)) or 'see the output above'}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the parsers by what their inputs reach.")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--keep", action="store_true", help="add the smallest inputs that reach new code to tests/fuzz/corpus")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names())}; none = all of them")
    given, rest = parser.parse_known_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write("atheris is not installed: .venv/bin/uv sync --inexact --group fuzz\n")
        return 2
    if given.inside:
        return fuzz(given.targets[0], rest)
    unknown = set(given.targets) - set(names())
    if unknown or rest:
        parser.error(f"no such target: {' '.join([*unknown, *rest])}")
    failed = False
    for name in given.targets or names():
        ran = run(name, given.seconds)
        sys.stdout.write(f"{ran}\n")
        sys.stdout.flush()
        if ran.failure:
            sys.stderr.write(f"{ran.failure}\n")
            failed = True
        elif given.keep:
            keep(name)
    return int(failed)


def names() -> list[str]:
    return sorted(path.name for path in CORPUS.iterdir())


def run(name: str, seconds: int) -> Ran:
    """One target in a process of its own: libFuzzer ends the process that it ran in."""
    work = STATE / name
    shutil.rmtree(work, ignore_errors=True)
    (work / "found").mkdir(parents=True)
    options = [f"-max_total_time={seconds}", f"-timeout={ONE_INPUT_S}", f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={work}/"]
    command = [*inside(name), "-print_final_stats=1", *options, str(work / "found"), str(CORPUS / name)]
    done = subprocess.run(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, timeout=seconds + SPARE_S, check=False)
    said = done.stdout.decode("utf-8", "replace")
    covered = {event: int(edges) for event, edges, _ in _COVER.findall(said)}
    last = max(covered.values(), default=0)
    return Ran(
        name=name,
        executions=int(found[1]) if (found := _RUNS.search(said)) else 0,
        covered_before=covered.get("INITED", last),
        covered=last,
        broken=tuple(sorted(path for path in work.iterdir() if path.is_file() and not path.name.endswith(".dict"))),
        failure=_said_of_failure(said) if done.returncode else "",
    )


def _said_of_failure(said: str) -> str:
    """From the exception on; all of the end where there is none."""
    at = said.find(" === Uncaught Python exception: ===")
    return said[at:] if at >= 0 else said[-2000:]


def inside(name: str) -> list[str]:
    return [sys.executable, __file__, "--inside", name]


def keep(name: str) -> None:
    """Let libFuzzer choose, of all that was found, the smallest inputs that reach code which the kept ones do not."""
    new = STATE / name / "kept"
    new.mkdir()
    for path in (CORPUS / name).iterdir():
        shutil.copy(path, new)
    command = [*inside(name), "-merge=1", "-use_counters=0", str(new), str(STATE / name / "found")]
    subprocess.run(command, capture_output=True, timeout=600, check=True)
    had = {path.name for path in (CORPUS / name).iterdir()}
    added = sorted((path for path in new.iterdir() if path.name not in had), key=lambda path: (path.stat().st_size, path.name))
    for number, path in enumerate(added[: max(0, KEPT_MAX - len(had))]):
        shutil.copy(path, CORPUS / name / f"reached-{len(had) + number:02}-{path.name[:8]}")


def fuzz(name: str, options: Sequence[str]) -> int:
    """In the inner process: watch our code, and feed the target until libFuzzer ends us."""
    import atheris

    with atheris.instrument_imports(include=["broker"]):
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    words = STATE / name / "words.dict"
    words.parent.mkdir(parents=True, exist_ok=True)
    words.write_text("".join(f'"{quoted(word)}"\n' for word in target.words if word))
    again = " ".join(inside(name))  # how libFuzzer starts this program once more, to merge
    atheris.Setup([again, *options, f"-dict={words}", f"-max_len={target.longest_bytes}"], target.check)
    atheris.Fuzz()
    return 0


def quoted(word: str) -> str:
    """As libFuzzer's dictionaries write a word: every byte in hex."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
