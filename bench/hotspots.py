"""Where the time of one command goes: functions that computed, and calls that the kernel took its time for.

`perf` samples what runs, in the program and in the kernel, and knows nothing of waiting; `strace` sees each call from
outside, and makes all of them slower. So the two are shown beside each other and never added. A program without
symbols shows only the kernel's: build it with `CARGO_PROFILE_RELEASE_STRIP=none`.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

FUNCTIONS, CALLS = 14, 8
# Calls that wait for other threads or processes, which do the work meanwhile.
WAITING = ("futex", "wait4", "waitid", "epoll_wait", "epoll_pwait", "poll", "ppoll", "read", "recvfrom", "recvmsg",
           "restart_syscall", "clock_nanosleep", "rt_sigtimedwait", "sched_yield")


def shortened(symbol):
    """A symbol without hashes, and not longer than a line."""
    symbol = re.sub(r"::h[0-9a-f]{16}$", "", symbol.strip())
    return symbol if len(symbol) <= 80 else symbol[:77] + "..."


def computing(command, environment, place, times):
    """The functions with the most samples of their own, a line each, over so many runs."""
    data = place / "perf.data"
    again = ["sh", "-c", f'for turn in $(seq {times}); do "$@"; done', "sh", *command]
    subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-o", data, "--", *again],
                   env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    told = subprocess.run(["perf", "report", "-i", data, "--stdio", "-g", "none", "--sort", "dso,sym", "-q"],
                          capture_output=True, text=True).stdout
    for line in told.splitlines():
        found = re.match(r"\s*([\d.]+)%\s+(\S+)\s+\[(.)\]\s+(.+)", line)
        if found:
            where = "kernel" if found[3] == "k" else found[2]
            yield float(found[1]), where, shortened(found[4])


def calling(command, environment, place):
    """Seconds in calls by name, how many there were, and their number."""
    out = place / "calls"
    subprocess.run(["strace", "-f", "-c", "-w", "-o", out, *command], env=environment, stdin=subprocess.DEVNULL,
                   capture_output=True)
    for line in out.read_text().splitlines() if out.exists() else ():
        words = line.split()
        if len(words) >= 5 and words[0][0].isdigit() and words[-1] not in (*WAITING, "total"):
            yield float(words[1]), int(words[3]), words[-1]


def profile(action, environment, cpu):
    """Both, as lines of text; `cpu` is what the command takes, for short ones are sampled many times."""
    times = min(100, max(1, int(1.0 / max(cpu, 0.001))))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if shutil.which("perf"):
            action.before(1 << 20)
            command = [str(word) for word in action.command(1 << 20)]
            found = list(computing(command, environment, place, times))
            kernel = sum(share for share, where, _ in found if where == "kernel")
            lines.append(f"processors: {kernel:.0f} % in the kernel")
            lines += [f"  {share:5.1f} %  {where:16}  {symbol}" for share, where, symbol in found[:FUNCTIONS]]
        if shutil.which("strace"):
            action.before((1 << 20) + 1)
            found = sorted(calling([str(word) for word in action.command((1 << 20) + 1)], environment, place), reverse=True)
            lines.append("calls, traced, without those that wait for others of ours:")
            lines += [f"  {seconds * 1000:8.1f} ms  {count:7} x  {name}" for seconds, count, name in found[:CALLS]]
    return lines
