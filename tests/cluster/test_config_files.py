"""The files for machines, Slurm, clouds and Kubernetes: valid by the schemas of Ray and KubeRay, and safe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft202012Validator

from jobs.commands import find_command, split_job
from tests.processes import environment

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHERS = ("onprem", "aws", "gcp")
KUBERAY = json.loads((Path(__file__).parent / "kuberay_schema.json").read_text())


def manifests() -> Iterator[dict[str, Any]]:
    for file in sorted((CLUSTER / "kuberay").glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text())


def ray_manifests() -> list[dict[str, Any]]:
    return [manifest for manifest in manifests() if manifest["apiVersion"] == "ray.io/v1"]


def pod_specs(part: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec in a manifest."""
    if isinstance(part, dict):
        if "containers" in part:
            yield part
        for each in part.values():
            yield from pod_specs(each)
    elif isinstance(part, list):
        for each in part:
            yield from pod_specs(each)


def errors_of(manifest: dict[str, Any]) -> list[str]:
    schema = KUBERAY["kinds"][manifest["kind"]] | {"$defs": KUBERAY["$defs"]}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(manifest)]


@pytest.mark.parametrize("manifest", ray_manifests(), ids=lambda manifest: str(manifest["kind"]))
def test_kuberay_accepts_its_manifests(manifest: dict[str, Any]) -> None:
    assert not errors_of(manifest)


def test_the_schema_refuses_a_misspelt_field() -> None:
    manifest = next(manifest for manifest in ray_manifests() if manifest["kind"] == "RayCluster")
    manifest["spec"]["headGroupSpec"]["template"]["spec"]["containerss"] = []
    assert "containerss" in " ".join(errors_of(manifest))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_rays_launcher_accepts_the_file(name: str) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    assert not list(Draft202012Validator(schema).iter_errors(config))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_start_every_node_with_the_token_and_keep_the_dashboard_on_the_head(name: str) -> None:
    config = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    assert "~/.ray/auth_token" in config["file_mounts"]
    for role in ("head", "worker"):
        assert "RAY_AUTH_MODE=token" in config[f"{role}_start_ray_commands"][-1]
    assert "--dashboard-host 127.0.0.1" in config["head_start_ray_commands"][-1]


def test_pods_run_without_root_and_ray_with_the_token() -> None:
    for manifest in manifests():
        for spec in pod_specs(manifest):
            assert spec["securityContext"]["runAsNonRoot"]
            for container in spec["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                }
    for manifest in ray_manifests():
        spec = manifest["spec"]
        cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
        assert cluster["authOptions"]["mode"] == "token"
        assert cluster["rayVersion"] == ray.__version__


def test_the_commands_in_the_files_parse() -> None:
    from fer.options import parse

    job = next(manifest for manifest in ray_manifests() if manifest["kind"] == "RayJob")
    sky = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())["run"]
    for line in (job["spec"]["entrypoint"], sky[sky.index("fer train") :].replace('"$workers"', "16")):
        name, arguments = split_job(line.split()[1:])
        command = find_command(name, arguments)
        assert not isinstance(command, str)
        parse(command.config, command.arguments, command.name, command.recipes)


def test_the_applications_of_the_ray_service_are_those_that_can_be_deployed() -> None:
    from serve_apps.options import APPS

    service = next(manifest for manifest in ray_manifests() if manifest["kind"] == "RayService")
    applications = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    assert {app["import_path"] for app in applications} <= set(APPS.builtin.values())


def test_the_ray_service_deploys_what_fer_serve_does(tmp_path: Path) -> None:
    """With the bundled model in place of a registered one."""
    from fer.options import parse
    from serve_apps.applications import chosen_apps
    from serve_apps.options import ServeConfig

    service = next(manifest for manifest in ray_manifests() if manifest["kind"] == "RayService")
    file = tmp_path / "serve.yaml"
    file.write_text(service["spec"]["serveConfigV2"].replace("models:/face@champion", "ferry-small"))
    options = ["--host", "0.0.0.0", "--device", "cpu", "--min-replicas", "4", "--max-replicas", "32"]
    assert chosen_apps(ServeConfig(file=str(file))) == chosen_apps(parse(ServeConfig, options, "serve"))


SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = "#!/bin/sh\necho localhost\n"
ISOLATED = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
"""`ray symmetric-run` ends with `ray stop`, which ends every Ray that it sees: here, only its own."""


@pytest.mark.slow
@pytest.mark.skipif(subprocess.run([*ISOLATED, "true"]).returncode != 0, reason="may not make a namespace of processes")
def test_the_slurm_script_returns_the_exit_code_of_its_command(tmp_path: Path) -> None:
    """On one node, with scripts in place of Slurm's two programs."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = environment(
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        PYTHONPATH=str(ROOT),
        FERRY_VENV=sys.prefix,
        FERRY_NODE_WAIT="200",
        SLURM_JOB_ID=str(os.getpid()),  # Ray's port follows from it
        SLURM_JOB_NODELIST="localhost",
        SLURM_NNODES="1",
        SLURM_CPUS_ON_NODE="2",
    )
    script = [*ISOLATED, str(CLUSTER / "slurm.sh"), "evaluate", "nonesuch", "--data", "none"]
    done = subprocess.run(script, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 2, done.stdout + done.stderr
    assert not list(tmp_path.glob(".ferry-*"))
