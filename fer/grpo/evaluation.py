"""Evaluation during training: the engines answer questions that are not trained on, with the newest weights."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import torch
from ray.data.collate_fn import ArrowBatchCollateFn

from fer.data.manifest import ShardedDataset
from fer.data.options import QuestionOptions
from fer.data.stream.reader import iter_batches, read_window
from fer.data.stream.sampler import row_groups, sequential_windows
from fer.data.vqa.prepare import open_questions
from fer.errors import UserError
from fer.grpo.engine_pool import EnginePool
from fer.grpo.options import GrpoConfig
from fer.grpo.preflight import check_prompts
from fer.grpo.rollout import Prompt
from fer.grpo.weight_sync import PolicyWeights
from fer.training.worker import Worker, sum_over_workers
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import COLUMNS, PromptRow, prompt_rows
from fer.vlm.validation import Sample, count_samples

SCORE = "score"
"""Metric of a checkpoint: the accuracy of its weights, by which the best one is kept."""
ROWS_PER_BATCH = 16


def evaluation_questions(config: GrpoConfig, model: str, training: ShardedDataset) -> tuple[str, str] | None:
    """Folder of shards and split of the questions; None without ``--eval-steps``.

    Raises UserError if there are none, or if they are too long or have no answer.
    """
    if not config.eval_steps:
        return None
    if config.eval_data:
        options = QuestionOptions(data=config.eval_data, image_root=config.eval_image_root, val_split=0)
        dataset, split = open_questions(options, cache=f"{config.storage}/data"), "train"
    elif "val" in training.manifest.splits:
        dataset, split = training, "val"
    else:
        raise UserError("--eval-steps: the data has no validation rows; name others with --eval-data")
    check_prompts(config, model, dataset, split, config.eval_data or config.data)
    return dataset.root, split


class Evaluation:
    """One trainer's share of the questions, in memory."""

    def __init__(self, questions: tuple[str, str], config: GrpoConfig, chat: ChatFormat, worker: Worker) -> None:
        """``questions``: see `evaluation_questions`."""
        folder, split = questions
        groups = row_groups(ShardedDataset(folder), split)
        windows = sequential_windows(groups, rank=worker.rank, world_size=worker.world_size, limit=config.eval_rows)
        load = partial(read_window, columns=COLUMNS)
        collate = _PromptRowCollator(chat)
        batches = iter_batches(windows, load, collate, batch_size=ROWS_PER_BATCH, threads=config.decode_threads)
        self.rows: list[PromptRow] = [row for batch in batches for row in batch]
        self.device = worker.device

    def __call__(self, pool: EnginePool, weights: PolicyWeights) -> dict[str, float]:
        """Accuracy, format and length of the engines' answers over all trainers' questions. Collective."""
        pending = pool.submit([Prompt(row.text, row.image) for row in self.rows], greedy=True)
        answers = [output.completions[0] for output in pool.collect(pending, weights)]
        samples = [
            Sample(row.path, row.question, row.answer, answer.text.strip())
            for row, answer in zip(self.rows, answers, strict=True)
        ]
        tokens = torch.tensor([float(sum(len(answer.token_ids) for answer in answers))], dtype=torch.float64)
        sums = sum_over_workers(torch.cat([count_samples(samples), tokens]).to(self.device))
        count, correct, formed, length = sums.tolist()
        return {
            "eval/accuracy": correct / count,
            "eval/well_formed": formed / count,
            "eval/mean_length": length / count,
        }


class _PromptRowCollator(ArrowBatchCollateFn):
    def __init__(self, chat: ChatFormat) -> None:
        self.chat = chat

    def __call__(self, table: pa.Table) -> list[PromptRow]:  # type: ignore[override]
        return prompt_rows(table, self.chat)
