"""A bench: its folder, its cells, its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_backdoor.benchmark.cells import Plan
from keras_backdoor.benchmark.runner import Runner, owned
from keras_backdoor.benchmark.tables import Marked, write_tables
from keras_backdoor.files import PathLike
from keras_backdoor.runs import Run, check_output_folder

Tell = Callable[[int, int, Mapping[str, Any]], None]
"""`tell(done, total, record)`: `record`, of a cell that has just been run, is the `done`-th of `total` that had to be."""


def bench(
    plan: Plan, folder: PathLike, *, resume: bool = False, reproduce: str = "", tell: Tell, **runner: Any
) -> list[Marked]:
    """Run the cells of `plan` that are not in `folder` yet, and write the tables of all that are; gives their rows.

    The tables are made anew whenever a cell is done. resume: the folder is that of a bench; the plan may be another one.
    reproduce: the command that asks for this. runner: other arguments of `runner.Runner`.

    Raises `BadInput` as `Plan.cells` and `runner.owned` do, or if the folder is in use for something else.
    """
    check_output_folder(folder, resume)
    cells = plan.cells()
    with owned(Path(folder)) as lock:
        run = Run.start(folder, "bench", {}, resume, reproduce)
        run.write("run.json", {**run.read("run.json"), "finished": False})
        count = 0

        def next_record(record: Mapping[str, Any]) -> None:
            nonlocal count
            count += 1
            write_tables(run.folder)
            tell(count, len(pending), record)

        work = Runner(run.folder, lock, tell=next_record, **runner)
        pending = [cell for cell in cells if work.open(cell)]
        work.run(pending)
        run.finish()
        return write_tables(run.folder)
