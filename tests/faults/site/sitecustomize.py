"""Ends the process it is in at a fault point. Python imports it where this folder is on its path.

What the process does to a run's and a cache's files is counted: a write's beginning, a file that
takes another's place, a truncation, and calls of the functions in ``CALLS``. ``FAULT_LOG`` names a
file that gets a line for each; ``FAULT`` is JSON: the line, the how-manieth of them, and ``torn``,
how many bytes of that write still come through, or null.
``FAULT_ONCE`` names a file by which several processes agree that one of them ends.
"""

import importlib.abc
import importlib.util
import json
import os
import re
import resource
import signal
import sys
from collections import Counter

FILES = re.compile(
    r"^\.?((?:train|eval|timing)\.csv|summary\.json|checkpoint(?:\.previous)?\.pt|eval_returns\.npz"
    r"|run\.log|sweep\.json|\w+\.npy|meta\.json|config\.yaml|\w+\.hdf5)(?:\.\d+)?$"
)
CALLS = {
    "bcq_exp.training.evaluation": ("Agent", "act"),
    "bcq_exp.engine.engine": ("CohortEngine", "advance"),
    "bcq_exp.data.cache": ("cached",),
}
WRITES = set("wax+")


class Faults:
    def __init__(self, fault, once, log):
        self.fault, self.once = fault, once
        self.log = None if log is None else os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.seen = Counter()

    def happened(self, point):
        self.seen[point] += 1
        if self.log is not None:
            os.write(self.log, f"{point}\n".encode())
        if self.fault and [point, self.seen[point]] == [self.fault["point"], self.fault["count"]]:
            self.end(point)

    def end(self, point):
        if self.once is not None:
            try:
                os.close(os.open(self.once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        if self.fault["torn"] is None:
            os.kill(os.getpid(), signal.SIGKILL)
        # the system ends the process in the middle of the write that would get longer
        size = self.fault["torn"] + (self.size if "a" in self.mode else 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def hook(self, event, args):
        if event not in ("open", "os.rename", "os.truncate"):
            return
        path = args[1] if event == "os.rename" else args[0]
        if not isinstance(path, str | os.PathLike):
            return
        found = FILES.match(os.path.basename(path))
        if found is None:
            return
        if event == "open":
            self.mode = args[1] or ""
            if not WRITES & set(self.mode):
                return
            self.size = os.path.getsize(path) if os.path.exists(path) else 0
        self.happened(f"{event} {found[1]}")


class Wrapping(importlib.abc.MetaPathFinder):
    """Counts the calls of ``CALLS`` once their modules are there."""

    def __init__(self, faults):
        self.faults = faults

    def find_spec(self, name, path, target=None):
        if name not in CALLS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            *owner, attribute = CALLS[name]
            place = getattr(module, owner[0]) if owner else module
            function = getattr(place, attribute)

            def counted(*args, **kwargs):
                self.faults.happened(f"call {attribute}")
                return function(*args, **kwargs)

            setattr(place, attribute, counted)

        spec.loader.exec_module = exec_module
        return spec


if "FAULT" in os.environ or "FAULT_LOG" in os.environ:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    faults = Faults(
        json.loads(os.environ.get("FAULT", "null")),
        os.environ.get("FAULT_ONCE"),
        os.environ.get("FAULT_LOG"),
    )
    sys.meta_path.insert(0, Wrapping(faults))
    sys.addaudithook(faults.hook)
