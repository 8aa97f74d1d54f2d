"""Run by torchrun in test_training_processes.py: one of two processes that train together, and what it saw, as JSON.

Arguments: settings as JSON, folder of the pairs, folder to write to.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
import torch

from mine_reg.training.datasets import folder_data
from mine_reg.training.fit import fit
from mine_reg.training.modules import AffineTraining


class Watched(AffineTraining):
    """Notes which pairs it is given and how its parameters stand after each step."""

    def setup(self, stage: str) -> None:
        self.seen = {
            "world": self.trainer.world_size,
            "pairs": [],
            "validated": [],
            "gradients": [],
            "parameters": [],
            "metrics": [],
        }

    def training_step(self, batch, index):
        self.seen["pairs"].append(float(batch["fixed"].double().sum()))
        return super().training_step(batch, index)

    def validation_step(self, batch, index):
        self.seen["validated"].append(float(batch["fixed"].double().sum()))
        return super().validation_step(batch, index)

    def on_before_optimizer_step(self, optimiser):
        super().on_before_optimizer_step(optimiser)
        self.seen["gradients"].append(float(self.network.parameters_head.weight.grad.double().abs().sum()))

    def on_train_batch_end(self, *_):
        self.seen["parameters"].append(
            float(torch.cat([p.detach().double().flatten() for p in self.parameters()]).abs().sum())
        )

    def on_validation_end(self):
        self.seen["metrics"].append(
            {name: float(value) for name, value in self.trainer.callback_metrics.items() if name.startswith("val_")}
        )


cfg, pairs, folder = SimpleNamespace(**json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
lightning.seed_everything(cfg.seed, verbose=False)
module = Watched(cfg)
result = fit(module, folder_data(cfg, pairs), folder / "out", folder / "work", folder / "curves")
(folder / f"rank{module.global_rank}.json").write_text(json.dumps(module.seen | {"result": result}))
