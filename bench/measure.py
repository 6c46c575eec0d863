"""What a command costs: seconds, seconds of processors, peak memory, bytes written.

A command runs below a small process of its own that adopts whatever the command leaves behind and waits for
that too, so nothing that it started escapes the count. An engine runs below a keeper like that for as long as
the suite, and what it did for a command is the difference of two readings of the whole tree below the keeper.

- wall: until the command itself ended, by the clock.
- cpu: user and system time of everything, what it left behind included.
- memory: the largest single process, as the kernel counted it. Python's own 9 MiB are the least that can be
  seen, because a process inherits the peak of the one that started it.
- written: bytes that were given to the disk's cache, as the kernel counts them by process (`write_bytes`),
  whether or not they were removed before they reached the disk.
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
# How long something that a command left behind may take to end by itself.
PATIENCE = 5.0


@dataclass
class Cost:
    wall: float
    cpu: float
    memory: int
    written: int


class Failed(Exception):
    """A command that did not end well; its text is the last line that it wrote."""


def adopt():
    """Orphans among the descendants of this process become its children."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def written_by(pid):
    """Bytes that a process and the children that it waited for have written."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes")), 0)


def descendants(top):
    """The processes below one, and it."""
    children = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parent = int(Path(f"/proc/{entry.name}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [top]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def tree_cost(top):
    """Processor seconds and bytes written by a tree of processes since it began, those that ended included."""
    cpu, written = 0, 0
    for pid in descendants(top):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # utime, stime, and the same of the children that were waited for.
        cpu += sum(map(int, fields[11:15]))
        written += written_by(pid)
    return cpu / TICKS, written


def forget_peaks(top):
    """Begins the peaks of a tree's processes anew."""
    for pid in descendants(top):
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:
            pass


def peak(top):
    """The largest peak among a tree's processes, in bytes."""
    largest = 0
    for pid in descendants(top):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        largest = max([largest, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))])
    return largest


def run(command, environment, engine=None, limit=600):
    """Runs a command to its end. `engine` is the process whose tree works for it meanwhile."""
    words = [str(word) for word in command]
    if engine:
        forget_peaks(engine)
        before = tree_cost(engine)
    # A new interpreter and no fork of this one: what this one holds would count as the command's memory.
    done = subprocess.run([sys.executable, "-I", "-S", __file__, "cell", str(limit), *words], env=environment,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace")
    try:
        report = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        raise Failed(f"the measuring process failed: {done.stderr.strip()[-300:]}") from None
    cost = Cost(report["wall"], report["cpu"], report["memory"], report["written"])
    if report["code"]:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Failed((lines[-1] if lines else f"exit code {report['code']}")[:200])
    if engine:
        cpu, written = tree_cost(engine)
        cost.cpu += cpu - before[0]
        cost.written += written - before[1]
        cost.memory = max(cost.memory, peak(engine))
    return cost


def cell(words):
    """One measured command; the report is the last line on standard output."""
    adopt()
    began = time.monotonic()
    # What it prints belongs on standard error, where its last line explains a failure.
    child = subprocess.Popen(words[1:], stdin=subprocess.DEVNULL, stdout=2)

    def out_of_time(*_):
        print(f"it took longer than {words[0]} s", file=sys.stderr)
        for pid in descendants(os.getpid())[1:]:
            os.kill(pid, signal.SIGKILL)

    # A wait with a limit would ask every 50 ms, and find that many too much.
    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, float(words[0]))
    code = child.wait()
    wall = time.monotonic() - began
    signal.setitimer(signal.ITIMER_REAL, 0)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            time.sleep(0.002)
    for pid in descendants(os.getpid())[1:]:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, written_by(os.getpid()))
    print(json.dumps({"code": code, **asdict(cost)}))


def keep(words):
    """Runs an engine, and adopts and waits for whatever it leaves behind, until it is told to end."""
    adopt()
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            # What the engine started and did not end.
            for left in descendants(os.getpid())[1:]:
                os.kill(left, signal.SIGKILL)
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    {"cell": cell, "keep": keep}[sys.argv[1]](sys.argv[2:])
