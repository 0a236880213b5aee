"""The child process of `reader`: what a stranger's file does, it does here.

The process reads one request per line and forks a worker for each. The worker gives up the right to write, to run
programs and to take more memory and time than the file is worth, then reads. It answers with what is in the file, or
writes its tensors into a safetensors file.
"""

import errno
import json
import math
import os
import re
import select
import signal
import struct
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from backbones.weights.formats import Refused, from_hdf5, from_torch
from backbones.weights.layout import write

LONGEST_REPLY = 64 * 2**20
MEMORY = 2**30  # what a worker may take however small the file
FORBIDDEN = ("os.", "socket.", "subprocess.", "shutil.", "pty.", "ctypes.", "fcntl.")
HARMLESS = ("os.listdir", "os.scandir")  # imports use them


def main() -> None:
    """Answer requests on standard input, a socket, until the parent closes it or ends."""
    warnings.simplefilter("ignore")
    for line in sys.stdin.buffer:
        _send(0, _serve(json.loads(line)))


def _serve(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a worker that is forked for this request and never outlives it."""
    if request["kind"] == "hdf5":
        import h5py  # noqa: F401 - before the fork: the workers share it
    ours, theirs = os.pipe()
    worker = os.fork()
    if not worker:
        os.close(ours)
        os.dup2(1, 0)  # 1 leads nowhere: the parent listens to the server, not to its worker
        _work(request, theirs)
    os.close(theirs)
    try:
        reply = _drain(ours, request["seconds"])
    finally:
        os.close(ours)
        os.kill(worker, signal.SIGKILL)
        _, status, usage = os.wait4(worker, 0)
    told: dict[str, Any]
    if reply is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM)):
        told = {"error": f"took longer to read than the {request['seconds']:.1f} s that a file of its size is given"}
    elif status or not reply:
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        told = {"error": f"is damaged, or needs too much memory: the process that read it ended with {how}"}
    else:
        told = json.loads(reply)
    return {**told, "peak": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def _drain(pipe: int, seconds: float) -> bytes | None:
    """Everything that the worker says until it ends; None if that takes too long. Ends with the parent."""
    end, said = time.monotonic() + seconds, bytearray()
    while (left := end - time.monotonic()) > 0:
        if len(said) > LONGEST_REPLY:
            return b""
        ready, _, _ = select.select([pipe, 0], [], [], left)
        if 0 in ready:  # the parent waits for us and has nothing to say: it is gone
            raise SystemExit
        if ready:
            if not (more := os.read(pipe, 2**16)):
                return bytes(said)
            said += more
    return None


def _send(pipe: int, told: Mapping[str, Any]) -> None:
    left = memoryview(json.dumps(told).encode() + b"\n")
    while left:
        left = left[os.write(pipe, left) :]


def _work(request: Mapping[str, Any], pipe: int) -> NoReturn:
    try:
        out = open(request["out"], "xb") if request["out"] else None  # noqa: SIM115 - before the right is given up
        _confine(request)
        held, told = (from_hdf5 if request["kind"] == "hdf5" else from_torch)(request["path"], out is not None)
        if (total := sum(one.nbytes for one in held.values())) > request["largest"]:
            raise Refused(f"declares {total:,} bytes of tensors, far more than it has; refused")
        if out:
            write(out, held)
            out.close()
        told["header"] = [(name, one.shape, one.dtype) for name, one in held.items()]
    except BaseException as error:
        reason = str(error) if isinstance(error, Refused) else _explain(error)
        told = {"error": "".join(c if c.isprintable() else "?" for c in reason)}
    try:
        _send(pipe, told)
    finally:
        os._exit(0)


def _explain(error: BaseException) -> str:
    """Our words for an error of torch or h5py; never theirs on how to switch the safety off."""
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "needs more memory than a file of its size is given; refused"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "needs more room than the temporary folder has; set TMPDIR to one that has it"
    if found := re.search(r"GLOBAL (\S{1,100})", text) or re.search(r"(torch\.distributed\.tensor)", text):
        return f"holds more than tensors (it asks for `{found[1]}`): refused; re-save its state_dict with safetensors"
    if "TorchScript" in text:
        return "holds TorchScript, which is a program: refused; re-save its state_dict with safetensors"
    if "weights_only" in text:
        return "holds more than tensors: refused; re-save its state_dict with safetensors"
    line = next((line for line in text.splitlines() if line.strip()), "")
    return f"is damaged, or no file of weights ({type(error).__name__}: {line[:200]})"


def _confine(request: Mapping[str, Any]) -> None:
    """Give up what reading does not need. Limits that a platform does not know are left out."""
    import resource

    seconds = math.ceil(request["seconds"]) + 1
    signal.alarm(seconds)
    limits = {"CORE": 0, "CPU": seconds, "FSIZE": request["largest"] + LONGEST_REPLY if request["out"] else 0}
    limits["NPROC"] = 0
    with suppress(OSError), open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limits["AS"] = now + MEMORY + 4 * max(os.path.getsize(request["path"]), request["declared"])
    for name, limit in limits.items():
        with suppress(OSError, ValueError, AttributeError):
            what = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(what)[1]
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(what, (limit, limit))
    if sys.platform == "linux":
        _landlock()
    sys.addaudithook(_forbid)


def _landlock() -> None:
    """Tell the kernel that this process will write, make or remove no file, run none, open no connection, signal none.

    Each right is a bit, of files, of the network and of other processes; an older kernel knows fewer of them.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    files = 0b111_1111_1111_0011  # all but to read files and folders
    for rights in ((files, 0b11, 0b11), (files, 0b11), (files,), (files & 0x3FFF,), (files & 0x1FFF,)):
        told = struct.pack(f"<{len(rights)}Q", *rights)
        if (rules := libc.syscall(444, told, len(told), 0)) >= 0:  # landlock_create_ruleset
            libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, without which the kernel does not listen
            libc.syscall(446, rules, 0)  # landlock_restrict_self
            os.close(rules)
            return


def _forbid(event: str, args: tuple[Any, ...]) -> None:
    """The same for Python itself, and where the kernel does not know how."""
    writes = (
        event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    )
    if writes or (event.startswith(FORBIDDEN) and event not in HARMLESS):
        raise PermissionError(f"{event} is not allowed while a file is read")


if __name__ == "__main__":
    main()
