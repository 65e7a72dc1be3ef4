"""Runs a command and prints the most memory that it took, in bytes. Run by its path, not imported.

A process of its own, and a small one: a child's peak starts at the size of the process that it was started from.
"""

import json
import os
import subprocess
import sys

child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
child.returncode = os.waitstatus_to_exitcode(status)
unit = 1 if sys.platform == "darwin" else 1024
json.dump({"status": child.returncode, "bytes": usage.ru_maxrss * unit}, sys.stdout)
