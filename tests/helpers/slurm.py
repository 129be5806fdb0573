"""A SLURM of the test's own: munge, slurmctld and two nodes on this machine, without cgroups."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
NODES = ("node1", "node2")
URGENT = "urgent"  # a partition whose jobs preempt those of `gpu`

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=node2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=gpu Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=node1,node2 MaxTime=INFINITE State=UP PriorityTier=10
"""


def why_not() -> str:
    """Why there can be no SLURM here; empty where there can."""
    missing = [name for name in NEEDED if not shutil.which(name, path=_PATH)]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    return "" if os.getuid() == 0 else "slurmd is started by root only"


_PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Within it two nodes of one CPU each take jobs; the variables with which SLURM's commands find them."""
    with tempfile.TemporaryDirectory(prefix="slurm_") as name:
        folder = Path(name)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (folder / "state").mkdir()
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        ports = [s.getsockname()[1] for s in sockets]
        for s in sockets:
            s.close()
        file = folder / "slurm.conf"
        host, user = socket.gethostname().partition(".")[0], getpass.getuser()
        file.write_text(CONFIGURATION.format(folder=folder, host=host, user=user, ports=ports))
        variables = {"SLURM_CONF": str(file), "PATH": _PATH}
        environment, daemons = {**os.environ, **variables}, []
        munge = ["--key-file", key, "--socket", folder / "munge.sock", "--pid-file", folder / "munge.pid"]
        munge += ["--log-file", folder / "munge.log", "--seed-file", folder / "munge.seed"]
        try:
            with open(folder / "daemons.log", "w") as log:
                for command in (
                    ["munged", "--force", "--foreground", *munge],
                    ["slurmctld", "-D", "-f", file],
                    *(["slurmd", "-D", "-f", file, "-N", node] for node in NODES),
                ):
                    daemons.append(subprocess.Popen(list(map(str, command)), env=environment, stdout=log, stderr=log))
                    time.sleep(0.5)
            _wait_for_nodes(environment, folder)
            yield variables
        finally:
            subprocess.run(["scancel", "--user", user], env=environment, timeout=30)
            time.sleep(0.5)
            for daemon in reversed(daemons):
                daemon.terminate()
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def _wait_for_nodes(environment: dict[str, str], folder: Path) -> None:
    for _ in range(100):
        shown = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=environment, capture_output=True, encoding="utf-8")
        if "idle 2" in shown.stdout:
            return
        time.sleep(0.2)
    raise RuntimeError(f"no nodes: {shown.stdout}{shown.stderr}{(folder / 'slurmctld.log').read_text()[-3000:]}")
