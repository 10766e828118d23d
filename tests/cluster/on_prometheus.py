"""A real Prometheus with `cluster/prometheus`, on the head of a cluster that serves: its targets, alerts and queries.

    unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc \
        python -m tests.cluster.on_prometheus

Needs Debian's package prometheus. Takes two minutes on two cores, and prints what was seen.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.cluster.head_killed import Load
from tests.cluster.three_hosts import say
from tests.fixtures.hosts import Host, make_hosts
from tests.fixtures.hosts_cluster import NODE, ROOT, TOKEN, HostsCluster, wait_for

SECONDS = 60
"""How long requests are sent; Prometheus asks every 15 seconds."""


def main() -> None:
    head, worker = make_hosts(2)
    Path("/mnt/empty").mkdir()
    cluster = HostsCluster(head, cpus=2)
    cluster.add(worker, cpus=2)
    start_prometheus(head)
    options = ["--host", "0.0.0.0", "--apps", "classifier", "--min-replicas", "2", "--detector", "none"]
    cluster.follow("submit", "serve", "--", *options, until="Serving at", FER_SERVE_TOKEN=TOKEN)
    Load(worker.address).run(SECONDS)
    for target in ask(head, "targets")["activeTargets"]:
        say(f"target {target['labels']['job']} {target['scrapeUrl']}: {target['health']} {target['lastError']}")
    for group in ask(head, "rules")["groups"]:
        for rule in group["rules"]:
            say(f"alert {rule['name']}: {rule['health']}, {rule['state']}")
    dashboard = json.loads((ROOT / "cluster/grafana/dashboards/ferry.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
            series = ask(head, "query", query=query)["result"]
            say(f"panel {panel['title']}: {[(each['metric'], each['value'][1][:6]) for each in series[:3]]}")


def start_prometheus(host: Host) -> None:
    words = [str(shutil.which("prometheus")), f"--config.file={ROOT}/cluster/prometheus/prometheus.yaml"]
    subprocess.Popen(host.command([*words, "--storage.tsdb.path=/mnt/prometheus", "--log.level=warn"], NODE))
    wait_for(host.address, 9090)


def ask(host: Host, what: str, **query: str) -> Any:
    with urlopen(f"http://{host.address}:9090/api/v1/{what}?{urlencode(query)}", timeout=30) as response:
        return json.load(response)["data"]


if __name__ == "__main__":
    main()
