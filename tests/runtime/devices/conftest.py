"""Put the contract suite and the doubles where the tests beside them can import them."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
pytest.register_assert_rewrite("device_contract")
