"""Runs the benchmarks and writes their tables to RESULTS.md beside this file."""

import os
import platform
import sys
from pathlib import Path

import abs as stimulation
import bench_again
import cyclegan
import early_stop
import help_start_up
import mntd
import neural_cleanse
import poison_memory
import strip
import sweep
import throughput
import triggers

if __name__ == "__main__":
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    tables = "\n\n".join(
        part.table()
        for part in (
            help_start_up,
            poison_memory,
            triggers,
            sweep,
            strip,
            neural_cleanse,
            cyclegan,
            early_stop,
            mntd,
            stimulation,
            bench_again,
            throughput,
        )
    )
    text = f"# Benchmarks\n\nWritten by `make bench`. Machine: {machine}.\n\n{tables}\n"
    Path(__file__).with_name("RESULTS.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
