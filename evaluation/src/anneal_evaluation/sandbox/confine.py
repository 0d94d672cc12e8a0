"""What a cell may do, put on itself right before it runs foreign code; the kernel holds it to that.

Three layers: resource limits; a system call filter (seccomp) and Landlock rules (Linux 5.13; documented in
linux/Documentation/userspace-api/landlock.rst), which need no privileges at all; namespaces, where they are allowed.
Only x86_64 has a filter; other machines reach the lowest level, which callers refuse unless told otherwise.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEVELS = ("limits", "filtered", "namespaces")
"""From weak to strong; `filtered` is limits, seccomp and Landlock, `namespaces` that and own PIDs, network and IPC."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SUBREAPER, _PR_NO_NEW_PRIVS = 1, 4, 22, 36, 38
_CAPSET, _LANDLOCK_CREATE, _LANDLOCK_RULE, _LANDLOCK_RESTRICT = 126, 444, 445, 446
_NEW_USER, _NEW_PID, _NEW_NET, _NEW_IPC, _NEW_UTS = 0x10000000, 0x20000000, 0x40000000, 0x08000000, 0x04000000
_KILL_SIGNAL = 9


@dataclass(frozen=True)
class Limits:
    """Bounds of one program."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 8
    memory_bytes: int = 1 << 30
    file_bytes: int = 8 << 20
    """Of one file, and of the scratch folder together."""
    output_bytes: int = 8 << 20
    """Of standard output and error together; beyond it the program is ended."""
    threads: int = 64
    address_space: bool = True
    """Whether memory counts as address space; runtimes that reserve much (V8, the JVM, Go) count data instead."""
    processes: bool = False
    """Whether it may start others: compilers do."""


@dataclass(frozen=True)
class Paths:
    """What a program may read and run, and the one folder it may write to."""

    readable: Sequence[str]
    scratch: str


class Unavailable(OSError):
    """The kernel refuses a layer."""


def call(number: int, *arguments: object) -> int:
    """Return what a raw system call returns; raise Unavailable where it fails."""
    result = int(_LIBC.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise Unavailable(code, os.strerror(code))
    return result


def _prctl(option: int, *arguments: object) -> None:
    if _LIBC.prctl(option, *arguments, *[0] * (4 - len(arguments))) < 0:
        code = ctypes.get_errno()
        raise Unavailable(code, os.strerror(code))


def unreadable() -> None:
    """Keep this process's memory from others of its user, by ptrace or /proc."""
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none escapes."""
    _prctl(_PR_SUBREAPER, 1)


def enter_user_namespace() -> bool:
    """Get the right to make namespaces; whether it was given. Root has it already.

    A child tries first: some kernels give the namespace and refuse its users, from which there is no way back.
    """
    if os.geteuid() == 0:
        return True
    child = os.fork()
    if child == 0:
        try:
            _map_user()
        finally:  # exit status 1 unless all of it worked
            os._exit(int(sys.exc_info()[0] is not None))
    if os.waitpid(child, 0)[1] != 0:
        return False
    _map_user()
    return True


def _map_user() -> None:
    user, group = os.geteuid(), os.getegid()
    if _LIBC.unshare(_NEW_USER) < 0:
        raise Unavailable(ctypes.get_errno(), "no user namespace")
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w") as stream:
            stream.write(text)


def own_processes() -> bool:
    """Make the next child the first of its own PID namespace, which ends with it; whether it worked."""
    return int(_LIBC.unshare(_NEW_PID)) == 0


def own_network() -> bool:
    """Leave the machine's network, IPC and host name; whether it worked."""
    return int(_LIBC.unshare(_NEW_NET | _NEW_IPC | _NEW_UTS)) == 0


def limit(limits: Limits, *, own_users: bool) -> None:
    """Set resource limits; `own_users`: no process outside the sandbox counts towards this one's user."""
    bounds = {
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_MSGQUEUE: 0,
        (resource.RLIMIT_AS if limits.address_space else resource.RLIMIT_DATA): limits.memory_bytes,
        **({resource.RLIMIT_NPROC: limits.threads} if own_users else {}),
    }
    for kind, bound in bounds.items():
        _, most = resource.getrlimit(kind)
        lower = bound if most == resource.RLIM_INFINITY else min(bound, most)  # only some may raise it again
        resource.setrlimit(kind, (lower, lower))


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, _KILL_SIGNAL)


def lock(paths: Paths, *, processes: bool, execute: bool) -> bool:
    """Drop all capabilities, then close files, network, signals and most of the kernel; whether all of it holds."""
    _prctl(_PR_NO_NEW_PRIVS, 1)
    _no_capabilities()
    try:
        _landlock(paths)
        _filter(_program(processes=processes, execute=execute))
    except Unavailable:
        return False
    return True


def _no_capabilities() -> None:
    header, nothing = struct.pack("<Ii", 0x20080522, 0), bytes(24)
    call(_CAPSET, header, nothing)


# Landlock ------------------------------------------------------------------------------------------------------

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_NO_DEVICES = 1 << 6 | 1 << 11
"""Character and block devices, which no program may make."""
_DEVICES = {"/dev/null": _READ_FILE | _WRITE_FILE, "/dev/zero": _READ_FILE, "/dev/urandom": _READ_FILE}


def _landlock(paths: Paths) -> None:
    abi = call(_LANDLOCK_CREATE, None, 0, 1)
    known = (1 << 13) - 1 | (1 << 13 if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    known |= 1 << 15 if abi >= 5 else 0
    network = 0b11 if abi >= 4 else 0  # bind and connect
    scoped = 0b11 if abi >= 6 else 0  # abstract sockets and signals stay inside
    rules = struct.pack("<QQQ", known, network, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    handle = call(_LANDLOCK_CREATE, rules, len(rules), 0)
    for path in paths.readable:
        _allow(handle, path, (_EXECUTE | _READ_FILE | _READ_DIR) & known)
    for path, rights in _DEVICES.items():
        _allow(handle, path, rights & known)
    _allow(handle, paths.scratch, known & ~_NO_DEVICES)
    call(_LANDLOCK_RESTRICT, handle, 0)
    os.close(handle)


def _allow(handle: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= _FILE_RIGHTS
    call(_LANDLOCK_RULE, handle, 1, struct.pack("<Qi", rights, place), 0)
    os.close(place)


# seccomp -------------------------------------------------------------------------------------------------------

_ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64
_X32 = 0x40000000
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CLONE, _CLONE3, _CLONE_THREAD = 56, 435, 0x10000
_FCNTL, _PRLIMIT = 72, 302
_SIGNAL_OWNER = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a signal to another process by way of a file

_DENIED = {
    "network": (41,),
    "signals to others": (62, 129, 200, 297, 424, 434),
    "memory of others": (101, 310, 311, 312, 438, 440, 448),
    "priorities of others": (141, 142, 144, 203, 251, 256, 279, 314),
    "namespaces and mounts": (155, 161, 165, 166, 272, 308, 428, 429, 430, 431, 432, 433, 442),
    "kernel": (103, 169, 175, 176, 179, 246, 298, 304, 313, 321, 323),
    "keys": (248, 249, 250),
    "asynchronous calls past this filter": (425, 426, 427),
    "memory that no limit counts, or that outlives its owner": (29, 64, 68, 240, 319, 447),
}
_MODES = (
    # Modes, owners, times and attributes, which Landlock does not know; linkers set modes.
    *(90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 260, 261, 268, 280, 452),
)
_START = (57, 58)
_EXEC = (59, 322)


def _program(*, processes: bool, execute: bool) -> list[bytes]:
    """Return the filter: what it denies answers EPERM; `clone3` is said not to exist, so that `clone` shows its flags."""
    denied = [number for group in _DENIED.values() for number in group]
    denied += [] if processes else [*_START, *_MODES]
    denied += [] if execute or processes else _EXEC
    program = [
        _step(_LOAD, 4),
        _step(_EQUAL, _ARCHITECTURE, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, 0),
        _step(_AT_LEAST, _X32, 0, 1),
        _step(_RETURN, _KILL),
    ]
    for number in denied:
        program += [_step(_EQUAL, number, 0, 1), _refuse(errno.EPERM)]
    program += _on(_PRLIMIT, 0, [_step(_EQUAL, 0, 1, 0), _refuse(errno.EPERM)])
    for command in _SIGNAL_OWNER:
        program += _on(_FCNTL, 1, [_step(_EQUAL, command, 0, 1), _refuse(errno.EPERM)])
    if not processes:
        program += [_step(_EQUAL, _CLONE3, 0, 1), _refuse(errno.ENOSYS)]
        program += _on(_CLONE, 0, [_step(_ANY_BIT, _CLONE_THREAD, 1, 0), _refuse(errno.EPERM)])
    return [*program, _step(_RETURN, _ALLOW)]


def _on(number: int, argument: int, test: list[bytes]) -> list[bytes]:
    """Return a test of the low half of one argument of one call."""
    inside = [_step(_LOAD, 16 + 8 * argument), *test, _step(_LOAD, 0)]
    return [_step(_EQUAL, number, 0, len(inside)), *inside]


def _refuse(code: int) -> bytes:
    return _step(_RETURN, _ERRNO | code)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _filter(program: Iterable[bytes]) -> None:
    if platform.machine() != "x86_64":
        raise Unavailable(errno.ENOSYS, f"no filter for {platform.machine()}")
    code = b"".join(program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    _prctl(_PR_SET_SECCOMP, 2, header)
