"""A SLURM of one node on this machine, for tests: Debian's slurmctld, slurmd, slurm-client and munge, without systemd,
cgroups or accounting.

    python tests/workflow/slurm/one_node.py FOLDER

starts it, with state and logs in FOLDER, and says `ready`. It then obeys lines on its standard input (`stop slurmctld`,
`start slurmctld`) and answers each with `done`. Once its input ends, as it does when whoever started it has died, it cancels
all jobs, stops its daemons and takes its configuration away.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")  # no other place will do: SLURM_CONF does not reach the steps of the plugin's jobs
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "munged")
MUNGE_SOCKET = Path("/run/munge/munge.socket.2")
MARK = "# Of a test, until this process ends: "
GPUS = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
)  # anything that is there: nobody computes on them

# More CPUs and memory than there may be, so that what waits does not stand in the way of what works. A job is killed for its
# time within seconds of its limit, and for its memory by a look at it each second.
CONFIGURATION = """\
{mark}
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
SlurmctldPort=6817
SlurmdPort=6818
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
ReturnToService=2
KillWait=15
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
MinJobAge=3600
DefMemPerCPU=500
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=6 RealMemory=400000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no SLURM can be started here, if none can."""
    if os.getuid() != 0:
        return "only root can start SLURM's daemons"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install slurmctld slurmd slurm-client munge"
    for path in configuration():
        if path.exists() and not left_behind(path):
            return f"there is a SLURM on this machine: {path}"
    return None


def configuration() -> tuple[Path, Path]:
    return ETC / "slurm.conf", ETC / "gres.conf"


def left_behind(path: Path) -> bool:
    """Whether a configuration file was written here, by a process that has since been killed."""
    mark, _, pid = path.read_text().partition("\n")[0].rpartition(" ")
    return f"{mark} " == MARK and not psutil.pid_exists(int(pid))


class Node:
    """The daemons, each a child of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "jobcomp.txt").touch()
        mark, host = f"{MARK}{os.getpid()}", socket.gethostname().split(".")[0]
        conf, gres = configuration()
        ETC.mkdir(exist_ok=True)
        conf.write_text(CONFIGURATION.format(mark=mark, folder=self.folder, host=host, gpus=len(GPUS)))
        gres.write_text(f"{mark}\n" + "".join(f"NodeName={host} Name=gpu File={path}\n" for path in GPUS))
        if not munge_answers():
            MUNGE_SOCKET.parent.mkdir(exist_ok=True)
            shutil.chown(MUNGE_SOCKET.parent, "munge", "munge")
            self.run("munged", "--foreground", "--force", user="munge", group="munge", extra_groups=[])
            wait_until(munge_answers, "munged to answer")
        for name in ("slurmctld", "slurmd"):
            self.start_daemon(name)

    def start_daemon(self, name: str) -> None:
        self.run(name, "-D")
        wait_until(lambda: self.answers(name), f"{name} to answer")

    def run(self, name: str, *arguments: str, **options: object) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                [shutil.which(name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,  # and that of slurmstepd, which outlives slurmd: it is known for ours by that
                start_new_session=True,  # a Ctrl-C on the tests is not for it
                preexec_fn=die_with_parent,
                **options,
            )

    def answers(self, name: str) -> bool:
        if self.daemons[name].poll() is not None:
            raise SystemExit(f"{name} ended: {(self.folder / f'{name}.out').read_text()[-2000:]}")
        if name == "slurmctld":
            return ask("scontrol", "ping").returncode == 0
        return ask("sinfo", "--noheader", "--format=%T").stdout.strip() in ("idle", "mixed", "allocated")

    def stop_daemon(self, name: str) -> None:
        daemon = self.daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def stop(self) -> None:
        """All jobs cancelled, all daemons gone, the configuration taken away."""
        try:
            if "slurmctld" in self.daemons:
                ask("scancel", "--signal=KILL", "--full", "--state=RUNNING")
                ask("scancel", "--state=PENDING")
                wait_until(lambda: not processes(self.folder, "slurmstepd"), "jobs to end", 10, must=False)
        finally:
            for name in reversed(list(self.daemons)):
                self.stop_daemon(name)
            for process in processes(self.folder, "slurmstepd"):
                for one in (*process.children(recursive=True), process):
                    one.kill()
            for path in configuration():
                if path.exists() and path.read_text().startswith(f"{MARK}{os.getpid()}\n"):
                    path.unlink()


def processes(folder: Path, *names: str) -> list[psutil.Process]:
    """SLURM's processes of these names that belong to the one in `folder`: they all work there."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() in names and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def munge_answers() -> bool:
    """Whether a munged listens; one that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(MUNGE_SOCKET)) == 0


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def wait_until(condition: object, what: str, seconds: float = 30, must: bool = True) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            if must:
                raise SystemExit(f"waited {seconds} s in vain for {what}")
            return
        time.sleep(0.05)


def main(folder: Path) -> None:
    reason = missing()
    if reason:
        raise SystemExit(reason)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    node = Node(folder)
    try:
        node.start()
        print("ready", flush=True)
        for line in sys.stdin:
            verb, name = line.split()
            (node.start_daemon if verb == "start" else node.stop_daemon)(name)
            print("done", flush=True)
    finally:
        node.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
