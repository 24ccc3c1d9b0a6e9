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


def status():
    for _ in range(400):
        done, st = os.waitpid(pid, os.WNOHANG)
        if done:
            return st
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    sys.exit("it does not end")


if how != "fail":
    for _ in range(200):
        if raw():
            break
        time.sleep(0.02)
    else:
        sys.exit("the terminal is never raw")
if how == "escape":
    os.write(master, b"\x01x")
elif how == "term":
    os.kill(pid, signal.SIGTERM)
elif how == "crash":
    time.sleep(0.2)
    os.kill(pid, signal.SIGSEGV)
st = status()
want = {"escape": 0, "term": 0, "fail": 1 << 8, "crash": None}[how]
if want is None:
    if not os.WIFSIGNALED(st) or os.WTERMSIG(st) != signal.SIGSEGV:
        sys.exit("wait status %#x" % st)
elif st != want:
    sys.exit("wait status %#x instead of %#x" % (st, want))
if termios.tcgetattr(slave) != before:
    sys.exit("the terminal's settings are not as before")
