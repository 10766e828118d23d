"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any, cast

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, muon
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from fer.errors import UserError
from fer.training.options import OptimizerOptions

muon_in_float32 = functools.partial(muon.zeropower_via_newtonschulz, dtype=torch.float32)
"""timm's Muon makes its steps orthogonal in bfloat16, eight times slower on CPUs without instructions for it."""


def build_optimizer(options: OptimizerOptions, model: nn.Module) -> torch.optim.Optimizer:
    """timm optimizer by name, without weight decay on biases and normalisation. Raises UserError if there is none."""
    if options.opt not in list_optimizers():
        raise UserError(f"--opt: timm has no optimizer {options.opt!r}; for example adamw, sgd, lamb, muon")
    if next(model.parameters()).device.type == "cpu":
        muon.zeropower_via_newtonschulz = muon_in_float32
    fused: dict[str, Any] = {"fused": True} if has_fused(options.opt) else {}
    return create_optimizer_v2(
        model, opt=options.opt, lr=options.lr, weight_decay=options.weight_decay, momentum=options.momentum, **fused
    )


def has_fused(name: str) -> bool:
    """Whether PyTorch updates all weights in one kernel with this optimizer: Adam, AdamW, SGD and Adagrad."""
    return "fused" in inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters


class LRSchedule:
    """Learning rate per optimizer step, counted from 0: timm's cosine with warm-up, or torch's OneCycleLR.

    Raises UserError if the optimizer has no momentum for OneCycleLR, which changes it too.
    """

    def __init__(self, options: OptimizerOptions, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        self.total_steps = options.epochs * steps_per_epoch
        self.scheduler: OneCycleLR | Scheduler
        if options.scheduler == "onecycle":
            if not {"momentum", "betas"} & optimizer.defaults.keys():
                raise UserError(
                    f"--scheduler onecycle changes the momentum, and --opt {options.opt} has none: use --scheduler "
                    "cosine, or another --opt"
                )
            peak = options.max_lr or options.lr
            self.scheduler = OneCycleLR(
                optimizer,
                max_lr=peak,
                total_steps=self.total_steps + 1,
                pct_start=options.pct_start,
                div_factor=peak / options.lr if options.max_lr else 25.0,
            )
        else:
            warmup = min(options.warmup_epochs, options.epochs / 2)
            cosine, _ = create_scheduler_v2(
                optimizer,
                sched="cosine",
                num_epochs=cast(int, options.epochs - warmup),  # of the cosine alone; a fraction will do, steps decide
                warmup_epochs=cast(int, warmup),
                warmup_lr=options.lr / 100,
                warmup_prefix=True,
                cooldown_epochs=0,
                step_on_epochs=False,
                updates_per_epoch=steps_per_epoch,
            )
            assert cosine is not None
            cosine.step_update(0)
            self.scheduler = cosine

    def step(self, global_step: int) -> None:
        """Set the learning rate of optimizer step ``global_step``, a function of it and of the options."""
        global_step = min(global_step, self.total_steps)
        if isinstance(self.scheduler, OneCycleLR):
            self.scheduler.last_epoch = global_step - 1
            self.scheduler.step()
        else:
            self.scheduler.step_update(global_step)

    def restore(self, global_step: int) -> None:
        """Continue after ``global_step`` steps, of this run or of one with other options."""
        with warnings.catch_warnings():  # the steps were taken before
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.step(global_step)
