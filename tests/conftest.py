"""What all tests share: tests/support/ is importable, hypothesis is bounded and repeatable."""

import os
import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("laptop", max_examples=100, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")
