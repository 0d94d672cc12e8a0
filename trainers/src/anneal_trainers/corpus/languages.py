"""The language of a file of source code: by its name, else by its first line.

Names and suffixes are those of github-linguist's languages.yml; where languages share a suffix (.h, .m, .pl), the
one with more files is meant.
"""

import re

SUFFIXES = {
    "assembly": ("asm", "s"),
    "c": ("c", "h"),
    "clojure": ("clj", "cljs"),
    "cmake": ("cmake",),
    "cpp": ("cc", "cpp", "cxx", "c++", "hh", "hpp", "hxx", "inl"),
    "csharp": ("cs",),
    "css": ("css",),
    "cuda": ("cu", "cuh"),
    "dart": ("dart",),
    "elixir": ("ex", "exs"),
    "erlang": ("erl", "hrl"),
    "fortran": ("f", "f90", "f95", "for"),
    "fsharp": ("fs", "fsx"),
    "go": ("go",),
    "groovy": ("groovy", "gradle"),
    "haskell": ("hs",),
    "html": ("html", "htm", "xhtml"),
    "java": ("java",),
    "javascript": ("js", "mjs", "cjs", "jsx"),
    "json": ("json",),
    "julia": ("jl",),
    "kotlin": ("kt", "kts"),
    "lua": ("lua",),
    "makefile": ("mk", "mak"),
    "markdown": ("md", "markdown"),
    "objective-c": ("m", "mm"),
    "ocaml": ("ml", "mli"),
    "perl": ("pl", "pm"),
    "php": ("php",),
    "powershell": ("ps1", "psm1"),
    "protobuf": ("proto",),
    "python": ("py", "pyi", "pyx"),
    "r": ("r",),
    "restructuredtext": ("rst",),
    "ruby": ("rb", "rake", "gemspec"),
    "rust": ("rs",),
    "scala": ("scala", "sc"),
    "shell": ("sh", "bash", "zsh", "ksh"),
    "sql": ("sql",),
    "swift": ("swift",),
    "tex": ("tex",),
    "toml": ("toml",),
    "typescript": ("ts", "tsx", "mts", "cts"),
    "verilog": ("v", "sv"),
    "vhdl": ("vhd", "vhdl"),
    "vue": ("vue",),
    "xml": ("xml", "xsd", "xsl"),
    "yaml": ("yaml", "yml"),
    "zig": ("zig",),
}
NAMES = {
    "CMakeLists.txt": "cmake",
    "Containerfile": "dockerfile",
    "Dockerfile": "dockerfile",
    "GNUmakefile": "makefile",
    "Gemfile": "ruby",
    "Jenkinsfile": "groovy",
    "Makefile": "makefile",
    "Rakefile": "ruby",
    "makefile": "makefile",
}
INTERPRETERS = {
    "bash": "shell",
    "dash": "shell",
    "ksh": "shell",
    "lua": "lua",
    "node": "javascript",
    "perl": "perl",
    "php": "php",
    "pwsh": "powershell",
    "python": "python",
    "Rscript": "r",
    "ruby": "ruby",
    "sh": "shell",
    "zsh": "shell",
}
KNOWN = frozenset({*SUFFIXES, *NAMES.values(), *INTERPRETERS.values()})
"""Every language that `language` returns."""
_BY_SUFFIX = {suffix: language for language, suffixes in SUFFIXES.items() for suffix in suffixes}
_SHEBANG = re.compile(r"#!\s*(?:\S*/)?(?:env\s+(?:-\S+\s+|\w+=\S*\s+)*)?(?:\S*/)?([A-Za-z]+)[\d.]*(?=\s|$)")


def language(path: str, text: str) -> str | None:
    """Return the language of the file at `path` whose content is `text`, or None where it is not known."""
    name = path.rsplit("/", 1)[-1]
    if name in NAMES:
        return NAMES[name]
    stem, dot, suffix = name.rpartition(".")
    if dot and stem and (found := _BY_SUFFIX.get(suffix.lower())):
        return found
    shebang = _SHEBANG.match(text)
    return INTERPRETERS.get(shebang[1]) if shebang else None
