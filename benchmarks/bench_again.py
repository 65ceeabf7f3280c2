"""What a cell of `kbd bench` costs that is there already: the time of a second run, divided by its cells."""

import json
import tempfile
import time
from pathlib import Path

from keras_backdoor.benchmark.bench import bench
from keras_backdoor.benchmark.cells import Plan
from keras_backdoor.benchmark.presets import PRESETS
from keras_backdoor.benchmark.results import record_path
from keras_backdoor.benchmark.runner import NETWORKS
from keras_backdoor.defenses import DEFENSES, SIFTING, TRAINING

LIMIT = 50.0  # milliseconds a cell


def plan() -> Plan:
    preset = PRESETS["quick"]
    settings = {
        method: {name: (value, "preset quick") for name, value in own.items()}
        for method, own in preset.settings.items()
    }
    return Plan(preset.recipes, [*DEFENSES, *SIFTING, *TRAINING], range(5), innocent=preset.innocent, settings=settings)


def pretend(folder: Path) -> int:
    """Records as those of cells that were run; gives their number."""
    rates = {"clean_accuracy": 0.9, "attack_success_rate": {"x": 0.5}, "robust_accuracy": {"x": 0.5}}
    cells = plan().cells()
    record_path(folder).mkdir()
    (folder / "run.json").write_text('{"command": "bench", "asked": {}, "finished": true}')
    for cell in cells:
        known = {"key": cell.key, "recipe": cell.training.recipe, "dataset": "mnist", "innocent": cell.innocent}
        known |= {"defense": cell.defense, "seed": cell.training.seed, "settings": dict(cell.settings)}
        known |= {"identity": cell.identity, "status": "done", "reason": None, "networks": {"badnet": rates}}
        known |= {"before": rates, "after": rates, "process_seconds": 1.0}
        record_path(folder, cell).write_text(json.dumps(known))
        (folder / NETWORKS / cell.name).mkdir(parents=True)
    return len(cells)


def table() -> str:
    with tempfile.TemporaryDirectory() as home:
        count = pretend(Path(home))
        started = time.perf_counter()
        bench(plan(), home, resume=True, tell=lambda *_: None)
        spent = 1000 * (time.perf_counter() - started) / count
    return "\n".join(
        [
            "### Cells of a bench that are there",
            "",
            f"A second run over {count} cells, tables and fingerprints of the data included. Limit: {LIMIT:.0f} ms a cell.",
            "",
            "| ms a cell | within the limit |",
            "| ---: | --- |",
            f"| {spent:.1f} | {'yes' if spent < LIMIT else 'NO'} |",
        ]
    )


if __name__ == "__main__":
    print(table())
