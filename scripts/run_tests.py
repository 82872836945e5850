#!/usr/bin/python3
"""run_tests.py: every test of the project, and one closing line (make test, make asan, make tsan).

    scripts/run_tests.py [--build build] [--only tidy,unit,examples,e2e] [--skip-tidy] [--list] [-- PYTEST ARGUMENTS]

Runners, in this order:
    tidy      the tree's own checks (scripts/tidy.py), each one a case, and the proof that each check can fail
    unit      the GoogleTest programs that meson knows in the build folder, in four parts side by side
    examples  the example files of packaging/: the programs accept them, with every line that is commented out, too
    e2e       pytest over tests/e2e, with the programs of the build folder

Every failure is printed again at the end. The last line is `N passed, N failed`, with `, N skipped` when some were.
The exit code is 0 only when nothing failed and every chosen runner ran something. A program that crashes or hangs
counts as one failure more than it reported. Environment: NATRP_E2E_GIB, NATRP_E2E_PATIENCE (see tests/e2e/net.py).
"""

import argparse
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"
RUNNERS = ("tidy", "unit", "examples", "e2e")
# A hung program ends the run with a sentence instead of holding it for ever.
UNIT_SECONDS_MAX = 600
UNIT_SHARDS = 4  # on however many CPUs: a test mostly waits
E2E_SECONDS_MAX = 3000
TIDY_SECONDS_MAX = 120
LAST_LINES = 60
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


class NotBuilt(Exception):
    """There is nothing to run; the text says why."""


class Tally:
    """What one runner's cases came to."""

    def __init__(self):
        self.passed = 0
        self.skipped = 0
        self.failures = []  # (name, text)

    @property
    def ran(self):
        return self.passed + len(self.failures)

    def add(self, other):
        self.passed += other.passed
        self.skipped += other.skipped
        self.failures += other.failures

    def closing_line(self):
        line = f"{self.passed} passed, {len(self.failures)} failed"
        return line + (f", {self.skipped} skipped" if self.skipped else "")


def run(argv, seconds, echo, env=None, cwd=ROOT):
    """(exit code or None when it ran out of time, its output). The whole process group is ended on a time-out."""
    said = []
    with tempfile.TemporaryFile("w+b") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=None if echo else output,
                                   stderr=None if echo else subprocess.STDOUT, env=env, cwd=cwd,
                                   start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if not echo:
            output.seek(0)
            said = output.read().decode("utf-8", "replace").splitlines()
    return code, said


def how_it_ended(code, seconds):
    if code is None:
        return f"still running after {seconds} s, ended by force"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def junit_tally(path, prefix):
    """The cases of a JUnit file. A case that failed in its body and again in its teardown is one case."""
    worst = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name = "::".join(filter(None, (prefix, case.get("classname", ""), case.get("name", ""))))
        bad = [child for child in case if child.tag in ("failure", "error")]
        state, text = "passed", ""
        if bad:
            state, text = "failed", "\n".join(child.text or child.get("message", "") for child in bad)
        elif case.find("skipped") is not None:
            state, text = "skipped", case.find("skipped").get("message", "")
        if worst.get(name, ("passed", ""))[0] != "failed":
            worst[name] = (state, text)
    tally = Tally()
    for name, (state, text) in worst.items():
        if state == "failed":
            tally.failures.append((name, text))
        elif state == "skipped":
            tally.skipped += 1
        else:
            tally.passed += 1
    return tally


def judged(tally, prefix, code, seconds, lines):
    """Adds the failure that the cases themselves could not report: a crash, a hang, or nothing at all."""
    if code != 0 and (code is None or code < 0 or not tally.failures):
        tally.failures.append((prefix, f"{how_it_ended(code, seconds)}\n" + "\n".join(lines[-LAST_LINES:])))
    elif tally.ran + tally.skipped == 0:
        tally.failures.append((prefix, "ran no test at all"))
    return tally


def run_tidy(arguments, folder):
    tally = Tally()
    for name, flags in (("tidy", []), ("tidy self-test", ["--self-test"])):
        report = folder / f"{name.replace(' ', '-')}.xml"
        code, lines = run([PYTHON, str(ROOT / "scripts/tidy.py"), *flags, "--junit", str(report)], TIDY_SECONDS_MAX,
                          echo=False)
        part = junit_tally(report, name) if report.exists() else Tally()
        part = judged(part, name, code, TIDY_SECONDS_MAX, lines)
        print(f"{name}: {part.closing_line()}", flush=True)
        tally.add(part)
    return tally


def introspect(build, what):
    done = subprocess.run(["meson", "introspect", f"--{what}", str(build)], capture_output=True, text=True)
    if done.returncode:
        raise NotBuilt(f"{build} is not a build folder of meson: `make build` makes one\n{done.stderr}")
    return json.loads(done.stdout)


def unit_programs(build):
    """{name: (argv, environment, work folder, is a GoogleTest)} of what meson registered as a test, and of the programs
    under tests/ that are named like one and were not registered."""
    found = {}
    for test in introspect(build, "tests"):
        found[test["name"]] = (test["cmd"], test["env"], test["workdir"], test["protocol"] == "gtest")
    known = {os.path.realpath(argv[0]) for argv, *_ in found.values()}
    for target in introspect(build, "targets"):
        for name in target["filename"]:
            program = os.path.realpath(name)
            in_tests = os.path.relpath(program, build).startswith("tests" + os.sep)
            if (target["type"] == "executable" and in_tests and program not in known and
                    target["name"].endswith(("_test", "_tests"))):
                found[target["name"]] = ([program], {}, None, False)
    return found


def gtest_tally(path, prefix):
    tally = Tally()
    for suite in json.loads(path.read_text())["testsuites"]:
        for case in suite.get("testsuite", []):
            name = f"{prefix}::{suite['name']}.{case['name']}"
            if case.get("failures"):
                tally.failures.append((name, "\n".join(one["failure"] for one in case["failures"])))
            elif case.get("status") == "NOTRUN" or case.get("result") == "SKIPPED":
                tally.skipped += 1
            else:
                tally.passed += 1
    return tally


def run_unit(arguments, folder):
    tally = Tally()
    programs = unit_programs(arguments.build)
    if not programs:
        tally.failures.append(("unit", f"{arguments.build} has no unit test program: the build makes none"))
    for name, (argv, extra, workdir, is_gtest) in sorted(programs.items()):
        shards = UNIT_SHARDS if is_gtest else 1

        def run_shard(index):
            report = folder / f"unit-{name}-{index}.json"
            # Not flags, so that a program that is no GoogleTest is run, too: its exit code is its one case.
            env = {**os.environ, **extra, "GTEST_OUTPUT": f"json:{report}", "GTEST_BRIEF": "1", "GTEST_COLOR": "no",
                   "GTEST_TOTAL_SHARDS": str(shards), "GTEST_SHARD_INDEX": str(index)}
            if not os.path.exists(argv[0]):
                return judged(Tally(), name, 127, UNIT_SECONDS_MAX, [f"{argv[0]} has not been built"])
            code, lines = run(argv, UNIT_SECONDS_MAX, echo=False, env=env, cwd=workdir or arguments.build)
            part = Tally()
            if report.exists() and report.stat().st_size:
                part = gtest_tally(report, name)
            elif code == 0:
                part.passed = 1
            return judged(part, name, code, UNIT_SECONDS_MAX, lines)

        part = Tally()
        with concurrent.futures.ThreadPoolExecutor(shards) as pool:
            for one in pool.map(run_shard, range(shards)):
                part.add(one)
        print(f"{name}: {part.closing_line()}", flush=True)
        tally.add(part)
    return tally


EXAMPLES = (("natrp-engine", "packaging/engine.toml"), ("natrp", "packaging/agent.toml"))
EXAMPLE_SECONDS_MAX = 20
# No real one: as long as one, 32 bytes of secret and 32 of pin.
EXAMPLE_TOKEN = "ntrp1_" + "A" * 86


def run_examples(arguments, folder):
    """--check over each example as it is, over it with every default spelled out, and over one with a wrong key, which
    has to be refused: else the first two would prove nothing."""
    tally = Tally()
    for program, path in EXAMPLES:
        text = (ROOT / path).read_text().replace("/etc/natrp", str(folder)).replace("/var/lib", str(folder))
        spelled_out = re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)
        variants = {"as it is": (text, 0), "spelled out": (spelled_out, 0),
                    "with a wrong key": ("nonsense = 1\n" + text, 2)}
        (folder / "home.token").write_text(EXAMPLE_TOKEN + "\n")
        for variant, (content, wanted) in variants.items():
            name = f"examples::{path} {variant}"
            file = folder / "example.toml"
            file.write_text(content)
            argv = [str(arguments.build / program), "--config", str(file), "--check"]
            if program == "natrp" and variant != "spelled out":
                argv += ["--token-file", str(folder / "home.token")]
            if not os.path.exists(argv[0]):
                tally.failures.append((name, f"{argv[0]} has not been built"))
                continue
            code, lines = run(argv, EXAMPLE_SECONDS_MAX, echo=False)
            if code == wanted and (code == 0 or "nonsense" in "\n".join(lines)):
                tally.passed += 1
            else:
                how = f"{how_it_ended(code, EXAMPLE_SECONDS_MAX)}; expected was exit code {wanted}"
                how += ", with a sentence that names the key" if wanted else ""
                tally.failures.append((name, "\n".join([how, *lines])))
    return tally


def run_e2e(arguments, folder):
    report = folder / "e2e.xml"
    argv = [PYTHON, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}", *arguments.pytest]
    env = {**os.environ, "NATRP_BUILD": str(arguments.build), "PYTHONDONTWRITEBYTECODE": "1"}
    code, lines = run(argv, E2E_SECONDS_MAX, echo=True, env=env, cwd=ROOT / "tests/e2e")
    tally = junit_tally(report, "e2e") if report.exists() else Tally()
    return judged(tally, "e2e (pytest)", code, E2E_SECONDS_MAX, lines)


RUN = dict(zip(RUNNERS, (run_tidy, run_unit, run_examples, run_e2e)))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default="build", help="build folder (default: build)")
    parser.add_argument("--only", default=",".join(RUNNERS), help="runners, separated by commas (default: all)")
    parser.add_argument("--skip-tidy", action="store_true", help="what a sanitizer cannot change need not run again")
    parser.add_argument("--list", action="store_true", help="print the unit test programs, run nothing")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    arguments = parser.parse_args()
    arguments.build = Path(arguments.build)
    if not arguments.build.is_absolute():
        arguments.build = ROOT / arguments.build
    arguments.runners = [one for one in arguments.only.split(",") if one]
    if arguments.skip_tidy:
        arguments.runners = [one for one in arguments.runners if one != "tidy"]
    for one in arguments.runners:
        if one not in RUNNERS:
            parser.error(f"there is no runner '{one}'; the runners are: {', '.join(RUNNERS)}")
    return arguments


def main():
    arguments = parse_arguments()
    if arguments.list:
        print("\n".join(sorted(unit_programs(arguments.build))))
        return 0
    os.environ.update({key: os.environ.get(key, value) for key, value in SANITIZER_OPTIONS.items()})
    total, idle = Tally(), []
    with tempfile.TemporaryDirectory(prefix="natrp-tests-") as folder:
        for runner in arguments.runners:
            began = time.monotonic()
            print(f"=== {runner}", flush=True)
            try:
                tally = RUN[runner](arguments, Path(folder))
            except NotBuilt as why:
                tally = Tally()
                tally.failures.append((runner, str(why)))
            print(f"=== {runner}: {tally.closing_line()} in {time.monotonic() - began:.0f} s", flush=True)
            if tally.ran == 0:
                idle.append(runner)
            total.add(tally)
    for name, text in total.failures:
        print(f"\nFAILED {name}\n{text.rstrip()}")
    for runner in idle:
        print(f"\nThe runner '{runner}' ran nothing, so this run proves nothing about it.")
    print(("\n" if total.failures or idle else "") + total.closing_line(), flush=True)
    return 1 if total.failures or idle or not total.ran else 0


if __name__ == "__main__":
    sys.exit(main())
