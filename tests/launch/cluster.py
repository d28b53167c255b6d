"""A SLURM cluster of one node, from Debian's packages, unpacked beside the system's own files."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
CACHE = Path.home() / ".cache" / "llamac-slurm"

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket
CredType=cred/munge
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=20
OverTimeLimit=1
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/node
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


class Unavailable(Exception):
    """The cluster can't be had here; says why."""


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """A running cluster; yields the environment in which sbatch and its kin find it."""
    root = _packages()
    libraries = next(root.glob("usr/lib/*/slurm-wlm"), None)
    if libraries is None:
        raise Unavailable("Debian's packages have no slurm-wlm folder")
    environment = dict(os.environ)
    environment["LD_LIBRARY_PATH"] = f"{libraries}:{libraries.parent}"
    environment["PATH"] = f"{root}/usr/bin:{root}/usr/sbin:{os.environ['PATH']}"
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        environment["SLURM_CONF"] = str(_configure(state, libraries))
        sbin = root / "usr" / "sbin"
        files = [f"--{name}-file={state}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        munged = [sbin / "munged", "--foreground", "--force", f"--socket={state}/munge.socket"]
        node = [sbin / "slurmd-wlm", "-D", "-N", _host(), "-d", sbin / "slurmstepd-wlm"]
        for command in ([*munged, *files], [sbin / "slurmctld-wlm", "-D", "-i"], node):
            stack.enter_context(_daemon(list(map(str, command)), environment, state))
        _wait_until_idle(environment, state)
        try:
            yield environment
        finally:  # a test that failed may have left its job
            cancel = ["scancel", "--user", getpass.getuser()]
            subprocess.run(cancel, env=environment, timeout=30, check=False)
            _wait_until_idle(environment, state)


def _packages() -> Path:
    """The packages and what they need that is not installed, unpacked once per machine."""
    if (CACHE / "complete").is_file():
        return CACHE / "root"
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Unavailable("this is no Debian: SLURM comes from Debian's packages")
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="llamac-slurm-", dir=CACHE.parent))
    try:
        command = ["apt-get", "--simulate", "install", "--no-install-recommends", *PACKAGES]
        if not (plan := _output(command)):
            _output(["apt-get", "update"])
            plan = _output(command)
        names = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
        if not names or not _output(["apt-get", "download", *names], work):
            raise Unavailable(f"apt-get cannot download {', '.join(PACKAGES)}")
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, work / "root"], check=True)
        (work / "complete").touch()
        with suppress(OSError):  # another process was first
            os.replace(work, CACHE)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return CACHE / "root"


def _output(command: list[str], where: Path | None = None) -> str:
    """What a command prints; nothing if it fails, or takes too long."""
    try:
        done = subprocess.run(
            command, cwd=where, capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _configure(state: Path, plugins: Path) -> Path:
    key = state / "munge.key"
    key.write_bytes(os.urandom(256))
    key.chmod(0o600)
    for name in ("controller", "node"):
        (state / name).mkdir()
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        controller_port, node_port = one.getsockname()[1], two.getsockname()[1]
    text = CONFIGURATION.format(
        host=_host(),
        user=getpass.getuser(),
        state=state,
        plugins=plugins,
        cpus=os.cpu_count(),
        controller_port=controller_port,
        node_port=node_port,
    )
    configuration = state / "slurm.conf"
    configuration.write_text(text)
    return configuration


def _host() -> str:
    return socket.gethostname().partition(".")[0]


@contextmanager
def _daemon(command: list[str], environment: dict[str, str], state: Path) -> Iterator[None]:
    with open(state / "daemons.log", "ab") as log:
        try:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        except FileNotFoundError as error:
            raise Unavailable(f"Debian's packages have no {error.filename}") from error
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(environment: dict[str, str], state: Path, seconds: float = 30) -> None:
    command = ["sinfo", "--noheader", "--format=%T"]
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        with suppress(subprocess.TimeoutExpired):  # the controller does not answer yet
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=10, check=False
            )
            if done.stdout.strip() == "idle":
                return
        time.sleep(0.3)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in state.glob("*.log"))
    raise Unavailable(f"the node did not come up in {seconds:.0f} s:\n{logs}")
