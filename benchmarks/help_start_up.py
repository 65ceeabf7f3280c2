"""How long help takes, against the time that importing TensorFlow alone takes: `kbd --help` and `kbd X --help`."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from kbd.main import COMMANDS
from keras_backdoor.defenses import DEFENSES

RUNS = 7
LIMIT = 0.5  # seconds, for every help text


def seconds(command: list[str]) -> float:
    """The median over RUNS whole processes, after one that is not counted."""
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def rows() -> list[tuple[str, float]]:
    kbd = str(Path(sys.executable).with_name("kbd"))
    commands = [[], *([name] for name in COMMANDS), *(["defend", method] for method in DEFENSES)]
    return [(" ".join(["kbd", *words, "--help"]), seconds([kbd, *words, "--help"])) for words in commands]


def table() -> str:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    baseline = seconds([sys.executable, "-c", "import tensorflow"])
    lines = [
        "### Help texts",
        "",
        f"Median of {RUNS} whole processes. Limit: {LIMIT} s. Baseline: `import tensorflow` alone, {baseline:.2f} s.",
        "",
        "| command | seconds | of the baseline | within the limit |",
        "| --- | ---: | ---: | --- |",
    ]
    for name, time_taken in rows():
        verdict = "yes" if time_taken < LIMIT else "NO"
        lines.append(f"| `{name}` | {time_taken:.3f} | {100 * time_taken / baseline:.0f} % | {verdict} |")
    return "\n".join(lines)
