"""Makes the modules of the example importable, as they are when its scripts run."""

import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "homer_gpt2"

if str(EXAMPLE) not in sys.path:
    sys.path.insert(0, str(EXAMPLE))
