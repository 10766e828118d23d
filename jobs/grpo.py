"""`fer grpo`: train a vision-language model by reinforcement learning with verifiable rewards (GRPO)."""

from __future__ import annotations

from fer.grpo.options import GrpoConfig

Config = GrpoConfig
RESULT_STEPS = 10
"""The metrics of a run are their means over so many last steps."""


def main(config: GrpoConfig) -> None:
    """Train with the options in ``config``; a stopped run of the same name is resumed."""
    from ray.train import CheckpointConfig

    from cluster.preflight import connect_for, wait_for_room
    from fer.data.vqa.prepare import open_questions
    from fer.grpo.engine_launch import running_engines
    from fer.grpo.evaluation import SCORE, evaluation_questions
    from fer.grpo.plots import plot_run
    from fer.grpo.preflight import dry_run_summary, preflight_check, visual_token_ids
    from fer.grpo.trainer import train_grpo
    from fer.training.launch import launch, loop_settings, use_gpu
    from fer.training.run import open_run
    from fer.vlm.export import export_model
    from fer.vlm.model import for_workers, resolve_vlm
    from jobs.summary import print_summary

    dataset = open_questions(config, cache=f"{config.storage}/data")
    model = resolve_vlm(config.model, config)
    longest_prompt = preflight_check(config, model, dataset)
    evaluation = evaluation_questions(config, model, dataset)
    if config.dry_run:
        print(dry_run_summary(config, model, dataset, longest_prompt))
        return
    connect_for(config, also=[config.engine_bundle])
    gpus = use_gpu(config, engine_gpus=0 if config.colocate else config.engines * config.tensor_parallel)
    same_device = config.model_copy(update={"device": "gpu" if gpus else "cpu"})  # as the engines'
    wait_for_room(0, [same_device.worker_bundle, same_device.engine_bundle], seconds=0)

    run, tracking = open_run(config, "grpo", default_name="grpo", data_hash=dataset.manifest.content_hash)
    rows = {name: split.rows for name, split in dataset.manifest.splits.items()}
    print(
        f"run {run.name}: {config.model} on {rows}, {config.workers} trainer(s) ({config.deepspeed}) and "
        f"{config.engines} engine(s) on {'GPUs' if gpus else 'CPUs'}",
        flush=True,
    )

    masked_token_ids = visual_token_ids(config, model)
    name = for_workers(config.model, model)
    settings = loop_settings(
        config,
        dataset.root,
        tracking,
        model=name,
        masked_token_ids=masked_token_ids,
        longest_prompt=longest_prompt,
        evaluation=evaluation,
    )
    with running_engines(config, name, masked_token_ids, gpus) as engines:
        checkpoints = CheckpointConfig(
            num_to_keep=config.save_total_limit, checkpoint_score_attribute=SCORE if evaluation else None
        )
        result = launch(train_grpo, settings | {"engines": engines}, same_device, run, checkpoints)

    folder, metrics, version = export_model(config, run, result, tracking, last=RESULT_STEPS)
    curves = plot_run(run, tracking)
    print("\nTrained.")
    for name, value in metrics.items():
        print(f"  {name:<24} {value:.4f}")
    if evaluation:
        assert result.best_checkpoints, "the last one is kept at least"
        checkpoint, best = max(result.best_checkpoints, key=lambda each: each[1][SCORE])
        print(f"  best accuracy {best[SCORE]:.4f}, at step {best['step']}: {checkpoint.path}/model")
    evaluate = f"fer ferbench run {folder} --questions QUESTIONS.json --image-root DIR --out {run.root}/ferbench"
    print_summary(config, run, tracking, model=folder, curves=curves, version=version, next_command=evaluate)


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("grpo"))
