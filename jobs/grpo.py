"""`fer grpo`: reinforce a vision-language model with verifiable rewards, with vLLM engines that sample."""

from __future__ import annotations

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
    from fer.training.launch import launch, loop_settings, required_cpus, use_gpu
    from fer.training.run import open_run
    from fer.vlm.export import export_model
    from fer.vlm.model import resolve_vlm
    from jobs.summary import print_summary

    dataset = open_questions(config, cache=f"{config.out_dir}/data")
    model = resolve_vlm(config.model, config)
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
    settings = loop_settings(config, dataset.root, tracking, model=model, banned=banned)
    with running_engines(config, model, banned, gpus) as engines:
        placed = config.model_copy(update={"device": "gpu" if gpus else "cpu"})  # where the engines are
        checkpoints = CheckpointConfig(num_to_keep=config.save_total_limit)
        result = launch(train_grpo, settings | {"engines": engines}, placed, run, checkpoints)

    folder, figures, version = export_model(config, run, result, tracking, last=LAST)
    draw_curves(run, tracking)
    print("\nTrained.")
    for name, value in figures.items():
        print(f"  {name:<20} {value:.4f}")
    curves, ferbench = f"{run.root}/curves.png", f"fer ferbench run --model {folder} --data ..."
    print_summary(config, run, tracking, model=folder, curves=curves, version=version, next_command=ferbench)


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("grpo"))
