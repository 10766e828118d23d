"""`ray up cluster/onprem.yaml` on three hosts in network namespaces of this machine, over a real SSH server on each.

    unshare --net --mount --pid --fork --kill-child --mount-proc python -m tests.cluster.on_ssh

Run it as root, with the scripts of Python's environment in the PATH. Needs Debian's packages openssh-server and rsync.
Takes four minutes on two cores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.three_hosts import TRAIN, prepare, say
from tests.fixtures.hosts import HERE, Host, make_hosts, run
from tests.fixtures.hosts_cluster import BUCKET, ROOT, TOKEN, USER, start_servers, wait_for

KEY, CLUSTER = Path("/mnt/.ssh/id_ed25519"), Path("/mnt/onprem.yaml")
PASSWD = "ferry:x:0:0::/mnt/home:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
"""The hosts' users."""
SSHD = """
Port 22
HostKey /mnt/host_key
AuthorizedKeysFile /mnt/home/authorized_keys
PasswordAuthentication no
StrictModes no
UsePAM no
"""
PROFILE = f"export PATH={os.environ['PATH']} PYTHONPATH={ROOT} OMP_NUM_THREADS=1\n"
"""What the machines have: Ferry and rsync in the PATH of every shell."""


def main() -> None:
    hosts = make_hosts(3)
    start_servers()
    make_user()
    for host in hosts:
        start_sshd(host)
    write_cluster_file([host.address for host in hosts])
    command("ray", "up", "--yes", str(CLUSTER))
    tunnel = subprocess.Popen(["ray", "dashboard", str(CLUSTER)], env=user(), stdout=sys.stdout, stderr=sys.stdout)
    wait_for("127.0.0.1", 8265)
    while command("fer", "cluster", "status").count("alive") < len(hosts):
        time.sleep(2)
    prepare(Commands())  # type: ignore[arg-type]
    command("fer", "submit", "train", "--", *TRAIN, "--workers", "3", "--epochs", "2", "--name", "face")
    say(sorted(path.name for path in (BUCKET / "runs/face").iterdir()))
    tunnel.terminate()
    command("ray", "down", "--yes", str(CLUSTER))
    for host in hosts:
        left = subprocess.run(host.command(["pgrep", "--list-name", "raylet|gcs_server"], {}), capture_output=True)
        say(f"{host.name}: left of Ray: {left.stdout.decode().split() or 'nothing'}")


class Commands:
    """As `HostsCluster`, for `prepare`."""

    def fer(self, *words: str) -> str:
        return command("fer", *words)


def user() -> dict[str, str]:
    """The environment of the cluster's user, who has a token and a key, and no RAY_AUTH variables."""
    return {name: value for name, value in USER.items() if not name.startswith("RAY_AUTH")}


def command(*words: str) -> str:
    """Run `fer` or another command as the cluster's user; its output, which is printed, too."""
    words = (sys.executable, "-m", "jobs", *words[1:]) if words[0] == "fer" else words
    say(" ".join(words[-3:]))
    lines = []
    with subprocess.Popen(
        words, cwd="/mnt/empty", env=user(), text=True, stdout=-1, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    assert process.returncode == 0
    return "".join(lines)


def make_user() -> None:
    """A user with a key and the cluster's token. Their home is this process's own, and on the hosts the hosts' own."""
    KEY.parent.mkdir(mode=0o700)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(KEY))
    token = Path("/mnt/.ray/auth_token")
    token.parent.mkdir(mode=0o700)
    token.write_text(TOKEN)
    token.chmod(0o600)
    Path("/mnt/passwd").write_text("root:x:0:0::/mnt:/bin/bash\n")  # ssh looks for the key in the home that it names
    run("mount", "--bind", "/mnt/passwd", "/etc/passwd")


def start_sshd(host: Host) -> None:
    """Start a host's SSH server, which lets the user in."""
    run("ip", "-netns", host.name, "route", "add", "default", "via", HERE)  # by which Ray finds the host's address
    files = {"passwd": PASSWD, "home/authorized_keys": KEY.with_suffix(".pub").read_text(), "sshd": SSHD}
    for name, content in (files | {"home/.profile": PROFILE, "home/.bashrc": PROFILE}).items():
        words = host.command(["sh", "-c", f"cat > /mnt/{name}"], {"PATH": os.environ["PATH"]})
        subprocess.run(words, input=content, text=True, check=True)
    prepare = (
        "mount --bind /mnt/passwd /etc/passwd && mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f /mnt/host_key"
    )
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    run(*host.command(["sh", "-c", f"{prepare} && exec {shutil.which('sshd')} -f /mnt/sshd"], environment))
    wait_for(host.address, 22)


def write_cluster_file(addresses: list[str]) -> None:
    """The repository's file, with these machines."""
    text = (ROOT / "cluster/onprem.yaml").read_text()
    for old, new in (("10.0.0.1", addresses[0]), ("10.0.0.2, 10.0.0.3", ", ".join(addresses[1:]))):
        assert old in text
        text = text.replace(old, new)
    CLUSTER.write_text(text)


if __name__ == "__main__":
    main()
