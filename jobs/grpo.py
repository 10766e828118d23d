"""`fer grpo`: reinforce a vision-language model with verifiable rewards, with vLLM engines that sample."""

from __future__ import annotations

from pathlib import Path

from fer.grpo.options import GrpoConfig

Config = GrpoConfig
LAST = 10  # steps whose mean is a run's result


def main(config: GrpoConfig) -> None:
    """Train as ``config`` says; a stopped run of the same name is continued."""
    from ray.train import CheckpointConfig

    from cluster.local import connect
    from fer.data.vqa.prepare import open_questions
    from fer.grpo.engine_pool import running_engines
    from fer.grpo.plots import draw_curves
    from fer.grpo.preflight import banned_tokens, check, describe
    from fer.grpo.trainer import train_grpo
    from fer.training.launch import launch, required_cpus, use_gpu
    from fer.training.run import open_run
    from fer.vlm.export import finish
    from fer.vlm.model import locate

    dataset = open_questions(config, cache=f"{config.out_dir}/data")
    model = locate(config.model, config)
    longest = check(config, model, dataset)
    if config.dry_run:
        print(describe(config, model, dataset, longest))
        return
    connect(required_cpus(config) + config.engines * config.cpus_per_engine)
    gpus = use_gpu(config, engines=config.engines)

    run, tracking = open_run(config, "grpo", default_name="grpo", data_hash=dataset.manifest.content_hash)
    rows = {name: split.rows for name, split in dataset.manifest.splits.items()}
    print(
        f"run {run.name}: {config.model} on {rows}, {config.workers} trainer(s) ({config.deepspeed}) and "
        f"{config.engines} engine(s) on {'GPUs' if gpus else 'CPUs'}",
        flush=True,
    )

    banned = banned_tokens(config, model)
    settings = {
        "config": config.model_dump(),
        "model": model,
        "data": dataset.root,
        "tracking": {"uri": tracking.uri, "run_id": tracking.run_id},
        "resume": str(Path(config.resume).absolute()) if config.resume else None,
        "banned": banned,
    }
    with running_engines(config, model, banned, gpus) as engines:
        placed = config.model_copy(update={"device": "gpu" if gpus else "cpu"})  # where the engines are
        checkpoints = CheckpointConfig(num_to_keep=config.save_total_limit)
        result = launch(train_grpo, settings | {"engines": engines}, placed, run, checkpoints)

    folder, figures, version = finish(config, run, result, tracking, last=LAST)
    draw_curves(run, tracking)
    print("\nTrained.")
    for name, value in figures.items():
        print(f"  {name:<20} {value:.4f}")
    print(f"Model:   {folder}")
    print(f"Curves:  {run.root}/curves.png")
    print(f"Run:     {run.root}  (MLflow: {tracking.uri}, run {tracking.run_id})")
    if version is not None:
        print(f"Registered as models:/{config.register_as}@{config.alias}, version {version}")
    print(f"Next:    fer ferbench run --model {folder} --data ...")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("grpo"))
