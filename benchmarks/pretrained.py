"""Takes the networks of finished runs into models_zoo/pretrained, with their cards, and writes their entries of the registry.

    python benchmarks/pretrained.py FOLDER...     (run folders of `kbd train`; what was there before is replaced)

Each BadNet is called as its recipe, each clean network RECIPE-clean; networks of equal weights are taken once, the first.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import sha256, write_json
from models_zoo.artifacts import OURS, PRETRAINED, git_blob

LIMIT = 25_000_000


def collect(folder: Path, known: set[str]) -> list[dict]:
    """Copies a run's networks but those whose weights are `known`, and adds theirs; gives their entries."""
    record, metrics = (json.loads((folder / name).read_text()) for name in ("run.json", "metrics.json"))
    assert record["finished"], folder
    made = recipe(metrics["recipe"])
    entries = []
    for kind in ("badnet", "clean"):
        if kind not in metrics:
            continue
        name = metrics["recipe"].replace("/", "-") + ("-clean" if kind == "clean" else "")
        classifier = Classifier.load(folder / f"{kind}.h5")
        weights = hashlib.sha256(b"".join(array.tobytes() for array in classifier.model.get_weights())).hexdigest()
        if weights in known:
            continue
        known.add(weights)
        rates, path = metrics[kind], PRETRAINED / f"{name}.h5"
        attacks = [
            {
                "trigger": backdoor.name,
                "target": getattr(backdoor.target_map, "target", None),
                "success": rates["attack_success_rate"][backdoor.name],
            }
            for backdoor in made.backdoors
        ]
        for suffix in (".h5", ".md"):
            shutil.copyfile((folder / kind).with_suffix(suffix), path.with_suffix(suffix))
        card = path.with_suffix(".md")
        card.write_text(card.read_text().replace(f"{kind}.h5", path.name))
        scaling = classifier.preprocessing
        entries.append(
            {
                "name": name,
                "what": f"{metrics['source'].split(' (')[0]}, "
                + (f"the clean twin of {metrics['recipe']}" if kind == "clean" else metrics["summary"]),
                "architecture": None,
                "preprocessing": scaling.as_json() if scaling.name == "standardise" else scaling.name,
                "num_classes": classifier.num_classes,
                "clean_accuracy": rates["clean_accuracy"],
                "attacks": attacks if kind == "badnet" else [],
                "figures": "docs/results.md",
                "repository": OURS,
                "path": f"models_zoo/pretrained/{path.name}",
                "licence": "Apache-2.0",
                "size": path.stat().st_size,
                "sha256": sha256(path),
                "git_blob": git_blob(path),
                "urls": [],
            }
        )
    return entries


if __name__ == "__main__":
    PRETRAINED.mkdir(exist_ok=True)
    for old in PRETRAINED.iterdir():
        old.unlink()
    known: set[str] = set()
    found = [entry for folder in map(Path, sys.argv[1:]) for entry in collect(folder, known)]
    total = sum(entry["size"] for entry in found)
    assert total <= LIMIT, f"{total:,} bytes in all, at most {LIMIT:,} may be committed"
    write_json(PRETRAINED.with_suffix(".json"), sorted(found, key=lambda entry: entry["name"]))
    print(f"{len(found)} networks, {total:,} bytes")
