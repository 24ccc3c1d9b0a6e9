#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""terminal.py HOW COMMAND...: run the command on a pseudo-terminal, end it by
HOW, and compare the terminal's settings before, meanwhile and after."""
import os
import pty
import signal
import sys
import termios
import time

how, command = sys.argv[1], sys.argv[2:]
master, slave = pty.openpty()
before = termios.tcgetattr(slave)
pid = os.fork()
if pid == 0:
    os.setsid()
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    os.execvp(command[0], command)


def raw():
    return not termios.tcgetattr(slave)[3] & termios.ICANON


def catches_crashes():
    with open("/proc/%d/status" % pid) as f:
        caught = next(int(line.split()[1], 16) for line in f if line.startswith("SigCgt:"))
    return caught >> (signal.SIGSEGV - 1) & 1


def wait_for(what, complaint):
    end = time.monotonic() + 60
    while not (seen := what()):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            sys.exit(complaint)
        time.sleep(0.02)
    return seen


def ended():
    done, st = os.waitpid(pid, os.WNOHANG)
    return (st,) if done else None


if how != "fail":
    wait_for(raw, "the terminal is never raw")
if how == "escape":
    os.write(master, b"\x01x")
elif how == "term":
    os.kill(pid, signal.SIGTERM)
elif how == "crash":
    wait_for(catches_crashes, "it has no handler of crashes")
    os.kill(pid, signal.SIGSEGV)
st, = wait_for(ended, "it does not end")
want = {"escape": 0, "term": 0, "fail": 1 << 8, "crash": None}[how]
if want is None:
    if not os.WIFSIGNALED(st) or os.WTERMSIG(st) != signal.SIGSEGV:
        sys.exit("wait status %#x" % st)
elif st != want:
    sys.exit("wait status %#x instead of %#x" % (st, want))
if termios.tcgetattr(slave) != before:
    sys.exit("the terminal's settings are not as before")
