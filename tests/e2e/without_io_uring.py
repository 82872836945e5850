#!/usr/bin/python3
"""Runs a command on a kernel that seems to have no io_uring: a seccomp filter answers its system calls with an error.

    without_io_uring.py EPERM|ENOSYS[:enter|:register] COMMAND [ARGUMENT...]

EPERM is what containers answer, ENOSYS what an old kernel does; with a name behind it for that one of the three calls
only, as half of a profile does. The command keeps this process id.
"""

import ctypes
import errno
import os
import struct
import sys

IO_URING_SETUP = 425  # the three numbers are the same on every architecture
IO_URING_ENTER = 426
IO_URING_REGISTER = 427
CALLS = {"": (IO_URING_SETUP, IO_URING_REGISTER), "enter": (IO_URING_ENTER, IO_URING_ENTER),
         "register": (IO_URING_REGISTER, IO_URING_REGISTER)}

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000
LOAD_WORD, JUMP_GREATER_EQUAL, JUMP_GREATER, RETURN = 0x20, 0x35, 0x25, 0x06


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install(error, first, last):
    code = b"".join(struct.pack("HBBI", *line) for line in (
        (LOAD_WORD, 0, 0, 0),  # the number of the system call
        (JUMP_GREATER_EQUAL, 0, 2, first),
        (JUMP_GREATER, 1, 0, last),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | error),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW)))
    held = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.cast(held, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
            PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "the seccomp filter was refused")


def io_uring_error():
    """None when this process may make a ring, else the errno that it is told. Makes none: the entries are 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(IO_URING_SETUP, 0, None)
    error = ctypes.get_errno()
    return None if error in (errno.EINVAL, errno.EFAULT) else error


if __name__ == "__main__":
    name, _, call = sys.argv[1].partition(":")
    install(getattr(errno, name), *CALLS[call])
    assert call or io_uring_error() == getattr(errno, name), "the filter does not hold"
    os.execvp(sys.argv[2], sys.argv[2:])
