#!/bin/sh
# Part of the images' build: installs the package in this folder, with the versions of constraints.txt, in the virtual environment $1.
set -eu
python3.11 -m venv "$1"
"$1/bin/pip" install --disable-pip-version-check --no-cache-dir --constraint constraints.txt .
# imgaug asks for opencv-python, which needs the libraries of a desktop; the same version without windows serves it as well.
"$1/bin/pip" uninstall --yes opencv-python
sed -n 's/^opencv-python==/opencv-python-headless==/p' constraints.txt > headless.txt
"$1/bin/pip" install --disable-pip-version-check --no-cache-dir --no-deps --requirement headless.txt
"$1/bin/python" -c 'import cv2, tensorflow; print("OpenCV", cv2.__version__, "TensorFlow", tensorflow.__version__)'
