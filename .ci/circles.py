#!/usr/bin/env python3
"""Fails if files of a crate depend on each other in a circle, or a file imports a re-export of its own crate root.

    circles.py [REPOSITORY]    checks every crate, prints what is wrong, and exits with 1 if anything is
    circles.py --self-test     checks the checker, on small crates with and without circles

File A needs file B if A names something that B defines, in a `use` or in a path in its code. Re-exports are followed to
the file that defines the name, and do not count themselves: a `mod.rs` that declares and re-exports needs nothing. Code
compiled only for tests does not count. The names in a crate root are for other crates: within the crate, `use
crate::Name` of a re-export is refused, since it hides which file is needed.

The source is read as text, which is enough for paths: comments and strings are blanked, macros are not expanded.
"""

import re
import sys
import tempfile
from pathlib import Path

LITERAL = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\bb?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\])'""", re.DOTALL
)
TEST_ONLY = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\]")
USE = re.compile(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
PATH = re.compile(r"(?<![\w:])[A-Za-z_]\w*(?:::[A-Za-z_]\w*)+")


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def without_tests(text):
    """Blanks every item under `#[cfg(test)]`: to its semicolon, or to the end of its braces."""
    while match := TEST_ONLY.search(text):
        end, depth = match.end(), 0
        while end < len(text):
            depth += (text[end] in "{([") - (text[end] in "})]")
            end += 1
            if depth == 0 and text[end - 1] in ";}":
                break
        text = text[: match.start()] + blank(text[match.start() : end]) + text[end:]
    return text


def leaves(tree):
    """`a::{b, c::{self, d as e}}` as [(path, name)]: a::b, a::c and a::c::d, the last under the name e."""
    head, brace, rest = tree.strip().partition("{")
    if not brace:
        path, _, alias = re.sub(r"\s+", " ", head).partition(" as ")
        parts = [part.strip() for part in path.split("::") if part.strip()]
        if len(parts) > 1 and parts[-1] == "self":
            parts.pop()
        return [(parts, alias.strip() or parts[-1])] if parts else []
    found, depth, start = [], 0, 0
    inside = rest[: rest.rindex("}")] + ","
    for i, character in enumerate(inside):
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            found += leaves(head + inside[start:i]) if inside[start:i].strip() else []
            start = i + 1
    return found


class File:
    """A source file: its module, its imports and re-exports, and the paths in its code."""

    def __init__(self, path, module):
        self.path, self.module = path, module
        self.raw = path.read_text(encoding="utf-8")
        text = without_tests(LITERAL.sub(lambda match: blank(match[0]), self.raw))
        self.imports, self.exports, self.globs = [], {}, []
        for match in USE.finditer(text):
            for parts, name in leaves(match[2]):
                if parts[-1] == "*":
                    self.globs.append((parts[:-1], match.start(), bool(match[1])))
                    continue
                self.imports.append((parts, name, match.start(), bool(match[1])))
                if match[1]:
                    self.exports[name] = parts
        self.code = USE.sub(lambda match: blank(match[0]), text)
        self.in_code = [(match[0].split("::"), match.start()) for match in PATH.finditer(self.code)]
        self.paths = self.in_code + [(parts, position) for parts, _, position, _ in self.imports if len(parts) > 1]
        self.words = set(re.findall(r"\w+", self.code))
        self.defined = set(
            re.findall(r"\b(?:fn|struct|enum|union|trait|type|const|static|macro_rules!)\s+(\w+)", self.code)
        )

    def line(self, position):
        """The line at a position, as NUMBER: TEXT."""
        number = self.raw.count("\n", 0, position) + 1
        return f"{number}: {self.raw.splitlines()[number - 1].strip()}"


class Crate:
    def __init__(self, source):
        self.files = {}
        for path in sorted(source.rglob("*.rs")):
            module = path.relative_to(source).with_suffix("").parts
            if module[-1] == "mod" or module in (("lib",), ("main",)):
                module = module[:-1]
            self.files[module] = File(path, module)

    def resolve(self, file, parts, via=()):
        """The file that defines what a path of `file` names, or None for another crate's."""
        if (file.module, tuple(parts)) in via:
            return None
        via = (*via, (file.module, tuple(parts)))
        first, rest, here = parts[0], list(parts[1:]), list(file.module)
        if first == "crate":
            whole = rest
        elif first == "self":
            whole = here + rest
        elif first == "super":
            while rest[:1] == ["super"]:
                here, rest = here[:-1], rest[1:]
            whole = here[:-1] + rest
        elif (*here, first) in self.files:
            whole = [*here, first, *rest]
        else:
            for imported, name, _, _ in file.imports:
                # `use clap::clap` names a crate, not itself.
                if name == first and imported[0] != first:
                    return self.resolve(file, [*imported, *rest], via)
            return None
        length = max(n for n in range(len(whole) + 1) if tuple(whole[:n]) in self.files)
        target, rest = self.files[tuple(whole[:length])], whole[length:]
        if not rest or rest[0] in target.defined:
            return target
        for imported, name, _, _ in target.imports:
            # A child module can use a private import too: `use super::Name`.
            if name == rest[0]:
                return self.resolve(target, [*imported, *rest[1:]], via)
        for glob, _, _ in target.globs:
            found = self.resolve(target, [*glob, *rest], via)
            if found is not None and rest[0] in found.defined:
                return found
        return target

    def needs(self, file):
        """The files that a file needs, as {needed file: position in the file that says so}."""
        found = {}

        def need(parts, position):
            target = self.resolve(file, parts)
            if target is not None and target is not file:
                found.setdefault(target.module, position)

        for parts, name, position, handed_on in file.imports:
            if not handed_on or name in file.words:
                need(parts, position)
        for parts, position, handed_on in file.globs:
            if not handed_on:
                need(parts, position)
        for parts, position in file.in_code:
            need(parts, position)
        return found

    def circles(self):
        """Shortest circles, as lists of (file, position of its reference to the next); each file is in at most one."""
        needs = {module: self.needs(file) for module, file in self.files.items()}
        found, seen = [], set()
        for start in needs:
            if start in seen:
                continue
            before, queue = {}, [start]
            for module in queue:
                for target in needs[module]:
                    if target not in before:
                        before[target] = module
                        queue.append(target)
            if start in before:
                circle = [before[start]]
                while circle[0] != start:
                    circle.insert(0, before[circle[0]])
                seen.update(circle)
                steps = zip(circle, circle[1:] + circle[:1])
                found.append([(self.files[module], needs[module][target]) for module, target in steps])
        return found

    def by_way_of_the_root(self):
        """[(file, position)] where a file of the crate imports a name from the crate root that only re-exports it."""
        root, found = self.files[()], []
        for file in self.files.values():
            for parts, position in file.paths:
                from_root = parts[0] == "crate" or parts[0] == "super" and len(file.module) == 1
                # A module may have the same name as a function in it that the root re-exports.
                if from_root and parts[1] in root.exports and (parts[1],) not in self.files and file is not root:
                    found.append((file, position))
        return sorted(set(found), key=lambda place: (place[0].path, place[1]))


def problems(repository):
    """The messages about all problems in a repository's crates."""
    found = []
    for source in sorted(path for path in repository.glob("*/src") if path.is_dir()):
        crate = Crate(source)
        for circle in crate.circles():
            lines = [f"{circle[0][0].path.relative_to(repository).parts[0]}: {len(circle)} files need each other:"]
            lines += [f"  {file.path.relative_to(repository)}:{file.line(position)}" for file, position in circle]
            found.append("\n".join(lines))
        for file, position in crate.by_way_of_the_root():
            place = f"{file.path.relative_to(repository)}:{file.line(position)}"
            found.append(f"import it from the file that defines it, not by way of the crate root:\n  {place}")
    return found


def self_test():
    """Small crates, and how many problems each has, with words of the message."""
    cases = {
        "a chain": ({"lib": "mod a; mod b;", "a": "use crate::b::B;", "b": "pub struct B;"}, []),
        "two files": (
            {"lib": "mod a; mod b;", "a": "use crate::b::B;\npub struct A;", "b": "\nuse crate::a::A;\npub struct B;"},
            ["2 files need each other:\n  c/src/a.rs:1: use crate::b::B;\n  c/src/b.rs:2: use crate::a::A;"],
        ),
        "by a re-export": (
            {
                "lib": "mod a; mod m;",
                "a": "use crate::m::{Other, B};\npub struct A;",
                "m/mod": "mod b;\npub use b::B;\npub struct Other;",
                "m/b": "use crate::a::A;\npub struct B;",
            },
            ["c/src/m/b.rs:1"],
        ),
        "by the name of a module": (
            {"lib": "mod a; mod m;", "a": "use crate::m;\nfn f() { m::b::g() }", "m/mod": "pub mod b;",
             "m/b": "pub fn g() { crate::a::f() }"},
            ["c/src/a.rs:2"],
        ),
        "of three, by super and self": (
            {"lib": "mod m;", "m/mod": "mod a; mod b; mod c; pub use self::{a::A, b::B, c::C};",
             "m/a": "use super::B; pub struct A;", "m/b": "use super::c::{self, C as D}; pub struct B;",
             "m/c": "pub enum C { One(super::A) }"},
            ["3 files need each other"],
        ),
        "a parent and its child": (
            {"lib": "mod m;", "m/mod": "mod a; pub use a::A; pub struct M(A);", "m/a": "use super::M; pub struct A;"},
            ["2 files need each other"],
        ),
        "a parent that hands on": (
            {"lib": "mod m;", "m/mod": "mod a; mod b; pub use a::A;", "m/a": "use super::b::B; pub struct A;",
             "m/b": "pub struct B;"},
            [],
        ),
        "in tests, comments and strings": (
            {"lib": "mod a; mod b;", "a": "use crate::b::B; pub struct A;",
             "b": "// use crate::a::A;\npub const S: &str = \"crate::a::A\";\npub struct B;\n"
                  "#[cfg(test)]\nmod tests { use crate::a::A; fn f() { let c = '}'; } }\n"},
            [],
        ),
        "after the tests": (
            {"lib": "mod a; mod b;", "a": "use crate::b::B; pub struct A;",
             "b": "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::a::A;\npub struct B;"},
            ["c/src/b.rs:3"],
        ),
        "a module of the name of its function": (
            {"lib": "mod a; mod b; pub use a::a;", "a": "pub fn a() {}", "b": "use crate::a::a;"},
            [],
        ),
        "by way of the root": (
            {"lib": "mod a; mod b; pub use a::A;", "a": "pub struct A;", "b": "use crate::{A, a::f};"},
            ["not by way of the crate root:\n  c/src/b.rs:1"],
        ),
    }
    for name, (files, expected) in cases.items():
        with tempfile.TemporaryDirectory() as directory:
            for path, text in files.items():
                path = Path(directory, "c/src", f"{path}.rs")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            found = problems(Path(directory))
        as_expected = len(found) == len(expected) and all(words in text for words, text in zip(expected, found))
        if not as_expected:
            sys.exit(f"circles.py does not work: {name}: {expected} is wanted, and it finds {found}")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    repository = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    found = problems(repository)
    if not list(repository.glob("*/src/*.rs")):
        sys.exit(f"{repository}: no crates in it")
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
