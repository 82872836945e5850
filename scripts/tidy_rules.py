"""The rules of tidy.py, as tables. A rule is changed here, with its reason, never worked around in the code."""

# Folders that a walk leaves out when there is no git to ask.
NOT_OURS = {".git", "__pycache__", "node_modules", ".pytest_cache"}
# Written by programs: not judged as text.
GENERATED = ("bench/results/", "tests/fuzz/corpus/", "tests/e2e/grpc/package-lock.json")

MAPPED_SUFFIXES = (".h", ".cc", ".proto")
SOURCE_SUFFIXES = (".h", ".cc", ".py", ".sh")

# Which folders of engine/ a folder may include. One way only: an arrow back is a cycle in the making.
#   base → loop → net → relay → runtime → edge, agent → tools
#                 net → control → admin → edge, agent
#                 base → store → edge      control, relay → compat → edge
FOLDER_MAY_INCLUDE = {
    "base": set(),
    "loop": {"base"},
    "net": {"base", "loop"},
    "relay": {"base", "loop", "net"},
    "runtime": {"base", "loop", "net", "relay"},
    "control": {"base", "loop", "net"},
    "store": {"base"},
    "compat": {"base", "loop", "net", "relay", "control"},
    "admin": {"base", "loop", "net", "control"},
    "edge": {"base", "loop", "net", "relay", "runtime", "control", "store", "compat", "admin"},
    "agent": {"base", "loop", "net", "relay", "runtime", "control", "admin"},
}

# (library, its headers, the only files that include it). A library that leaks cannot be replaced any more.
LIBRARY_PLACES = [
    ("liburing", r"(liburing|linux/io_uring)\b", r"engine/loop/uring_"),
    ("epoll", r"sys/epoll\.h", r"engine/loop/"),
    ("OpenSSL", r"openssl/", r"engine/control/|engine/compat/"),
    ("protobuf", r"google/protobuf/", r"engine/control/|engine/compat/"),
    ("SQLite", r"sqlite3\.h", r"engine/store/"),
    ("nghttp2", r"nghttp2/", r"engine/compat/"),
    ("cpp-httplib", r"httplib\.h", r"engine/admin/|tools/natrpctl"),
    ("nlohmann-json", r"nlohmann/", r"engine/admin/|tools/natrpctl"),
    ("toml++", r"toml\+\+/", r"engine/runtime/options_toml"),
    ("CLI11", r"CLI/", r"engine/runtime/options_(flags|ctl)"),
    ("spdlog", r"spdlog/", r"engine/base/log"),
    ("mimalloc", r"mimalloc", r"tools/"),
    ("GoogleTest", r"(gtest|gmock)/", r"tests/"),
    ("Google Benchmark", r"benchmark/", r"bench/"),
]

ENGINE = r"engine/"
PROGRAMS = r"(engine|tools)/"
EVERYWHERE = r""
NOWHERE_ELSE = r""
# (what is called, where it is banned, where in there it is allowed, why). Comments and literals are not looked at.
BANNED_CALLS = [
    # They wait for a reader that stands still. The last words of a failed check, and the agent's contract with scripts
    # (one line `public address: HOST:PORT` per lease on standard output), go through base/line_out.
    (r"(?<![\w:.>])(?:std::)?(printf|fprintf|puts|fputs|putchar|vprintf|perror)\s*\(|std::(cout|cerr|clog)\b", ENGINE,
     NOWHERE_ELSE, "daemons speak through base/log; standard output belongs to tools/"),
    (r"\bstd::endl\b", EVERYWHERE, NOWHERE_ELSE, "flushes on every line; write '\\n'"),
    # A variable of the name random, an engine of <random>, is fine.
    (r"(?<![\w:.>])(?:std::|::)?(rand|srand|srandom|rand_r)\s*\(|(?<!\w)::random\s*\(", EVERYWHERE, NOWHERE_ELSE,
     "predictable and not ours to seed; control/ has secure random, tests use a seeded engine of <random>"),
    (r"(?<![\w:.>])(?:std::|::)?(strcpy|strcat|sprintf|vsprintf|gets|strtok|strncpy|strncat)\s*\(", EVERYWHERE,
     NOWHERE_ELSE, "has no bound, or no end; use std::string, std::string_view or snprintf"),
    (r"(?<![\w:.>])(?:std::|::)?(atoi|atol|atoll|atof|sscanf)\s*\(", EVERYWHERE, NOWHERE_ELSE,
     "cannot tell nonsense from 0; use std::from_chars"),
    (r"(?<![\w:.>])(?:std::|::)?(system|popen)\s*\(", EVERYWHERE, NOWHERE_ELSE, "runs a shell"),
    # Allowed: the admin server, whose threads are the HTTP library's and have no loop.
    (r"(?<![\w:.>])(?:::)?(usleep|sleep|nanosleep)\s*\(|\bsleep_(for|until)\s*\(", PROGRAMS,
     r"engine/admin/admin_server\.cc",
     "a thread waits in its loop only; use the timer wheel"),
    (r"(?<![\w:.>])(?:::)?(inet_ntoa|inet_addr|gethostbyname|localtime|gmtime|ctime|asctime)\s*\(", EVERYWHERE,
     NOWHERE_ELSE, "shares a static buffer between threads, or knows IPv4 only"),
    (r"(?<![\w:.>])(assert)\s*\(", PROGRAMS, NOWHERE_ELSE, "vanishes in a release; use NATRP_CHECK"),
    (r"(?<![\w:.>])(?:std::|::)?(malloc|calloc|realloc)\s*\(", PROGRAMS, NOWHERE_ELSE,
     "has no owner; use a container or std::unique_ptr"),
    (r"\busing\s+namespace\s+std\s*;", EVERYWHERE, NOWHERE_ELSE, "one does not see any more whose name it is"),
    # Allowed: the descriptors that a loop hands to the kernel, the pipes of the pool, what accept brought when there is
    # no slot for it. Else a descriptor is an Fd's, or a relayed socket's: closed out of teardown's order, its number
    # may be another visitor's before the last op on it has landed.
    (r"(?<![\w:])::close\s*\(|(?<![\w:.>])close\s*\(\s*(fd|\w*fd_|\w+_fd|[\w.]+\.(get|release)\(\))\s*\)", ENGINE,
     r"engine/(base/fd\.h|loop/|relay/(teardown|pipe_pool)|net/acceptor\.cc)",
     "only base/fd.h and relay/teardown close; give it to an Fd"),
]

LEFT_TO_DO = ("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK", "TB" + "D")
# Columns by suffix; tables of Markdown and units of systemd have none.
COLUMNS = {".h": 120, ".cc": 120, ".proto": 120, ".sh": 120, ".py": 120, ".build": 120}
NO_TABS = {".h", ".cc", ".proto", ".py", ".sh", ".build", ".md", ".toml", ".json", ".yml", ".service", ".conf"}
FILE_LINES_WARN = 600
FILE_LINES_MAX = 700

PRIVATE_PATHS = [
    r"(?<![\w.~-])/(work|root)/",
    r"(?<![\w.~-])/home/[a-z]\w*/",
    r"(?<![\w.~-])/tmp/(brief|build-)",
    r"\.\./shared/|\bshared/(design|research)/",
]

FIRST_LINES = ("#!/bin/bash", "#!/usr/bin/python3")

# Where the flags and the metrics are spelled out.
FLAG_SOURCES = ("engine/runtime/", "tools/")
METRIC_SOURCES = ("engine/admin/metrics", "engine/base/counters")
