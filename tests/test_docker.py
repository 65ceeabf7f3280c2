"""The images: that they hold what was tested, and that what they are built of is let in. Building them takes an engine."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
IMAGES = ("cpu.Dockerfile", "gpu.Dockerfile")


def text(name):
    return (DOCKER / name).read_text(encoding="utf-8")


def pinned(package):
    (line,) = re.findall(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return Version(line)


def bases(name):
    return re.findall(r"^FROM (\S+)", text(name), re.MULTILINE)


def test_the_gpu_image_has_the_cuda_libraries_of_the_pinned_tensorflow():
    (base,) = bases("gpu.Dockerfile")
    image, tag = base.split(":")
    assert image == "tensorflow/tensorflow"
    version, kind = tag.split("-")
    assert kind == "gpu"
    assert Version(version).release[:2] == pinned("tensorflow").release[:2]


def test_the_cpu_image_is_debian_12_with_its_python():
    assert bases("cpu.Dockerfile") == ["debian:12-slim"] * 2
    assert set(re.findall(r"python3\.\d+", text("cpu.Dockerfile"))) == {"python3.11"}


def test_both_install_by_the_constraints_with_a_python_that_setup_py_takes():
    for name in IMAGES:
        assert "RUN docker/install.sh /opt/kbd" in text(name)
    script, setup = text("install.sh"), (ROOT / "setup.py").read_text()
    assert "--constraint constraints.txt" in script
    (python,) = set(re.findall(r"python(3\.\d+)", script))
    (required,) = re.findall(r'python_requires="(.+)"', setup)
    assert SpecifierSet(required).contains(f"{python}.0")
    assert f'"Programming Language :: Python :: {python}"' in setup


@pytest.mark.skipif(shutil.which("sed") is None, reason="needs sed")
def test_the_headless_opencv_is_of_the_pinned_version():
    (command,) = re.findall(r"^sed -n '(.+)' constraints.txt", text("install.sh"), re.MULTILINE)
    done = subprocess.run(
        ["sed", "-n", command, "constraints.txt"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"opencv-python-headless=={pinned('opencv-python')}\n"


def test_images_run_kbd_and_never_as_root():
    for name in IMAGES:
        lines = text(name).splitlines()
        assert (
            lines.index('ENTRYPOINT ["kbd"]')
            > lines.index("USER 1000")
            > max(number for number, line in enumerate(lines) if line.startswith(("RUN", "COPY")))
        )
        assert 'CMD ["kbd", "--version"]' in text(name)


def test_all_that_the_package_is_made_of_is_let_into_the_build_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_in = {line[1:] for line in lines if line.startswith("!")}
    packages = {"cli", "keras_backdoor", "models_zoo"}
    files = {"LICENSE", "README.md", "constraints.txt", "docker/install.sh", "pyproject.toml", "setup.py"}
    assert let_in == packages | files
    assert all((ROOT / path).exists() for path in let_in)


def test_the_two_workers_are_of_one_cluster():
    compose = text("compose.yaml")
    services = re.findall(r"^  ([\w-]+):$", compose.split("\nservices:\n")[1], re.MULTILINE)
    configs = [json.loads(config) for config in re.findall(r"TF_CONFIG: '(.+)'", compose)]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": index} for index in (0, 1)]
    assert configs[0]["cluster"] == configs[1]["cluster"] == {"worker": ["worker-0:2222", "worker-1:2222"]}
    assert services == ["gpu", "worker-0", "worker-1", "tensorboard"]


@pytest.mark.parametrize("name", IMAGES)
def test_linter(name):
    linter = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("needs hadolint, which the extra dev brings along on Linux")
    done = subprocess.run([linter, DOCKER / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
