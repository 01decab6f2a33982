import subprocess
import sys

PROGRAM = """
import gc, json
from server import heap
kept = [[n] for n in range(50_000)]
heap.settle()
looks = []
gc.callbacks.append(lambda phase, info: looks.append(info["generation"]))
young = [[n] for n in range(9_000)]
print(json.dumps([gc.get_freeze_count() > 50_000, looks]))
young += [[n] for n in range(9_000)]
loop = []
loop.append(loop)
del loop
print(json.dumps([0 in looks, gc.isenabled(), gc.collect() > 0]))
"""


def test_what_was_loaded_is_spared_and_cycles_are_still_found() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[true, []]", "[true, true, true]"]
