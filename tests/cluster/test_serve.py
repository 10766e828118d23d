"""How Ray Serve is set up in each of its processes."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys

from cluster.serve import import_serve

import_serve()
print("ray.serve" in sys.modules, "pandas" in sys.modules)
import pandas

print(pandas.DataFrame({"a": [1, 2]})["a"].sum())
import_serve()
"""


def test_serve_does_without_pandas_and_other_code_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False", "3"]
