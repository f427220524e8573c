"""The examples, run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_step_of_the_quickstart_comes_out_as_announced(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "01-quickstart" / "demo.py", "--state", tmp_path / "state"]
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
