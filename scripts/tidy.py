#!/usr/bin/python3
"""tidy.py: the tree's own checks (make tidy, and part of make test).

    scripts/tidy.py [--self-test] [--junit FILE] [--all] [--list]

Each check reads the files that belong to the project (what git knows or does not ignore) and gives its findings as
"file:line: sentence". --self-test makes a small good tree and breaks it in each way that a check is there for: a check
that stays silent fails. The rules, with their reasons, are in scripts/tidy_rules.py.
"""

import argparse
import ast
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.dont_write_bytecode = True

import tidy_rules as rules

CHECKS = {}
# Findings of one check that are printed, unless --all is given.
SHOWN_MAX = 25


def check(function):
    """Registers a check under its function's name; its docstring says what holds when it passes."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


class Tree:
    """The files of the project, read once."""

    def __init__(self, root):
        self.root = Path(root)
        self.paths = sorted(self._from_git() or self._from_walk())
        self._texts = {}

    def _from_git(self):
        if not (self.root / ".git").exists():
            return None
        done = subprocess.run(["git", "-C", str(self.root), "ls-files", "-z", "--cached", "--others",
                               "--exclude-standard"], capture_output=True, text=True)
        return [name for name in done.stdout.split("\0") if name and (self.root / name).is_file()]

    def _from_walk(self):
        names = []
        for folder, folders, files in os.walk(self.root):
            folders[:] = [one for one in folders if one not in rules.NOT_OURS and not one.startswith("build")]
            names += [os.path.relpath(os.path.join(folder, one), self.root) for one in files]
        return names

    def text(self, path):
        if path not in self._texts:
            try:
                self._texts[path] = (self.root / path).read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                self._texts[path] = ""  # no text: pictures, corpora
        return self._texts[path]

    def lines(self, path):
        return self.text(path).split("\n")

    def having(self, *suffixes, under=("",)):
        return [path for path in self.paths if path.endswith(suffixes) and path.startswith(tuple(under))]

    def written(self):
        """Text that people write; results and test inputs are made by programs."""
        return [path for path in self.paths if not path.startswith(rules.GENERATED) and self.text(path)]

    def exists(self, path):
        """A file, or a folder that holds one."""
        return path in self.paths or any(one.startswith(path.rstrip("/") + "/") for one in self.paths)


CPP = (".h", ".cc")


def without_comments_and_strings(text):
    """C++ with the inside of comments and literals blanked, lines kept."""
    def blank(match):
        found = match.group(0)
        keep = found[0] if found[0] in "\"'" else ""
        return keep + re.sub(r"[^\n]", " ", found[len(keep):len(found) - len(keep)]) + keep
    # A quote between digits (1'000) is a separator, not a literal.
    return re.sub(r'//[^\n]*|/\*.*?\*/|R"\((?:.*?)\)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\'',
                  blank, text, flags=re.DOTALL)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


# --- the map and the house ---------------------------------------------------------------------------------------


def map_entries(text):
    """(line, path) of every file that the map names: code spans like `relay/pair.{h,cc}`, `pair.h` under a heading
    that names its folder, `tools/natrp.cc`; between the lines <!-- map --> and <!-- /map --> when they are there."""
    first, last = text.find("<!-- map -->"), text.find("<!-- /map -->")
    lines = text.split("\n")
    begin = line_of(text, first) if first >= 0 else 0
    end = line_of(text, last) if last >= 0 else len(lines)
    folder, found = "", []
    for number, line in enumerate(lines[begin:end], begin + 1):
        heading = re.match(r"#+ .*?`(?:engine/)?([\w/]+?)/?`", line)
        if heading:
            folder = heading.group(1)
            continue
        for span in re.findall(r"`([\w./{},-]+)`", line):
            braces = re.fullmatch(r"([^{}]*)\{([\w,]+)\}([^{}]*)", span)
            names = [span]
            if braces:
                names = [braces.group(1) + one + braces.group(3) for one in braces.group(2).split(",")]
            for name in names:
                if not name.endswith(rules.MAPPED_SUFFIXES):
                    continue
                if "/" not in name and folder:
                    name = f"{folder}/{name}"
                found.append((number, name if name.startswith(("tools/", "engine/")) else f"engine/{name}"))
    return found


@check
def map_is_complete(tree):
    """engine/README.md names every file under engine/ and tools/ once, and none that does not exist"""
    readme = "engine/README.md"
    files = tree.having(*rules.MAPPED_SUFFIXES, under=("engine/", "tools/"))
    if readme not in tree.paths:
        return [f"{readme}: the map is missing"] if files else []
    named, problems = {}, []
    for number, path in map_entries(tree.text(readme)):
        if path not in files:
            problems.append(f"{readme}:{number}: names {path}, which does not exist")
        elif path in named:
            problems.append(f"{readme}:{number}: names {path} again (first in line {named[path]})")
        named.setdefault(path, number)
    problems += [f"{readme}: does not name {path}" for path in files if path not in named]
    return problems


def includes(tree, path):
    """(line, name, quoted) of each include."""
    for number, line in enumerate(tree.lines(path), 1):
        match = re.match(r'\s*#\s*include\s+([<"])([^>"]+)[>"]', line)
        if match:
            yield number, match.group(2), match.group(1) == '"'


@check
def folders_depend_one_way(tree):
    """includes between the folders of engine/ follow base → loop → net → relay → runtime → edge, agent → tools"""
    problems = []
    for path in tree.having(*CPP, under=("engine/",)):
        own = path.split("/")[1]
        if own not in rules.FOLDER_MAY_INCLUDE:
            problems.append(f"{path}: tidy_rules.py does not know the folder '{own}'")
            continue
        for number, name, quoted in includes(tree, path):
            if not quoted:
                continue
            other = name.split("/")[0]
            generated = re.sub(r"\.pb\.h$", ".proto", name)
            if f"engine/{name}" not in tree.paths and f"engine/{generated}" not in tree.paths:
                problems.append(f'{path}:{number}: "{name}" is no file of engine/ (quotes are for our own, relative '
                                'to engine/; angle brackets for others)')
            elif other != own and other not in rules.FOLDER_MAY_INCLUDE[own]:
                allowed = ", ".join(sorted(rules.FOLDER_MAY_INCLUDE[own])) or "no other folder"
                problems.append(f"{path}:{number}: {own}/ may not include {other}/ (it may include {allowed})")
    return problems


@check
def libraries_stay_in_their_places(tree):
    """each library is included only where tidy_rules.py allows it"""
    problems = []
    for path in tree.having(*CPP, under=("engine/", "tools/")):
        for number, name, _ in includes(tree, path):
            for library, header, places in rules.LIBRARY_PLACES:
                if re.match(header, name) and not re.match(places, path):
                    problems.append(f"{path}:{number}: {library} ({name}) is only for {places.replace('|', ', ')}")
    return problems


def meson_names(tree):
    """What the meson.build files name, as paths: every quoted word, relative to its file's folder or to a folder that
    the file joins names to ('micro' / name), and with the suffix .cc when it has none (a foreach over names)."""
    named = set()
    for path in tree.having("meson.build"):
        folder = os.path.dirname(path)
        code = re.sub(r"^((?:[^'#\n]|'[^'\n]*')*)#.*$", r"\1", tree.text(path), flags=re.MULTILINE)
        joined = ["", *re.findall(r"'([\w./-]+)' */", code)]
        for word in re.findall(r"'([^'\n]+)'", code):
            for name in (word, f"{word}.cc", *(f"{word}{suffix}.cc" for suffix in ("_test", "_bench", "_fuzz"))):
                named.update(os.path.normpath(os.path.join(folder, one, name)) for one in joined)
    return named


@check
def every_source_is_built(tree):
    """every .cc and .proto is named by a meson.build, so that no test or file is left out by mistake"""
    named = meson_names(tree)
    return [f"{path}: no meson.build names it, so it is never compiled"
            for path in tree.having(".cc", ".proto") if path not in named]


@check
def no_banned_calls(tree):
    """calls that tidy_rules.py bans, each with its reason, are not made"""
    problems = []
    for path in tree.having(*CPP):
        code = without_comments_and_strings(tree.text(path))
        for pattern, where, except_in, reason in rules.BANNED_CALLS:
            if not re.match(where, path) or (except_in and re.match(except_in, path)):
                continue
            for match in re.finditer(pattern, code, re.MULTILINE):
                found = match.group(0).strip(" \t\n;{}(,=!?:")
                problems.append(f"{path}:{line_of(code, match.start())}: {found}: {reason}")
    return problems


@check
def headers_introduce_themselves(tree):
    """every header has #pragma once, and a comment that says what it is before its first declaration"""
    problems = []
    for path in tree.having(".h"):
        text = tree.text(path)
        if not re.search(r"^#pragma once$", text, re.MULTILINE):
            problems.append(f"{path}: has no #pragma once")
        declaration = re.search(r"^ *(?!namespace\b|using\b|extern \"C\"|(?:class|struct|enum class) \w+;)[A-Za-z]",
                                text, re.MULTILINE)
        if not re.search(r"^\s*(//|/\*)", text[:declaration.start() if declaration else None], re.MULTILINE):
            problems.append(f"{path}: says nothing about itself before its first declaration")
    return problems


@check
def comments_name_constants_that_exist(tree):
    """each constant (kName) in a comment or a document of engine/ is in the code of the project"""
    constant = re.compile(r"(?<!\w)k[A-Z]\w*")
    codes = {path: without_comments_and_strings(tree.text(path)) for path in tree.having(*CPP)}
    known = {name for code in codes.values() for name in constant.findall(code)}
    problems = []
    for path in tree.having(*CPP, ".md", under=("engine/",)):
        problems += [f"{path}:{line_of(tree.text(path), match.start())}: there is no {match.group(0)} (any more)"
                     for match in constant.finditer(tree.text(path)) if match.group(0) not in known]
    return problems


# --- text --------------------------------------------------------------------------------------------------------


@check
def nothing_is_left_to_do(tree):
    """no note that something is still to be done"""
    words = re.compile(r"\b(" + "|".join(rules.LEFT_TO_DO) + r")\b")
    return [f"{path}:{number}: {words.search(line).group(0)}: do it, or open an issue for it"
            for path in tree.written() for number, line in enumerate(tree.lines(path), 1) if words.search(line)]


@check
def lines_are_clean(tree):
    """no trailing space, tab (except in a Makefile), carriage return, missing or doubled last newline, overlong line"""
    problems = []
    for path in tree.written():
        suffix = os.path.splitext(path)[1]
        lines = tree.lines(path)
        if lines[-1] != "" or (len(lines) > 1 and lines[-2] == ""):
            problems.append(f"{path}:{len(lines)}: a file ends with one newline")
        for number, line in enumerate(lines, 1):
            place = f"{path}:{number}"
            if line != line.rstrip():
                problems.append(f"{place}: trailing white space")
            if "\t" in line and suffix in rules.NO_TABS:
                problems.append(f"{place}: a tab")
            limit = rules.COLUMNS.get(suffix, 0)
            if limit and len(line) > limit:
                problems.append(f"{place}: {len(line)} columns, the limit is {limit}")
    return problems


@check
def files_stay_readable(tree):
    """no source file has grown beyond what one reads in one go"""
    problems = []
    for path in tree.having(*rules.SOURCE_SUFFIXES):
        length = len(tree.lines(path)) - 1
        if length > rules.FILE_LINES_MAX:
            problems.append(f"{path}: {length} lines, the limit is {rules.FILE_LINES_MAX}: split it by meaning")
        elif length > rules.FILE_LINES_WARN:
            print(f"note: {path} has {length} lines; {rules.FILE_LINES_MAX} is the limit", file=sys.stderr)
    return problems


@check
def no_private_paths(tree):
    """no path of the machine it was written on"""
    problems = []
    for path in tree.written():
        for number, line in enumerate(tree.lines(path), 1):
            for pattern in rules.PRIVATE_PATHS:
                match = re.search(pattern, line)
                if match:
                    problems.append(f"{path}:{number}: '{match.group(0)}' exists on somebody's machine only")
    return problems


@check
def scripts_are_sound(tree):
    """scripts start with the agreed first line, are executable when they have one, and parse"""
    problems = []
    for path in tree.paths:
        first = tree.lines(path)[0]
        suffix = os.path.splitext(path)[1]
        shell = suffix in (".sh", ".bash") or first.endswith("bash")
        executable = os.access(tree.root / path, os.X_OK)
        if first.startswith("#!"):
            if first not in rules.FIRST_LINES:
                problems.append(f"{path}:1: '{first}' is none of: {', '.join(rules.FIRST_LINES)}")
            if not executable:
                problems.append(f"{path}: has a first line for the kernel, but is not executable")
        elif executable or shell:
            problems.append(f"{path}:1: a script without a first line for the kernel")
        if shell:
            done = subprocess.run(["bash", "-n", str(tree.root / path)], capture_output=True, text=True)
            problems += [f"{path}: {line}" for line in done.stderr.splitlines()]
            if "set -euo pipefail" not in tree.text(path):
                problems.append(f"{path}: has no 'set -euo pipefail'")
        if suffix == ".py":
            try:
                ast.parse(tree.text(path), path)
            except SyntaxError as error:
                problems.append(f"{path}:{error.lineno}: {error.msg}")
    return problems


# --- documents ---------------------------------------------------------------------------------------------------


@check
def links_lead_somewhere(tree):
    """relative links of Markdown files lead to files of the project, and to headings that exist"""
    problems = []
    for path in tree.having(".md"):
        prose = re.sub(r"^(```|~~~).*?^\1", lambda found: re.sub(r"[^\n]", " ", found.group(0)), tree.text(path),
                       flags=re.DOTALL | re.MULTILINE)
        for match in re.finditer(r"\]\(([^()\s]+)\)|<img [^>]*src=\"([^\"]+)\"", prose):
            target = match.group(1) or match.group(2)
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            goal = os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path
            place = f"{path}:{line_of(prose, match.start())}"
            if not tree.exists(goal):
                problems.append(f"{place}: the link to {target} leads nowhere")
            elif anchor and goal.endswith(".md") and anchor not in anchors(tree.text(goal)):
                problems.append(f"{place}: {goal} has no heading '#{anchor}'")
    return problems


def anchors(text):
    """The names that GitHub gives to the headings of a Markdown file."""
    headings = re.findall(r"^#+ +(.*?) *$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE),
                          re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@check
def the_manual_is_complete(tree):
    """docs/operations.md names every flag of the programs and every metric of the edge"""
    manual = "docs/operations.md"
    text = tree.text(manual) if manual in tree.paths else ""
    problems = []
    for path in tree.having(*CPP, under=rules.FLAG_SOURCES + rules.METRIC_SOURCES):
        patterns = []
        if path.startswith(rules.FLAG_SOURCES):
            patterns += [r'"(?:[^"\n]*,)?--([a-z][a-z0-9-]+)[",=]',
                         r'\.(?:text|integer|choice|on_off)\(\s*"([a-z0-9-]+)"']
        if path.startswith(rules.METRIC_SOURCES):
            patterns += [r'"(natrp_[a-z0-9_]+)["{ ]']
        for pattern in patterns:
            for match in re.finditer(pattern, tree.text(path)):
                name = match.group(1) if match.group(1).startswith("natrp_") else f"--{match.group(1)}"
                if not re.search(re.escape(name) + r"(?![\w-])", text):
                    number = line_of(tree.text(path), match.start())
                    problems.append(f"{path}:{number}: {manual} does not mention {name}")
    return sorted(set(problems))


# --- the program -------------------------------------------------------------------------------------------------


def check_tree(root):
    """[(check, problems)] over a tree."""
    tree = Tree(root)
    return [(name, function(tree)) for name, function in CHECKS.items()]


def write_junit(path, results):
    suite = ElementTree.Element("testsuite", name="tidy")
    for name, problems in results:
        case = ElementTree.SubElement(suite, "testcase", name=name)
        if problems:
            ElementTree.SubElement(case, "failure").text = "\n".join(problems)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--self-test", action="store_true", help="prove that each check can fail")
    parser.add_argument("--junit", metavar="FILE", help="write the results there, too")
    parser.add_argument("--all", action="store_true", help=f"print all findings, not {SHOWN_MAX} of each check")
    parser.add_argument("--list", action="store_true", help="print the checks")
    arguments = parser.parse_args()
    if arguments.list:
        for name, function in CHECKS.items():
            print(f"{name:32}{function.__doc__}")
        return 0
    if arguments.self_test:
        from tidy_self_test import self_test
        results = self_test(CHECKS, check_tree)
    else:
        results = check_tree(Path(__file__).resolve().parent.parent)
    shown_max = sys.maxsize if arguments.all else SHOWN_MAX
    for name, problems in results:
        print(f"{'FAILED' if problems else 'ok':8}{name}")
        for problem in problems[:shown_max]:
            print(f"        {problem}")
        if len(problems) > shown_max:
            print(f"        ... and {len(problems) - shown_max} more (--all shows them)")
    failed = sum(1 for _, problems in results if problems)
    if arguments.junit:
        write_junit(arguments.junit, results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
