"""The Triton kernels on a CPU: collected only where TRITON_INTERPRET=1 has chosen Triton's interpreter.

`TRITON_INTERPRET=1 pytest tests/interpreted` runs them by hand; `tests/ops/test_interpreted.py` does in the suite.
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
