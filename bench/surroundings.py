"""What the measured programs run in and beside: a network of their own, a way out of it, a registry, an engine."""

import ctypes
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import measure

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18


def enter(folder):
    """Leaves the machine's network and mounts behind; gives a handle of that network.

    Peers keep caches and state in fixed places: those are folders of ours, seen by nobody else."""
    machine = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        sys.exit(f"error: no namespaces of our own: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for place in ("/var/lib/containers", "/var/lib/cni"):
        ours = folder / "fixed" / place.strip("/").replace("/", "-")
        ours.mkdir(parents=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", ours, place], check=True)
    return machine


def environment(folder):
    """Little of this machine's, and limits that this process may set: peers ask for more than a container may."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = min(resource.getrlimit(resource.RLIMIT_NPROC)[1] % (1 << 63), 32768)
    (folder / "containers.conf").write_text(
        "[containers]\n"
        f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    home = folder / "home"
    home.mkdir()
    return {
        "PATH": os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        "HOME": str(home), "LANG": "C.UTF-8", "TMPDIR": str(folder), "CONTAINERS_CONF": str(folder / "containers.conf"),
        "STAVE_RUNTIME_DIR": str(folder / "run"),
    }


def machine():
    """The machine, in a line."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "?")
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo")) / (1 << 20)
    debian = Path("/etc/debian_version")
    system = f"Debian {debian.read_text().strip()}" if debian.exists() else platform.platform()
    return f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, Linux {platform.release()}, {system}"


class Uplink:
    """A way out to the machine's network, as the traffic of an ordinary program."""

    def __init__(self, network):
        self.process, self.works = None, False
        if not shutil.which("slirp4netns"):
            return
        said, ready = os.pipe()
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/proc/self/fd/{network}", "slirp4netns", "--configure", "--netns-type=path",
             f"--ready-fd={ready}", f"/proc/{os.getpid()}/ns/net", "uplink0"],
            pass_fds=[network, ready], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(ready)
        # It ends without a word if it cannot.
        self.works = os.read(said, 1) == b"1"
        os.close(said)

    def reaches(self, host):
        if not self.works:
            return False
        try:
            socket.create_connection((host, 80), timeout=10).close()
            return True
        except OSError:
            return False

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()


class Registry:
    """Debian's docker-registry, on loopback, with nothing in it."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.folder = folder / "registry"
        self.process = None

    def start(self):
        """Starts it, empty."""
        self.stop()
        empty(self.folder)
        self.folder = self.folder.with_name(f"registry-{time.monotonic_ns()}")
        self.folder.mkdir()
        config = self.folder / "config.yml"
        config.write_text(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"
            f"storage:\n  filesystem:\n    rootdirectory: {self.folder}/data\nhttp:\n  addr: {self.host}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", config],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        sys.exit("error: docker-registry does not start")

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Engine:
    """Docker's, started by hand below a keeper, for as long as it is asked."""

    def __init__(self, folder, environment):
        self.folder, self.environment = folder / "docker", environment
        self.folder.mkdir()
        self.log = open(self.folder / "log", "wb")
        self.client = None
        self.bridge = True
        arguments = [
            "dockerd", "--data-root", self.folder / "data", "--exec-root", self.folder / "exec",
            "-H", f"unix://{self.folder}/socket", "-p", self.folder / "pid",
            "--default-ulimit", "nofile=1024:1024", "--default-ulimit", "nproc=1024:1024"]
        self.keeper = self.start(arguments)
        if self.keeper is None:
            self.bridge = False
            self.keeper = self.start([*arguments, "--iptables=false", "--ip6tables=false", "--bridge=none"])

    def start(self, arguments):
        words = [sys.executable, "-I", "-S", measure.__file__, "keep", *map(str, arguments)]
        keeper = subprocess.Popen(words, stdout=self.log, stderr=self.log, env=self.environment)
        for _ in range(200):
            if keeper.poll() is not None:
                return None
            if any(self.answers(client) for client in clients()):
                return keeper
            time.sleep(0.1)
        keeper.send_signal(signal.SIGTERM)
        keeper.wait()
        return None

    def answers(self, client):
        self.client = [client, "-H", f"unix://{self.folder}/socket"]
        return subprocess.run([*self.client, "version"], capture_output=True).returncode == 0

    def builds_with_buildkit(self):
        """Whether one of the clients can: newer ones want a plugin for it. Keeps to that client."""
        context = self.folder / "probe"
        context.mkdir()
        (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        for client in clients():
            words = [client, *self.client[1:], "build", "-q", str(context)]
            if subprocess.run(words, env={**self.environment, "DOCKER_BUILDKIT": "1"}, capture_output=True).returncode == 0:
                self.client = words[:3]
                return True
        return False

    def stop(self):
        if self.keeper:
            self.keeper.send_signal(signal.SIGTERM)
            self.keeper.wait()


def clients():
    """Every `docker` of the path."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return [f"{folder}/docker" for folder in folders if os.access(f"{folder}/docker", os.X_OK)]


def empty(folder):
    """Takes the bytes of all files away, which is when the memory that holds them is free.

    The files are removed when everything is over: ext4 goes a long way round inodes that were freed in the last
    minutes, and would do that for whoever is measured next."""
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            if os.path.isfile(path) and not os.path.islink(path):
                try:
                    os.truncate(path, 0)
                except OSError:
                    pass
