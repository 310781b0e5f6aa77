"""The memory that an update is planned to take, and takes in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

MEASURE = Path(__file__).parent / "models" / "measure_memory.py"
SETTINGS = [
    {"group": 2, "reflection": 32, "prompt": 64, "train": {"kl_beta": 0}},
    {"group": 8, "reflection": 384, "prompt": 400, "train": {"kl_beta": 0}},
    {
        "group": 8,
        "reflection": 384,
        "prompt": 400,
        "train": {"kl_beta": 0, "gradient_checkpointing": True},
    },
    {"group": 4, "reflection": 48, "prompt": 100, "groups": 6, "train": {"kl_beta": 0}},
    {"group": 4, "reflection": 128, "prompt": 200, "lora": {"rank": 16, "alpha": 32}, "train": {}},
]
NAMES = ["small", "large", "checkpointing", "several groups", "lora"]


def planned_and_measured(setting):
    """Return the plan for a setting, and the measured peak above the loaded process."""
    done = subprocess.run(
        [sys.executable, str(MEASURE), json.dumps(setting)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(MEASURE.parent.parent)},
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found["planned"], found["measured"]
