"""Messages of Ray's libraries: all go to a file in the log folder of the Ray session, and few to the console.

A warning is one line on the console, without its traceback. Those that mean nothing to the user of a job are not shown.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import ray

FILE = "ferry.log"

ENVIRONMENT = {
    # Ray Train and Ray Data would set up handlers of their own, for the console too.
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_DATA_LOGGING_CONFIG": str(Path(__file__).with_name("ray_data_logging.yaml")),
    # Ray Train would print every line a second time.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}

FILE_ONLY = (
    # "Progress bars disabled", once for each training worker: the data reader disables them.
    "ray.data._internal.progress",
    # "The job may hang forever": Ray Data shares the CPUs that training leaves free among its streams as whole numbers,
    # so of one CPU, two streams get none. Each still runs one task at a time, and `connect` has made sure of that CPU.
    "ray.data._internal.execution.resource_manager",
    # Follows the death of a worker, which has a line of its own.
    "ray.train.v2._internal.callbacks.backend_setup",
    # A traceback when the autoscaler's coordinator takes more than 5 seconds to start; the request is repeated.
    "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client",
)


NO_NEWS = "Error in training function"
"""Ray Train's first line about an exception, which does not say which: the job has a line of its own."""


class OneLine(logging.Formatter):
    """The first line of a message, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return "Ray: " + record.getMessage().strip().partition("\n")[0]


def redirect_logs() -> None:
    """Send this process's messages there. For a process that is connected to Ray: the driver, and every worker."""
    os.environ.update(ENVIRONMENT)
    node = ray._private.worker._global_node
    assert node is not None, "this process is connected to Ray"
    file = logging.FileHandler(Path(node.get_logs_dir_path()) / FILE, delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    console.addFilter(lambda record: not record.name.startswith(FILE_ONLY) and NO_NEWS not in str(record.msg))
    console.setFormatter(OneLine())
    logging.getLogger("ray").setLevel(logging.INFO)
    logging.getLogger("ray").handlers = [file, console]
    for name in ("ray.data", "ray.train"):  # they may have been set up before
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True


def log_file() -> Path | None:
    """The file with the messages of this session, on this node; None if this process was never connected to Ray."""
    handlers = logging.getLogger("ray").handlers
    return next((Path(each.baseFilename) for each in handlers if isinstance(each, logging.FileHandler)), None)
