"""Where the messages of Ray's libraries go, in the driver and in a worker process: file and console."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.logs import FILE_ONLY
from tests.processes import environment, running

ROOT = Path(__file__).parents[2]
PROGRAM = f"""
import logging
import sys
from types import ModuleType

import ray

import jobs.__main__
import jobs.commands
from cluster.local import connect
from fer.options import Options


def log(where):
    import ray.data
    import ray.train

    try:
        raise TimeoutError("too slow")
    except TimeoutError:
        for name in ("ray.data.some", "ray.train.some", {FILE_ONLY[0]!r}):
            logging.getLogger(name).warning("a warning in the %s\\nwith a second line", where, exc_info=True)
        logging.getLogger("ray.train.some").error("Error in training function:\\nTraceback")
    logging.getLogger("ray.data.some").info("information in the %s", where)


def main(config):
    connect(cpus=2)
    log("driver")
    ray.get(ray.remote(log).remote("worker"))
    sys.stdin.readline()  # until the worker's lines have arrived
    raise RuntimeError("the job is broken")


jobs.commands.JOBS["broken"] = "A job that fails"
sys.modules["jobs.broken"] = broken = ModuleType("jobs.broken")
broken.Config, broken.main = Options, main
jobs.__main__.run_job("broken", [])
"""


@pytest.mark.slow
def test_the_console_has_one_line_for_each_warning_that_matters_and_the_file_has_everything() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "-c", PROGRAM]
    with running(command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), **pipes) as process:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if sum("in the worker" in each for each in printed) == 2:
                break
        printed += process.communicate("\n")[0]
    console = re.sub(r"\x1b\[\d+m|pid=\d+", "", "".join(printed))
    lines = [line for line in console.splitlines() if "Ray: " in line]
    assert lines == ["Ray: a warning in the driver"] * 2 + ["(log ) Ray: a warning in the worker"] * 2, console
    assert "second line" not in console
    assert "too slow" not in console
    assert "information" not in console
    assert "RuntimeError: the job is broken" in console
    log = Path(re.search(r"Ray's log: (\S+)", console)[1]).read_text()  # type: ignore[index]
    for where in ("driver", "worker"):
        assert log.count(f"a warning in the {where}\nwith a second line\nTraceback") == 3
        assert log.count(f"information in the {where}") == 1
