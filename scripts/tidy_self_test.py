"""The proof that every check of tidy.py can fail: one small tree that passes them all, and the ways to break it."""

import os
import tempfile
from pathlib import Path

import tidy_rules as rules

LEFT = rules.LEFT_TO_DO[0]

GOOD = {
    "meson.build": "executable('natrp', 'tools/natrp.cc')\n# not 'engine/base/lost.cc'\nsubdir('tests/unit')\n",
    "engine/base/meson.build": "static_library('base', files('fd.cc'))\n",
    "tests/unit/meson.build": "foreach name : ['fd']\n  executable(name, name + '_test.cc')\nendforeach\n",
    "bench/meson.build": "foreach bench : ['fd_bench']\n  executable(bench, 'micro' / bench + '.cc')\nendforeach\n",
    "bench/micro/fd_bench.cc": "#include <benchmark/benchmark.h>\n",
    "engine/README.md": "# Map\n\n| file | |\n|---|---|\n| `base/fd.{h,cc}` | owns a descriptor |\n"
                        "| `base/word.h` | words |\n\n## `loop/`\n`uring_loop.h` waits; "
                        "see [it](../docs/operations.md#flags)\n\n`tools/natrp.cc`\n",
    "engine/base/fd.h": "// Fd: owns a descriptor.\n#pragma once\n\nclass Fd;\n",
    "engine/base/fd.cc": '#include "base/fd.h"\n\n#include <unistd.h>\n\n// printf( kBig in a comment; assert(too)\n'
                         'const char* kText = "printf(system(";\nint kBig = 1\'000\'000;\n',
    "engine/base/word.h": "#pragma once\n\n#include <string>\n\nnamespace natrp {\n\n// A word.\nclass Word {};\n}\n",
    "engine/loop/uring_loop.h": '// The ring.\n#pragma once\n#include <liburing.h>\n#include "base/fd.h"\n',
    "tools/natrp.cc": '#include "base/fd.h"\nint main() { return add("-s,--server"); }\n',
    "tests/unit/fd_test.cc": "#include <gtest/gtest.h>\n",
    "docs/operations.md": "# Operations\n\n## Flags\n`--server`, `natrp_conns_live`; [home](../README.md), "
                          "[out](https://example.org/).\n",
    "engine/base/counters.h": '// Counters.\n#pragma once\nconst char* kName = "natrp_conns_live";\n',
    "README.md": "# Home\n\n```\n[no](link)\n```\n[folder](engine/)\n",
    "scripts/run.sh": "#!/bin/bash\nset -euo pipefail\ntrue\n",
    "scripts/run.py": "#!/usr/bin/python3\nprint(1)\n",
}
GOOD["engine/README.md"] += "\n`base/counters.h`\n"

# (check, what is wrong, file, its new text or a function of the old one; None removes it)
BREAKS = [
    ("map-is-complete", "a file that the map forgot", "engine/base/new.h", "// New.\n#pragma once\n"),
    ("map-is-complete", "a ghost in the map", "engine/base/word.h", None),
    ("map-is-complete", "a file named twice", "engine/README.md", lambda old: old + "\n`base/fd.h`\n"),
    ("map-is-complete", "no map", "engine/README.md", None),
    ("folders-depend-one-way", "base includes loop", "engine/base/fd.cc", '#include "loop/uring_loop.h"\n'),
    ("folders-depend-one-way", "a folder nobody decided on", "engine/util/x.h", "// X.\n#pragma once\n"),
    ("folders-depend-one-way", "an include of nothing", "engine/base/fd.cc", '#include "base/ghost.h"\n'),
    ("libraries-stay-in-their-places", "OpenSSL in base", "engine/base/fd.cc", "#include <openssl/ssl.h>\n"),
    ("libraries-stay-in-their-places", "the ring outside of the loop", "engine/base/fd.cc", "#include <liburing.h>\n"),
    ("every-source-is-built", "a test that no build file names", "tests/unit/lost_test.cc", "int lost;\n"),
    ("every-source-is-built", "a bench beside those that its build file names", "bench/micro/lost_bench.cc",
     "int lost;\n"),
    ("every-source-is-built", "named in a comment only", "engine/base/lost.cc", "int lost;\n"),
    ("no-banned-calls", "a daemon that prints", "engine/base/fd.cc", 'void f() { printf("x"); }\n'),
    ("no-banned-calls", "std::cout", "engine/base/fd.cc", "void f() { std::cout << 1; }\n"),
    ("no-banned-calls", "std::endl", "tests/unit/fd_test.cc", "void f() { x << std::endl; }\n"),
    ("no-banned-calls", "rand", "tests/unit/fd_test.cc", "int f() { return rand(); }\n"),
    ("no-banned-calls", "strcpy", "tools/natrp.cc", "void f() { strcpy(a, b); }\n"),
    ("no-banned-calls", "std::sprintf", "tools/natrp.cc", "void f() { std::sprintf(a, b); }\n"),
    ("no-banned-calls", "gets", "tools/natrp.cc", "void f() { gets(a); }\n"),
    ("no-banned-calls", "atoi", "tools/natrp.cc", "int f() { return atoi(a); }\n"),
    ("no-banned-calls", "system", "tools/natrp.cc", "void f() {\n  system(a);\n}\n"),
    ("no-banned-calls", "usleep", "engine/base/fd.cc", "void f() { ::usleep(1); }\n"),
    ("no-banned-calls", "sleep_for", "engine/base/fd.cc", "void f() { std::this_thread::sleep_for(x); }\n"),
    ("no-banned-calls", "localtime", "engine/base/fd.cc", "auto f() { return localtime(&t); }\n"),
    ("no-banned-calls", "assert", "engine/base/fd.cc", "void f() { assert(x); }\n"),
    ("no-banned-calls", "malloc", "engine/base/fd.cc", "auto f() { return std::malloc(1); }\n"),
    ("no-banned-calls", "using namespace std", "engine/base/fd.cc", "using namespace std;\n"),
    ("no-banned-calls", "::close", "engine/base/fd.cc", "void f() { ::close(x); }\n"),
    ("no-banned-calls", "close(fd_)", "engine/base/fd.cc", "void f() {\n  close(fd_);\n}\n"),
    ("headers-introduce-themselves", "no #pragma once", "engine/base/fd.h", "// Fd.\nclass Fd;\n"),
    ("headers-introduce-themselves", "no comment", "engine/base/fd.h", "#pragma once\nclass Fd {};  // too late\n"),
    ("comments-name-constants-that-exist", "a constant that was renamed", "engine/base/fd.cc",
     "// At most kSmall.\nint kBig = 1;\n"),
    ("comments-name-constants-that-exist", "one that only another comment names", "engine/base/fd.cc",
     "// At most kSmall, which is half of\n/* kBig */\n"),
    ("comments-name-constants-that-exist", "one in a document", "engine/README.md", lambda old: old + "\n`kSmall`\n"),
    ("nothing-is-left-to-do", "a note", "engine/base/fd.cc", f"// {LEFT}: later\n"),
    ("nothing-is-left-to-do", "a note in a document", "README.md", f"{LEFT}\n"),
    ("lines-are-clean", "trailing space", "README.md", "x \n"),
    ("lines-are-clean", "a tab", "engine/base/fd.cc", "\tint x;\n"),
    ("lines-are-clean", "an overlong line", "engine/base/fd.cc", "//" + "x" * rules.COLUMNS[".cc"] + "\n"),
    ("lines-are-clean", "no last newline", "README.md", "x"),
    ("lines-are-clean", "an empty last line", "README.md", "x\n\n"),
    ("lines-are-clean", "a carriage return", "README.md", "x\r\n"),
    ("files-stay-readable", "a file too long", "engine/base/fd.cc", "int x;\n" * (rules.FILE_LINES_MAX + 1)),
    ("no-private-paths", "a home folder", "README.md", "see " + "/home" + "/user/x\n"),
    ("no-private-paths", "a machine's folder", "scripts/run.sh", "#!/bin/bash\nset -euo pipefail\ncd /" + "work/x\n"),
    ("no-private-paths", "a folder beside the project", "README.md", "see .." + "/shared/x\n"),
    ("scripts-are-sound", "a syntax error in bash", "scripts/run.sh", "#!/bin/bash\nset -euo pipefail\nif\n"),
    ("scripts-are-sound", "bash that goes on after errors", "scripts/run.sh", "#!/bin/bash\ntrue\n"),
    ("scripts-are-sound", "another interpreter", "scripts/run.py", "#!/usr/bin/env python3\n"),
    ("scripts-are-sound", "no first line", "scripts/run.sh", "set -euo pipefail\n"),
    ("scripts-are-sound", "a syntax error in Python", "scripts/run.py", "#!/usr/bin/python3\ndef f(\n"),
    ("links-lead-somewhere", "a link to nothing", "README.md", "[x](docs/ghost.md)\n"),
    ("links-lead-somewhere", "a heading that is not there", "README.md", "[x](docs/operations.md#ghost)\n"),
    ("the-manual-is-complete", "an unexplained flag", "tools/natrp.cc", 'auto x = "--verbose";\n'),
    ("the-manual-is-complete", "an unexplained option of a table", "engine/runtime/edge_options.cc",
     'void f() {\n  table.integer(\n    "grace-seconds", 0);\n}\n'),
    ("the-manual-is-complete", "an unexplained metric", "engine/base/counters.h",
     lambda old: old + 'const char* kOther = "natrp_pairs_live";\n'),
]


def write_tree(folder, files):
    for name, text in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        os.chmod(path, 0o755 if text.startswith("#!") else 0o644)


def self_test(checks, check_tree):
    """[(case, problems)]: the good tree passes every check, and each broken one fails the check that is meant."""
    results = []
    with tempfile.TemporaryDirectory(prefix="natrp-tidy-") as folder:
        write_tree(folder, GOOD)
        found = [f"{name}: {problem}" for name, problems in check_tree(folder) for problem in problems]
        results.append(("a good tree passes", found))
    for name, what, path, text in BREAKS:
        files = dict(GOOD)
        if text is None:
            del files[path]
        else:
            files[path] = text(files[path]) if callable(text) else text
        with tempfile.TemporaryDirectory(prefix="natrp-tidy-") as folder:
            write_tree(folder, files)
            silent = not dict(check_tree(folder))[name]
        results.append((f"{name} sees {what}", ["it said nothing"] if silent else []))
    with tempfile.TemporaryDirectory(prefix="natrp-tidy-") as folder:
        write_tree(folder, GOOD)
        os.chmod(Path(folder) / "scripts/run.py", 0o644)
        silent = not dict(check_tree(folder))["scripts-are-sound"]
        results.append(("scripts-are-sound sees a script that cannot be run", ["it said nothing"] if silent else []))
    tested = {name for name, *_ in BREAKS}
    results += [(f"{name} has a case here", ["it has none"]) for name in checks if name not in tested]
    return results
