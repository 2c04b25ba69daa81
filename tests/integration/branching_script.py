"""A user's script whose model branches on its data: `ort` refuses it. Usage: STRATEGY OUT."""

from __future__ import annotations

import sys

import torch
from torch import nn
from transformers import TrainingArguments

from acpt_trainer import AcceleratedTrainer, reported_errors


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.gate = Gate()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.gate(self.layer(x)) - labels).square().mean()}


def checksum(model: nn.Module) -> str:
    return " ".join(str(p.detach().double().sum().item()) for p in model.parameters())


def main(strategy: str, output_dir: str) -> None:
    torch.manual_seed(0)
    rows = [{"x": torch.randn(4), "labels": torch.ones(4)} for _ in range(8)]
    model = Branching()
    print("before", checksum(model))
    try:
        args = TrainingArguments(
            output_dir, max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True
        )
        AcceleratedTrainer(
            model=model, args=args, train_dataset=rows, strategy=strategy, precision="fp32"
        ).train()
    finally:
        print("after", checksum(model))


if __name__ == "__main__":
    with reported_errors():
        main(*sys.argv[1:])
