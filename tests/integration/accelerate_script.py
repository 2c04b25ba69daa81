"""A training script with its own loop, as a user of Accelerate writes it. Usage: STRATEGY OUT."""

from __future__ import annotations

import json
import os
import sys
import warnings

import torch
from torch.utils.data import DataLoader
from worker import Tokens, make_model

from acpt_trainer import create_accelerator, strategy_report

warnings.simplefilter("ignore")
strategy, out = sys.argv[1:]
accelerator = create_accelerator(strategy, precision="fp32")
model = make_model({})
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
loader = DataLoader(Tokens(64), batch_size=8 // int(os.environ.get("WORLD_SIZE", "1")))
plain = model
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
model.train()
losses = []
for batch in loader:
    optimizer.zero_grad()
    loss = model(**batch).loss
    accelerator.backward(loss)
    optimizer.step()
    losses.append(accelerator.gather(loss.detach()[None]).mean().item())
assert accelerator.unwrap_model(model) is plain
state = accelerator.get_state_dict(model)
report = strategy_report(accelerator).to_dict()
accelerator.end_training()
if accelerator.is_main_process:
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"losses": losses, "report": report, "keys": sorted(state)}, file)
