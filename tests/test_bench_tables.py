"""The table: figures put together over seeds, by hand; published figures against the papers; and the command."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import answer, assert_refused, run

from keras_backdoor.attacks.recipes import RECIPES
from keras_backdoor.benchmark import presets, published, tables
from keras_backdoor.benchmark.cells import NONE
from keras_backdoor.benchmark.page import PLACE, filled
from keras_backdoor.benchmark.prose import side_by_side
from keras_backdoor.benchmark.results import read_records, rows
from keras_backdoor.defenses import DEFENSES, SIFTING, TRAINING
from keras_backdoor.metrics import defense_effectiveness
from keras_backdoor.pareto import pareto_front

ROOT = Path(__file__).resolve().parents[1]
TRIGGERS = ("lipstick", "eyebrows", "sunglasses")


def scores(accuracy, *success):
    attack = dict(zip(TRIGGERS, success))
    return {"clean_accuracy": accuracy, "attack_success_rate": attack, "robust_accuracy": dict.fromkeys(attack, 0.25)}


def record(defense, seed=0, innocent=False, status="done", settings=None, **figures):
    """A record as the runner leaves it, of youtube-mtsta on images from elsewhere."""
    settings = {"seed": seed, **(settings or {})}
    return {
        "key": f"{defense}{seed}{innocent}",
        "recipe": "youtube-mtsta",
        "dataset": "lfw",
        "innocent": innocent,
        "defense": defense,
        "seed": seed,
        "settings": settings,
        "origins": dict.fromkeys(settings, "command line"),
        "identity": {"epochs": 20, "seed": seed, "data": {"train": "x"}, "settings": settings, "innocent": innocent}
        | {"defense": defense},
        "status": status,
        "reason": None,
        "process_seconds": 9.0,
        "cpu_seconds": 8.0,
        "peak_memory_mib": 500.0,
        "seconds": 2.0,
        **figures,
    }


BADNET, TWIN = scores(0.9, 0.8, 0.7, 1.0), scores(0.95, 0.01, 0.0, 0.02)


def effect(*values):
    return dict(zip(TRIGGERS, values))


RECORDS = [
    record(NONE, networks={"badnet": BADNET, "innocent": TWIN}, seconds=None),
    record("fine-pruning", before=BADNET, after=scores(0.85, 0.1, 0.0, 0.3), effectiveness=effect(0.825, 0.825, 0.825)),
    record("fine-pruning", 1, before=BADNET, after=scores(0.81, 0.3, 0.0, 0.1), effectiveness=effect(0.7, 0.8, 0.9)),
    record("fine-pruning", 2, status="failed", reason="killed by signal 9"),
    record("nad", before=BADNET, after=scores(0.7, 0.1, 0.1, 0.1), effectiveness=effect(0.75, 0.7, 0.85)),
    record("nnoculation-pre", before=BADNET, after=scores(0.99, 0, 0, 0), effectiveness=effect(0.9, 0.85, 1.0)),
    record(
        "unlearning",
        settings={"target": 4},
        before=BADNET,
        after=scores(1, 0, 0, 0),
        effectiveness=effect(0.9, 0.85, 1),
    ),
    record(
        "strip",
        before=BADNET,
        after=scores(0.88, 0.2, 0.3, 0.9),
        effectiveness=effect(0.79, 0.69, 0.54),
        filter={
            "false_rejection_rate": 0.02,
            "false_acceptance_rate": effect(0.25, 0.5, 0.9),
            "auc": effect(0.9, 0.8, 0.7),
        },
    ),
    record("neural-cleanse", before=BADNET, after=BADNET, verdict={"backdoored": True, "labels": [4], "score": 3.25}),
    record(
        "neural-cleanse",
        innocent=True,
        before=TWIN,
        after=TWIN,
        verdict={"backdoored": True, "labels": [7], "score": 2.5},
    ),
    record(
        "neural-cleanse", 1, True, before=TWIN, after=TWIN, verdict={"backdoored": False, "labels": [], "score": 1.5}
    ),
    record("abl", status="refused", reason="has no batch normalisation"),
    record("spectral-signatures", sifted={"recall": 0.5, "precision": 1.0, "false_flags": 0.0}),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cells").mkdir()
    for place, one in enumerate(reversed(RECORDS)):
        (tmp_path / "cells" / f"{place}.json").write_text(json.dumps(one))
    (tmp_path / "cells" / ".unfinished-1-x.json").write_text("{")
    return tmp_path


@pytest.fixture
def found(folder):
    return {(row.defense, row.innocent): (row, front) for row, front in tables.write_tables(folder)}


def test_rows_are_put_together_over_seeds(found):
    row, _ = found["fine-pruning", False]
    assert (row.seeds, row.failed) == ([0, 1], {2: "failed: killed by signal 9"})
    assert row.mean("clean_accuracy") == pytest.approx(0.83)
    assert row.deviation("clean_accuracy") == pytest.approx(0.04 / 2**0.5)  # of two values: their distance / sqrt(2)
    assert row.mean("attack_success", "lipstick") == pytest.approx(0.2)
    assert row.mean("clean_accuracy_before") == 0.9 and row.settings == {}
    assert found[NONE, True][0].mean("clean_accuracy") == 0.95 and found[NONE, False][0].mean("seconds") == 9
    assert found["nad", False][0].deviation("clean_accuracy") is None
    assert list(found) == [
        *(
            (name, False)
            for name in (NONE, "fine-pruning", "strip", "neural-cleanse", "unlearning", "nnoculation-pre", "nad")
        ),
        *((name, False) for name in ("spectral-signatures", "abl")),
        *((name, True) for name in (NONE, "neural-cleanse")),
    ]


def test_the_pareto_front_is_drawn_for_each_trigger(found):
    # Rivals: fine-pruning at 83, nad at 70, strip at 88 % accuracy; nnoculation-pre and the oracle are none. Attack success by
    # lipstick 0.2, 0.1, 0.2: nad is the lowest, strip beats fine-pruning; by eyebrows 0, 0.1, 0.3; by sunglasses 0.2, 0.1, 0.9.
    assert {defense: front for (defense, _), (_, front) in found.items() if front} == {
        "fine-pruning": ["eyebrows", "sunglasses"],
        "nad": ["lipstick", "sunglasses"],
        "strip": list(TRIGGERS),
    }


def test_side_by_side_says_what_each_defense_came_to(found):
    heading, *lines = side_by_side([*found.values()])
    badnet, innocent = "youtube-mtsta (lfw, 20 epochs)", "youtube-mtsta, innocent (lfw, 20 epochs)"
    assert heading == ["defense", badnet, innocent]
    told = {line[0]: line[1:] for line in lines}
    assert told[NONE] == ["90.00 / {80.00, 70.00, 100.00}", "95.00 / {1.00, 0.00, 2.00}"]
    assert told["nad"] == ["**70.00** / {**10.00**, 10.00, **10.00**}", ""]
    assert told["unlearning †"] == ["100.00 / {0.00, 0.00, 0.00}", ""]
    assert told["strip"][0].endswith("(FAR {25.00, 50.00, 90.00})")
    assert told["neural-cleanse"] == ["backdoored (label 4)", "false alarm: 50% of seeds (label 7)"]
    assert told["abl"] == ["refused", ""]
    assert told["spectral-signatures"][0] == "recall 50.00, precision 100.00, false flags 0.00"


def test_what_differs_in_more_than_the_seed_stands_apart():
    badnet = record(NONE, networks={"badnet": BADNET})
    known = {"before": BADNET, "effectiveness": effect(0.5, 0.5, 0.5)}
    slow = record("nad", settings={"epochs": 9}, after=scores(0.6, 0, 0, 0), **known)
    tuned = record("nad", settings={"optimizer": "sgd"}, after=scores(0.5, 0, 0, 0), **known)
    tuned["origins"] = {"optimizer": "recipe"}
    short = {**badnet, "limit": 5, "identity": {**badnet["identity"], "epochs": 1}}
    heading, *lines = side_by_side(tables.marked(rows([badnet, short, slow, tuned])))
    assert heading[1:] == ["youtube-mtsta (lfw, 5 a class, 1 epochs)", "youtube-mtsta (lfw, 20 epochs)"]
    assert [(name.strip(), told[:5]) for name, _, told in lines] == [
        (NONE, "90.00"),
        ("nad, epochs 9 (command line)", "**60."),
        ("nad,", "50.00"),  # what follows from the recipe is no choice
    ]


def test_markdown_has_the_published_figures_and_the_difference(folder, found):
    text = (folder / "table.md").read_text()
    line = next(line for line in text.split("## youtube-mtsta (")[1].splitlines() if line.startswith("| fine-pruning "))
    assert "83.00 ± 2.83" in line and "{20.00 ± 14.14, **0.00 ± 0.00**, **20.00 ± 14.14**}" in line
    assert "0 (1 failed)" not in line and "| 0, 1 (1 failed) |" in line
    assert "91.61 / {0.00, 2.00, 68.30} (NNoculation, table 5)" in line
    assert "-8.61 / {+20.00, -2.00, -48.30}" in line
    assert "97.31 / {45.04, 64.71, 94.94} (On Evaluating Neural Network Backdoor Defenses, table 3)" in line
    assert "fine-pruning, seed 2, failed: killed by signal 9" in text.split("## Failed and refused")[1]
    strip = next(line for line in text.splitlines() if line.startswith("| strip | "))
    assert "FAR {11.00, 53.70, 4.90} at FRR 5.00 (NNoculation, table 5)" in text and strip


def test_csv_has_a_line_for_each_trigger(folder, found):
    lines = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    own = [line for line in lines if line["defense"] == "fine-pruning"]
    assert [line["trigger"] for line in own] == list(TRIGGERS)
    assert float(own[2]["attack_success"]) == pytest.approx(0.2) and own[2]["published_attack_success"] == "0.683"
    assert (own[0]["pareto"], own[1]["pareto"], own[0]["seeds"], own[0]["failed"]) == ("False", "True", "2", "1")
    (sifted,) = (line for line in lines if line["defense"] == "spectral-signatures")
    assert (sifted["recall"], sifted["attack_success"], sifted["trigger"]) == ("0.5", "", "")


def test_json_has_everything_and_latex_escapes(folder, found):
    told = {(row["defense"], row["innocent"]): row for row in json.loads((folder / "table.json").read_text())}
    assert told["fine-pruning", False]["by_trigger"]["attack_success"]["lipstick"] == [0.1, 0.3]
    entry = told["nnoculation-pre", False]["published"][0]
    assert entry["difference"]["clean_accuracy"] == pytest.approx(0.99 - 0.9281)
    assert told["neural-cleanse", True]["published"] == [] and told["strip", False]["pareto"] == list(TRIGGERS)
    tex = (folder / "table.tex").read_text()
    assert r"\{20.00 $\pm$ 14.14, \textbf{0.00 $\pm$ 0.00}, " in tex and r"unlearning $\dagger$" in tex
    assert tex.count(r"\begin{tabular}") == 2 and not re.search(r"(?<!\\)_", tex)


def test_a_page_gets_the_tables_that_it_names(folder, found, refused):
    page = folder / "page.md"
    page.write_text(
        "before\n<!-- bench table.json -->\nold\n<!-- end -->\nbetween\n<!-- bench table.json -->\n<!-- end -->\n"
    )
    text = filled(page)
    tables_there = re.findall(r"<!-- bench table.json -->\n\n(.*?)\n<!-- end -->", text, re.DOTALL)
    notes, heading, rest = (folder / "table.md").read_text().partition("## Side by side\n")
    lower = re.sub("^#", "##", heading + rest, flags=re.MULTILINE)
    assert tables_there == [notes.partition("\n\n")[2] + lower, lower] and "\nold\n" not in text
    assert "Rates in percent" in tables_there[0] and "\n### youtube-mtsta" in tables_there[1]
    assert text.startswith("before\n<!-- bench") and "<!-- end -->\nbetween\n<!-- bench" in text
    page.write_text(text)
    assert filled(page) == text
    (folder / "table.json").write_text('[{"recipe": "x"}]')
    with refused("table.json", "kbd bench"):
        filled(page)
    page.write_text("nothing")
    with refused(page, "<!-- bench FILE -->"):
        filled(page)


def test_tables_in_the_documentation_are_those_of_its_files():
    page = ROOT / "docs" / "results.md"
    named = {page.parent / place["file"] for place in PLACE.finditer(page.read_text(encoding="utf-8"))}
    assert named == set((page.parent / "results").glob("*/table.json"))
    if named:
        assert filled(page) == page.read_text(encoding="utf-8"), f"python -m keras_backdoor.benchmark.page {page}"


def test_what_is_no_record_is_named(folder, refused):
    (folder / "cells" / "strange.json").write_text("[]")
    with refused("strange.json", "record of a cell"):
        rows(read_records(folder))
    with refused(folder / "elsewhere", "no cells"):
        read_records(folder / "elsewhere")


def test_defense_effectiveness():
    assert defense_effectiveness((0.9, 0.9), (1.0, 0.0)) == 1.0
    assert defense_effectiveness((0.9, 0.45), (1.0, 1.0)) == pytest.approx(
        0.275
    )  # BackdoorBench's slip would say 0.725
    assert defense_effectiveness((0.9, 0.95), (0.5, 0.7)) == 0.5


# --- published figures ----------------------------------------------------------------------------------------------------


def entry(table, recipe, defense, variant=None, paper="NNoculation"):
    (found,) = (
        one
        for one in published.published()
        if (one.table, one.recipe, one.defense, one.variant) == (table, recipe, defense, variant)
        and one.paper.startswith(paper)
    )
    return found


def test_spot_checks_of_the_papers_tables():
    one = entry("5", "cifar10-tca", "nnoculation")
    assert (one.clean_accuracy, one.attack_success, one.oracle) == (0.8414, (0.0231,), False)
    one = entry("5", "youtube-mtmta", "unlearning")
    assert (one.attack_success, one.oracle, one.called) == ((0.308, 0.0, 0.957), True, "NeuralCleanse")
    assert entry("6", "gtsrb-fsa", "mntd").probability == 0.5986
    assert entry("7", "cifar10-tca/noise-aware", "nnoculation-pre").attack_success == (0.2551,)
    assert entry("9", "youtube-sg", "nnoculation", "25 % of the validation data").attack_success == (0.3371,)
    assert entry("11", "mnist-cla", "nnoculation").clean_accuracy == 0.9534
    assert entry("12", "gtsrb-wanet", "nnoculation-pre").clean_accuracy == 0.9156
    assert entry("13", "gtsrb-pn", "nnoculation", "without noise (A) and without adapting alpha").attack_success == (
        0.7454,
    )
    evaluating = {"paper": "On Evaluating"}
    one = entry("3", "mnist-cla", "strip", **evaluating)
    assert (one.false_acceptance, one.false_rejection) == ((0.4345,), 0.03)
    assert entry("3", "youtube-ls", "generative-modeling", **evaluating).outcome == "out of scope"
    assert entry("1", "cifar10-dfst", "nad", paper="Anti-Backdoor").attack_success == (0.3521,)


def test_recipes_expect_what_is_published_of_their_networks():
    """Two readers of the same tables: the recipes' `expect`, and the data file."""
    compared = 0
    for name, recipe in RECIPES.items():
        for one in published.figures_for(name, NONE):
            if recipe.expect:
                accuracy, *success = recipe.expect
                assert one.clean_accuracy == accuracy, name
                # Of the triggers of MTSTA and MTMTA the two papers round differently.
                assert one.attack_success == pytest.approx(success, abs=6e-4), (name, one.source)
                compared += 1
    assert compared >= 35


def test_published_names_are_ours():
    for one in published.published():
        assert one.recipe in RECIPES
        assert one.defense in {NONE, *DEFENSES, *SIFTING, *TRAINING, "abs", "generative-modeling"}
        triggers = len(RECIPES[one.recipe].backdoors) or 1
        assert len(one.attack_success) in (0, triggers) and len(one.false_acceptance) in (0, triggers)


def test_the_pareto_front_of_table_5_is_as_its_text_says():
    """NNoculation is Pareto optimal for all BadNets, the others for at most two; and the bold figures of MTSTA and MTMTA."""
    bold: dict[str, set] = {}
    for recipe in (
        "mnist-aaa",
        "cifar10-tca",
        "gtsrb-pn",
        "gtsrb-fsa",
        *(f"youtube-{n}" for n in ("sg", "ls", "mtsta", "mtmta")),
    ):
        rivals = [
            one
            for one in published.published()
            if (one.recipe, one.table) == (recipe, "5")
            and one.attack_success
            and published.counts(one.defense, one.oracle)
        ]
        for place in range(len(RECIPES[recipe].backdoors)):
            points = [(one.clean_accuracy, one.attack_success[place]) for one in rivals]
            for one, best in zip(rivals, pareto_front(*zip(*points))):
                bold.setdefault(one.defense, set()).update({(recipe, place)} if best else ())
    optimal = {defense: {recipe for recipe, _ in of} for defense, of in bold.items()}
    assert (
        len(optimal["nnoculation"]) == 8 and max(len(of) for name, of in optimal.items() if name != "nnoculation") == 2
    )
    assert bold["fine-pruning"] == {("youtube-mtsta", 0), ("youtube-mtmta", 2)}
    assert optimal["unlearning"] == {"gtsrb-pn", "gtsrb-fsa"}


def test_every_number_of_table_5_is_in_the_paper(shared_data):
    paper = shared_data / "../papers/nnoculation.txt"
    text = paper.read_text(encoding="utf-8").partition("Table 5: ")[2].partition("we give oracular")[0]
    for name, recipe in (
        ("MNIST-AAA", "mnist-aaa"),
        ("CIFAR10-TCA", "cifar10-tca"),
        ("YouTube-MTSTA*", "youtube-mtsta"),
    ):
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        printed = [float(number) for number in re.findall(r"\d+\.?\d*", line.partition("\t")[2])]
        own = [one for one in published.published() if one.recipe == recipe and one.table == "5"]
        values = [v for one in own for v in ((one.clean_accuracy,) if one.clean_accuracy else ()) + one.attack_success]
        values += [value for one in own for value in one.false_acceptance]
        assert sorted(printed) == pytest.approx(sorted(100 * value for value in values)), name


# --- the command ----------------------------------------------------------------------------------------------------------


def test_presets_hold_what_their_name_says():
    assert presets.PRESETS["quick"].recipes == ("mnist-patch", "mnist-aaa")
    assert set(presets.PRESETS["mnist"].recipes) == {
        *("mnist-patch", "mnist-aaa", "mnist-cla", "mnist-wanet", "mnist-aaa/noise-aware")
    }
    assert {RECIPES[name].dataset for name in presets.PRESETS["gtsrb"].recipes} == {"gtsrb"}
    for preset in presets.PRESETS.values():
        assert set(preset.recipes) <= set(RECIPES) and set(preset.settings) <= {*DEFENSES, *SIFTING, *TRAINING}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "quik"], ["quik", "quick"]),
        (["--recipes", "mnist-pach"], ["mnist-pach", "mnist-patch"]),
        (["--defenses", "strip,nadd"], ["nadd", "nad"]),
        (["--seeds", "0,x"], ["'x'"]),
        (["--set", "strip.overlay=3"], ["overlay", "overlays", "strip"]),
        (["--set", "strip.overlays=many"], ["strip.overlays=many", "integer"]),
        (["--set", "overlays=3"], ["METHOD.NAME=VALUE"]),
        (["--recipes", "imagenet-in", "--defenses", "strip"], ["imagenet"]),
        (["--recipes", "mnist-patch@mnits"], ["mnits", "mnist"]),
    ],
)
def test_wrong_words_are_refused_in_one_line(words, said, tmp_path):
    assert_refused(run("bench", *words, "-o", tmp_path / "out"), *said)
    assert not (tmp_path / "out").exists()


ALONE = """
import sys
from kbd.main import main
try:
    main()
except SystemExit as ended:
    assert not {"tensorflow", "keras"} & set(sys.modules)
    sys.exit(ended.code)
"""
METHODS = "fine-tuning,strip,spectral-signatures"
TINY = ("--recipes", "mnist-patch", "--defenses", METHODS, "--innocent", "", "--limit", 20, "--epochs", 1)
SET = ("--set", "fine-tuning.epochs=1", "--set", "strip.overlays=5")


def reproduces(folder: Path) -> list[list[str]]:
    """The words of the commands that the runs in a folder say reproduce them."""
    return [shlex.split(json.loads(path.read_text())["reproduce"]) for path in folder.glob("*/run.json")]


@pytest.mark.slow
def test_a_real_bench(tmp_path):
    """One network, and what becomes of it; a second look at it starts no TensorFlow."""
    out = tmp_path / "out"
    told = answer("bench", *TINY, *SET, "-o", out)["rows"]
    assert [(row["defense"], row["failed"]) for row in told] == [
        (name, {}) for name in (NONE, "fine-tuning", "strip", "spectral-signatures")
    ]
    none, tuned, strip, sifted = told
    metrics = json.loads(next(out.glob("runs/*fine-tuning*/metrics.json")).read_text())
    assert tuned["values"]["clean_accuracy"] == [metrics["after"]["clean_accuracy"]]
    shared = "--seed", "0", "--epochs", "1", "--limit", "20"
    assert reproduces(out / "networks") == [["kbd", "train", "mnist-patch", *shared]]
    (tuning,) = (words for words in reproduces(out / "runs") if "fine-tuning" in words)
    wanted = [
        "--defenses",
        "fine-tuning",
        "--seeds",
        "0",
        "--innocent",
        "",
        *shared[2:],
        "--set",
        "fine-tuning.epochs=1",
    ]
    assert tuning == ["kbd", "bench", "--recipes", "mnist-patch", *wanted]
    assert tuned["by_trigger"]["attack_success_before"] == none["by_trigger"]["attack_success"]
    assert (tuned["settings"], tuned["origins"]["epochs"]) == ({"epochs": 1}, "command line")
    assert 0 <= strip["by_trigger"]["false_acceptance_rate"]["square"][0] <= 1 and sifted["values"]["recall"]
    assert_refused(run("bench", *TINY, "-o", out), out, "not empty")
    again = subprocess.run(
        [sys.executable, "-c", ALONE, "bench", *map(str, TINY), *SET, "-o", out, "--resume", "--json"],
        capture_output=True,
        text=True,
    )
    assert (again.returncode, again.stderr) == (0, "") and json.loads(again.stdout)["rows"] == told
