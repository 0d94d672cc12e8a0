"""Go: what a program is compiled and linked with, and the two packages that it and its tests become.

`go build` wants a cache it can write to and compiles the standard library into it, 20 s a program. So the standard library
is compiled once for a machine (or an image), and a program is given to `compile` and `link`, the tools that `go build`
itself calls; neither needs network, module or cache. Programs may import what is compiled here, and nothing else.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGES = (
    *("bufio", "bytes", "container/heap", "container/list", "container/ring", "context", "crypto/md5"),
    *(
        "crypto/sha1",
        "crypto/sha256",
        "encoding/base64",
        "encoding/hex",
        "encoding/json",
        "errors",
        "flag",
        "fmt",
    ),
    *("io", "math", "math/big", "math/bits", "math/cmplx", "math/rand", "os", "reflect", "regexp", "sort"),
    *("strconv", "strings", "sync", "sync/atomic", "testing", "text/tabwriter", "time", "unicode"),
    *("unicode/utf16", "unicode/utf8", "cmp", "iter", "maps", "slices"),
)
"""Of the standard library, with all that they import."""
_IMPLIED = (
    "bytes",
    "errors",
    "fmt",
    "math",
    "os",
    "regexp",
    "slices",
    "sort",
    "strconv",
    "strings",
    "unicode",
)
"""Packages that are imported for a program that uses them and forgot to say so, as CodeGeeX' harness does."""

_ASSERT = """// Package assert has the assertions of HumanEval-X' tests, by the names they have in testify, which itself would bring
// an HTTP server, YAML and a module proxy to every machine that runs Go.
package assert

import (
	"bytes"
	"math"
	"reflect"
	"testing"
)

// Assertions holds the test that it speaks for.
type Assertions struct{ t *testing.T }

// New returns the assertions of a test.
func New(t *testing.T) *Assertions { return &Assertions{t} }

func same(want, got any) bool {
	a, isBytes := want.([]byte)
	b, areBytes := got.([]byte)
	if isBytes && areBytes {
		return bytes.Equal(a, b)
	}
	return reflect.DeepEqual(want, got)
}

func none(x any) bool {
	if x == nil {
		return true
	}
	switch v := reflect.ValueOf(x); v.Kind() {
	case reflect.Chan, reflect.Func, reflect.Map, reflect.Pointer, reflect.Slice, reflect.Interface:
		return v.IsNil()
	}
	return false
}

func number(x any) float64 {
	v, kind := reflect.ValueOf(x), reflect.TypeOf(float64(0))
	if !v.IsValid() || !v.CanConvert(kind) {
		return math.NaN()
	}
	return v.Convert(kind).Float()
}

func held(t *testing.T, ok bool, said ...any) bool {
	t.Helper()
	if !ok {
		t.Errorf("assertion failed: %#v", said)
	}
	return ok
}

func Equal(t *testing.T, want, got any, _ ...any) bool { t.Helper(); return held(t, same(want, got), want, got) }
func NotEqual(t *testing.T, want, got any, _ ...any) bool { t.Helper(); return held(t, !same(want, got), want, got) }
func True(t *testing.T, ok bool, _ ...any) bool { t.Helper(); return held(t, ok) }
func False(t *testing.T, ok bool, _ ...any) bool { t.Helper(); return held(t, !ok) }
func Nil(t *testing.T, x any, _ ...any) bool { t.Helper(); return held(t, none(x), x) }
func NotNil(t *testing.T, x any, _ ...any) bool { t.Helper(); return held(t, !none(x), x) }
func InDelta(t *testing.T, want, got any, by float64, _ ...any) bool {
	t.Helper()
	return held(t, math.Abs(number(want)-number(got)) <= by, want, got)
}

func (a *Assertions) Equal(want, got any, _ ...any) bool { a.t.Helper(); return Equal(a.t, want, got) }
func (a *Assertions) NotEqual(want, got any, _ ...any) bool { a.t.Helper(); return NotEqual(a.t, want, got) }
func (a *Assertions) True(ok bool, _ ...any) bool { a.t.Helper(); return True(a.t, ok) }
func (a *Assertions) False(ok bool, _ ...any) bool { a.t.Helper(); return False(a.t, ok) }
func (a *Assertions) Nil(x any, _ ...any) bool { a.t.Helper(); return Nil(a.t, x) }
func (a *Assertions) NotNil(x any, _ ...any) bool { a.t.Helper(); return NotNil(a.t, x) }
func (a *Assertions) InDelta(want, got any, by float64, _ ...any) bool {
	a.t.Helper()
	return InDelta(a.t, want, got, by)
}
"""
_MODULE = "module github.com/stretchr/testify\n\ngo 1.24\n"
"""The path by which HumanEval-X' tests import their assertions."""
_LIST = "{{if .Export}}{{.ImportPath}}={{.Export}}{{end}}"

_MAIN = """package main

import (
	"fmt"
	"testing"

	"candidate"
)

func main() {
	every := func(_, _ string) (bool, error) { return true, nil }
	said := func(t *testing.T) { fmt.Println("%s") }
	testing.Main(every, []testing.InternalTest{%s, {Name: "last", F: said}}, nil, nil)
}
"""
"""Tests run one after the other, and the exit status is 1 where one fails."""


def folder() -> Path:
    """Return where compiler, linker and standard library are kept, whether or not they are there."""
    cache = os.environ.get("ANNEAL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "anneal")
    key = hashlib.sha256("\n".join([*PACKAGES, _MODULE, _ASSERT]).encode()).hexdigest()[:12]
    return Path(cache).expanduser() / f"go-{key}"


@functools.cache
def compiler() -> str | None:
    """Return the compiler, after making what it needs where that is not there yet; None on a machine without Go."""
    place = folder()
    if not (place / "compile").exists():
        if shutil.which("go") is None:
            return None
        prepare(place)
    return str(place / "compile")


def prepare(place: Path) -> None:
    """Compile the standard library into `place`, beside copies of the compiler and linker that it is tied to."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        module, made = Path(work, "module"), Path(work, "made")
        (module / "assert").mkdir(parents=True)
        (module / "go.mod").write_text(_MODULE)
        (module / "assert/assert.go").write_text(_ASSERT)
        _copy_archives(
            _go(module, "list", "-export", "-deps", "-f", _LIST, "./assert", *PACKAGES), made, place
        )
        tools = Path(_go(module, "env", "GOTOOLDIR").strip())
        for tool in ("compile", "link"):
            shutil.copy2(tools / tool, made)
        _settle(made, place)


def _go(module: Path, *arguments: str) -> str:
    # Offline, with the toolchain that is here: nothing but its own standard library is compiled.
    chosen = {
        "GOCACHE": str(module.parent / "cache"),
        "GOTOOLCHAIN": "local",
        "GOPROXY": "off",
        "CGO_ENABLED": "0",
    }
    # As many compilers at once as a judge's memory holds, however many cores its node has.
    chosen |= {"GOFLAGS": "-trimpath -p=4", "GOWORK": "off", "GO111MODULE": "on"}
    ran = subprocess.run(
        ["go", *arguments], cwd=module, env={**os.environ, **chosen}, check=True, stdout=subprocess.PIPE
    )
    return ran.stdout.decode()


def _copy_archives(listed: str, made: Path, place: Path) -> None:
    made.mkdir()
    lines = []
    for number, line in enumerate(sorted(listed.split())):
        path, _, archive = line.partition("=")
        shutil.copy2(archive, made / f"{number}.a")
        lines.append(f"packagefile {path}={place}/{number}.a\n")
    (made / "importcfg").write_text("".join(lines))


def _settle(made: Path, place: Path) -> None:
    made.chmod(0o755)
    try:
        made.rename(place)
    except OSError:  # another process was faster
        if not (place / "compile").exists():
            raise


BUILD = (
    (
        "{program}",
        "-p",
        "candidate",
        "-importcfg",
        "{bin}/importcfg",
        "-o",
        "{folder}/candidate.a",
        "{folder}/candidate.go",
    ),
    (
        "{program}",
        "-p",
        "main",
        "-importcfg",
        "{folder}/importcfg",
        "-o",
        "{folder}/main.a",
        "{folder}/main.go",
    ),
    ("{bin}/link", "-importcfg", "{folder}/importcfg", "-s", "-w", "-o", "{folder}/main", "{folder}/main.a"),
)
"""The program with its tests is a package of its own: a `main` of its own is then a function as any other."""


def files(text: str, word: str, where: str) -> dict[str, str]:
    """Return the sources of a program and its tests, which lie in the folder `where`."""
    tests = re.findall(r"^func (Test\w*)\(", text, re.MULTILINE)
    run = ", ".join(f'{{Name: "{name}", F: candidate.{name}}}' for name in tests)  # none does not compile
    known = (folder() / "importcfg").read_text()
    return {
        "candidate.go": package(text),
        "main.go": _MAIN % (word, run),
        "importcfg": f"{known}packagefile candidate={where}/candidate.a\n",
    }


_IMPORT = re.compile(r'^import\s*(?:\((.*?)\)|((?:[\w.]+\s+)?"[^"\n]+"))[ \t]*;?$', re.MULTILINE | re.DOTALL)
_SPEC = re.compile(r'([\w.]+\s+)?"([^"\n]+)"')
_NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|`[^`]*`', re.DOTALL)


def package(text: str) -> str:
    """Return a program and its tests as one package: imports first and once, and those alone that are used.

    Prompt, answer and tests each bring package clauses and imports of their own, and Go refuses one that nobody uses.
    """
    specs = [spec for match in _IMPORT.findall(text) for spec in _SPEC.findall("".join(match))]
    body = re.sub(r"^package\s+\w+[ \t]*;?$", "", _IMPORT.sub("", text), flags=re.MULTILINE)
    code = _NO_CODE.sub(" ", body)
    named = {name.strip() or path.rpartition("/")[2]: path for name, path in specs}
    named = {**{path: path for path in _IMPLIED}, **named}
    used = [f'import {name} "{path}"' for name, path in named.items() if _uses(code, name)]
    return "\n".join(["package candidate", *used, body])


def _uses(code: str, name: str) -> bool:
    return name in ("_", ".") or re.search(rf"(?<![\w.]){re.escape(name)}\s*\.", code) is not None
