"""What the whole suite shares: one Ray for the session, the real data where it is there, and a small data set."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from fer.tracking import Run

# A worker's report waits for the next poll of its controller, which is a second away by default.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
# Ray gives workers a low priority: beside the other test processes, an engine would start for minutes.
os.environ.update(RAY_worker_niceness="0")
# A shell without job control has its background jobs ignore Ctrl-C, and so would the commands that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(10_000)  # as in Ray's workers (cluster/local.py): imports leave no garbage

# The examples of every run are the same, however slow the machine is: a test fails because of a change, not by chance.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")

pytest_plugins = [
    "tests.fixtures.browser",
    "tests.fixtures.chat_server",
    "tests.fixtures.classifier",
    "tests.fixtures.ferbench",
    "tests.fixtures.mlflow_server",
    "tests.fixtures.nodes",
    "tests.fixtures.object_store",
    "tests.fixtures.postgres",
    "tests.fixtures.vlm",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first, so that no test process is left with one at the end."""
    files = {name: {item.path for item in items if item.get_closest_marker(name)} for name in ("vllm", "slow")}
    items.sort(key=lambda item: (item.path not in files["vllm"], item.path not in files["slow"]))


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """torch's random numbers do not depend on the tests that this process has run before, which differ by chance."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


KillWorkerWhen = Callable[[Path, Callable[[dict[str, Any]], bool], list[int]], threading.Thread]

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets beside the project; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One embedded Ray for all tests: a second driver in the same process could not authenticate."""
    import ray

    from cluster.local import connect

    connect(cpus=4)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def face_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """112 rendered faces of 7 classes in folders."""
    from fer.data.synthetic import write_faces

    root = tmp_path_factory.mktemp("questions")
    write_faces(root / "faces", per_class=16, size=48, seed=0)
    return root / "faces"


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of rendered faces, 48 pixels: 7 classes, about 500 for training and 80 for validation."""
    from fer.data.options import PrepareOptions
    from fer.data.prepare import prepare
    from fer.data.synthetic import write_faces

    root = tmp_path_factory.mktemp("small")
    write_faces(root / "faces", per_class=84, size=48, seed=0)
    prepare(PrepareOptions(data=str(root / "faces"), out=str(root / "shards"), val_split=0.15))
    return root / "shards"


@pytest.fixture(scope="session")
def own_processes() -> Callable[[str], list[int]]:
    """Finds the processes of this session's Ray, and no other's, whose command line has a name."""

    def find(name: str) -> list[int]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                if name in " ".join(process.cmdline()):
                    found.append(process.pid)
        return found

    return find


@pytest.fixture(scope="session")
def kill_worker_when(own_processes: Callable[[str], list[int]]) -> KillWorkerWhen:
    """Starts a thread that, once a run has a checkpoint whose state meets a condition, kills -9 one of its workers.

    Arguments: the run's folder, the condition, and a list that gets the process number.
    """

    def watch(run: Path, condition: Callable[[dict[str, Any]], bool], killed: list[int]) -> None:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            states = []
            for file in run.glob("checkpoint_*/trainer_state.json"):
                with suppress(OSError, ValueError):  # being written or deleted
                    states.append(json.loads(file.read_text()))
            if any(condition(state) for state in states) and (workers := own_processes("ray::RayTrainWorker")):
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)
                return
            time.sleep(0.02)

    def start(run: Path, condition: Callable[[dict[str, Any]], bool], killed: list[int]) -> threading.Thread:
        thread = threading.Thread(target=watch, args=(run, condition, killed))
        thread.start()
        return thread

    return start


@pytest.fixture(scope="session")
def kill_in_mid_epoch(kill_worker_when: KillWorkerWhen) -> Callable[[Path, list[int]], threading.Thread]:
    """`kill_worker_when` a run has a checkpoint inside its second epoch. Arguments: the run's folder, and the list."""

    def start(run: Path, killed: list[int]) -> threading.Thread:
        return kill_worker_when(run, lambda state: state["epoch"] >= 1 and state["batch"] > 0, killed)

    return start


@pytest.fixture(scope="session")
def step_losses() -> Callable[[Run], dict[int, float]]:
    """Reads the loss of every step from MLflow."""

    def read(run: Run) -> dict[int, float]:
        from mlflow.tracking import MlflowClient

        return {point.step: point.value for point in MlflowClient(run.uri).get_metric_history(run.run_id, "step_loss")}

    return read


@pytest.fixture
def count_decodes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the images that OpenCV and Pillow have decoded since the test began."""
    import cv2
    from PIL import ImageFile

    decoded: list[str] = []

    def spy(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            decoded.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    spy(cv2, "imdecode")
    spy(ImageFile.ImageFile, "load")
    return lambda: len(decoded)
