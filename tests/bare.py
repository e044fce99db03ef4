"""A Python without the extra `course`: python tests/bare.py MODULE [ARGUMENT ...] runs a module in it.

Its packages, and those that come with them alone, are neither found nor listed, whatever is installed.
"""

import importlib.machinery
import re
import runpy
import sys

ABSENT = ["cleanlab", "ctranslate2", "datasketch", "ipykernel", "jupyterlab", "papermill"]
ABSENT += ["IPython", "jupyter_client", "jupyter_core", "nbclient", "nbconvert", "nbformat", "traitlets"]


class Bare(importlib.machinery.PathFinder):
    """The usual search of sys.path, blind to what is absent."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] in ABSENT:
            return None
        return super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, context):
        found = importlib.machinery.PathFinder.find_distributions(context)
        return [known for known in found if re.sub(r"[-.]+", "_", known.name) not in ABSENT]


if __name__ == "__main__":
    sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Bare
    sys.argv[:] = sys.argv[1:]
    sys.path[0] = ""  # as python -m has it
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
