"""What a user gets by installing: pins that agree with each other, and nothing imported before it is needed."""

import json
import subprocess
import sys
from importlib.metadata import entry_points, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split(";")[0].split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version.strip() for name, version in pairs}


def test_every_requirement_has_a_tested_version_that_satisfies_it():
    pinned = constraints()
    for requirement in map(Requirement, requires("keras-backdoor")):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_supported_pythons_and_command():
    assert SpecifierSet(metadata("keras-backdoor")["Requires-Python"]) == SpecifierSet(">=3.9,<3.12")
    found = entry_points()
    scripts = found.select(group="console_scripts") if hasattr(found, "select") else found["console_scripts"]
    assert {script.value for script in scripts if script.name == "kbd"} == {"kbd.main:main"}


def test_no_module_needs_opencv_imgaug_or_addons_to_be_imported():
    """opencv-python needs libGL, which a server may lack; it must not matter before image noise is used."""
    code = """
        import json, os, pkgutil, sys
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        for name in ("cv2", "imgaug", "tensorflow_addons"):
            sys.modules[name] = None  # importing it now fails
        import keras_backdoor, kbd, models_zoo
        names = []
        for package in (keras_backdoor, kbd, models_zoo):
            for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                __import__(module.name)
                names.append(module.name)
        print(json.dumps(names))
    """
    code = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = json.loads(done.stdout.splitlines()[-1])
    assert {"keras_backdoor.defenses.fine_pruning", "kbd.train", "models_zoo.deepid"} <= set(names)


def test_installing_puts_no_module_called_cli_on_the_path():
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('cli') is not None)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0


def test_readme_names_every_recipe_command_and_defense():
    from kbd.main import COMMANDS
    from keras_backdoor.attacks.recipes import RECIPES
    from keras_backdoor.attacks.sign_detection.recipes import ATTACKS
    from keras_backdoor.defenses import DEFENSES, SIFTING, TRAINING

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [f"kbd {command}" for command in COMMANDS if command != "demo"]
    for name in (*DEFENSES, *SIFTING, *TRAINING, *commands, *ATTACKS, "make demo"):
        assert name in readme, name
    rows = {row.split("`")[1]: row for row in readme.splitlines() if row.startswith("| `")}
    for name in RECIPES:
        base, slash, variant = name.partition("/")
        assert not slash or f"`/{variant}`" in rows[base], name
