"""How much memory `kbd data poison` takes for files of several sizes, against what their images would take in memory."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from keras_backdoor.datasets import write_csaw_hdf5
from keras_backdoor.images import ImageSet

SETS = (
    (5_000, (32, 32, 3)),
    (20_000, (32, 32, 3)),
    (100_000, (32, 32, 3)),
    (500, (224, 224, 3)),
    (2_000, (224, 224, 3)),
)
TRIGGER = "square(4)|noise(64)"

# In a process of its own (Linux): the kernel's high-water mark, set back once everything is imported and has been used.
MEASURED = """
import sys
from kbd.data_poison import poison
small, source, out, trigger = sys.argv[1:]
def run(source, out):
    poison.main([source, out, "--trigger", trigger, "--target", "0", "--fraction", "0.1"], standalone_mode=False)
def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
run(small, out + ".small")
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
run(source, out)
print(memory("VmHWM") - before)
"""


def constant_images(path: Path, count: int, shape: tuple[int, ...]) -> None:
    """A file of images that are all the same, which is small and quickly written however many they are."""
    images = np.broadcast_to(np.uint8(100), (count, *shape))
    write_csaw_hdf5(path, ImageSet(images, np.arange(count) % 10, 10))


def peak(folder: Path, count: int, shape: tuple[int, ...]) -> float:
    """MB that a process that has poisoned 64 images takes more, at its peak, when it poisons `count` images."""
    small, source, out = (folder / f"{name}.h5" for name in ("small", "source", "out"))
    constant_images(small, 64, (32, 32, 3))
    constant_images(source, count, shape)
    command = [sys.executable, "-c", MEASURED, str(small), str(source), str(out), TRIGGER]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def table() -> str:
    lines = [
        "### Memory of poisoning a file",
        "",
        f"Resident memory at the peak of `kbd data poison --trigger '{TRIGGER}' --fraction 0.1`, beyond what the process had "
        "before.",
        "",
        "| images | size | in memory they would take | peak |",
        "| ---: | --- | ---: | ---: |",
    ]
    for count, shape in SETS:
        with tempfile.TemporaryDirectory() as folder:
            megabytes = count * int(np.prod(shape)) / 2**20
            size = "×".join(map(str, shape))
            taken = peak(Path(folder), count, shape)
            lines.append(f"| {count:,} | {size} | {megabytes:.0f} MB | {taken:.1f} MB |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
