"""These tests need a board that `make arm64` makes; without it they are not collected."""

import os

collect_ignore = [] if "EDGEKIT_ARM64_URL" in os.environ else ["test_board.py"]
