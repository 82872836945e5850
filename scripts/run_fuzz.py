#!/usr/bin/python3
"""run_fuzz.py: every fuzz target of a build folder, for some seconds each (make fuzz).

    scripts/run_fuzz.py [--build build-fuzz] [--seconds 30] [--only NAME,NAME]

A target's seeds are in tests/fuzz/corpus/<target>/ when there are some. What a run finds is kept in
<build>/corpus/<target>/ for the next one; an input that broke something is left in <build>/crashes/, and the command
that repeats it is printed. The last line is `N passed, N failed`.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The time limit is the fuzzer's own; this much more means that it hangs.
GRACE_SECONDS = 60
INPUT_SECONDS_MAX = 10
MEMORY_MB_MAX = 2048
LAST_LINES = 80


def programs(build):
    return sorted(path for path in build.rglob("*_fuzz") if path.is_file() and os.access(path, os.X_OK))


def run_one(program, build, seconds):
    """An empty text when it found nothing, else what it said."""
    name = program.name
    corpus, crashes = build / "corpus" / name, build / "crashes"
    corpus.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(parents=True, exist_ok=True)
    seeds = [str(path) for path in [ROOT / "tests/fuzz/corpus" / name] if path.is_dir()]
    argv = [str(program), f"-max_total_time={seconds}", f"-timeout={INPUT_SECONDS_MAX}",
            f"-rss_limit_mb={MEMORY_MB_MAX}", "-print_final_stats=1", f"-artifact_prefix={crashes}/{name}-",
            str(corpus), *seeds]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"still running {GRACE_SECONDS} s after its time was over"
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    runs = next((line.split()[-1] for line in lines if line.startswith("stat::number_of_executed_units")), "0")
    if done.returncode == 0 and runs.isdigit() and int(runs) > 0:
        print(f"  {runs} inputs, {len(list(corpus.iterdir()))} kept")
        return ""
    return "\n".join([*lines[-LAST_LINES:], f"exit code {done.returncode} after {runs} inputs",
                      f"repeat with: {program} {crashes}/{name}-…"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default="build-fuzz", help="build folder (default: build-fuzz)")
    parser.add_argument("--seconds", type=int, default=30, help="for each target (default: 30)")
    parser.add_argument("--only", default="", help="targets, separated by commas")
    arguments = parser.parse_args()
    build = (ROOT / arguments.build).resolve()
    wanted = [name for name in arguments.only.split(",") if name]
    found = programs(build)
    chosen = [one for one in found if not wanted or one.name in wanted]
    unknown = set(wanted) - {one.name for one in found}
    if unknown or not chosen:
        print(f"run_fuzz: {', '.join(sorted(unknown)) or 'no program *_fuzz'} not found in {build}; there are: "
              f"{', '.join(one.name for one in found) or 'none'}", file=sys.stderr)
        return 2
    failures = []
    for program in chosen:
        began = time.monotonic()
        print(f"=== {program.name}, {arguments.seconds} s", flush=True)
        problem = run_one(program, build, arguments.seconds)
        if problem:
            failures.append(program.name)
            print(f"{problem}\nFAILED {program.name} after {time.monotonic() - began:.0f} s", flush=True)
    print(f"{len(chosen) - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
