"""Trains under `auto` and then under its winner, as one of several ranks.

Usage: auto_ranks.py CANDIDATES FOLDER [STEPS]   (writes FOLDER/RANK.json)
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from auto_made_up import MADE_UP, losses, trainer

from acpt_trainer import get_strategy, register_strategy


def main() -> None:
    names, folder = sys.argv[1].split(","), Path(sys.argv[2])
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    for cls in MADE_UP:
        register_strategy(cls.name, cls)
    auto = get_strategy("auto").build(candidates=names, cache=folder / "kept", steps=3)
    ours = trainer(auto, folder / "auto", max_steps=steps)
    ours.train()
    report = ours.strategy_report().to_dict()
    theirs = trainer(report["strategy"], folder / "named", max_steps=steps)
    theirs.train()
    found = {"report": report, "ours": losses(ours), "theirs": losses(theirs)}
    (folder / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
