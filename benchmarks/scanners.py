"""What scanners say about the hostile corpus of the tests, beside what plain Keras 2.15 does with each file.

    python benchmarks/scanners.py --modelscan PATH --modelaudit PATH --kbd PATH --keras > table.md

A tool has found a file if it reports something about it, at its level of warnings or above, that it does not report about the
clean file of the same format from which the hostile one differs by its payload alone. What it says of both is no detection.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import hostile

SECONDS = 60
GIB = 1 << 30

# ---- plain Keras -------------------------------------------------------------------------------------------------------


def keras_effect(name: str, folder: Path, seconds: int = 30) -> str:
    """Load a file of the corpus with plain Keras in a process of its own, and see what happens.

    TensorFlow is imported before the process is forked, and must not have computed anything by then.
    """
    path = hostile.write(name, folder)
    if not path.exists() or path.is_fifo() or path.is_char_device():
        return "not run"
    others = [file for file in folder.iterdir() if file != path and file.is_file()]
    for file in others:
        os.utime(file, (0, file.stat().st_mtime))
    (folder / "marker").unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _in_child(name, path, folder)
    started, status = time.monotonic(), 0
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() > started + seconds:
            os.kill(child, 9)
            break
        time.sleep(0.01)
    _, status, usage = os.wait4(child, 0)
    marker = folder / "marker"
    said = (folder / "said").read_text(errors="replace") if (folder / "said").exists() else ""
    if marker.exists():
        return "writes file" if marker.is_dir() or marker.stat().st_size else "runs code"
    if "imported" in said:
        return "imports a module"
    if any(file.exists() and file.stat().st_atime for file in others):
        return "reads file"
    if "MemoryError" in said or "ResourceExhausted" in said or usage.ru_maxrss > GIB // 1024:
        return "exhausts memory"
    if os.WIFSIGNALED(status):
        return "hangs" if os.WTERMSIG(status) == 9 else "crashes"
    return "loads" if "loaded" in said else "refuses"


def _in_child(name: str, path: Path, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (10 * GIB, 10 * GIB))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.chdir(folder)
    try:
        with open(folder / "said", "w", errors="replace") as said:
            try:
                hostile.load_with_keras(name, path)
                said.write("loaded\n")
            except BaseException as error:
                said.write(f"{type(error).__name__}: {error}\n"[:2000])
            said.write("imported\n" if hostile.MODULE in sys.modules else "")
    finally:
        os._exit(0)


def keras_effects(names: list[str]) -> dict[str, str]:
    """What plain Keras does with the files, measured."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow

    assert tensorflow.__version__.startswith("2.15.")
    effects = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            effects[name] = keras_effect(name, Path(folder))
    return effects


# ---- scanners ----------------------------------------------------------------------------------------------------------

Found = frozenset[str]
Answer = tuple[Found, str]
"""What a scanner reports about one file, at its level of warnings or above, without the names that differ from file to file.

An `Answer` has besides how the scanner ended, if it did not end well.
"""


def modelscan(tool: str, path: Path, output: Path) -> list[str]:
    return [tool, "scan", "-p", str(path), "-r", "json", "-o", str(output)]


def read_modelscan(report: dict) -> Found:
    issues = report["issues"]
    return frozenset(f"{issue['severity']} {issue['scanner']} {issue.get('operator')}" for issue in issues)


def modelaudit(tool: str, path: Path, output: Path) -> list[str]:
    return [tool, "scan", "-f", "json", "-o", str(output), str(path)]


def read_modelaudit(report: dict) -> Found:
    issues = [issue for issue in report["issues"] if issue["severity"] in ("warning", "error", "critical")]
    return frozenset(f"{issue['severity']} {issue.get('rule_code')} {anonymous(issue['message'])}" for issue in issues)


def kbd(tool: str, path: Path, output: Path) -> list[str]:
    return [tool, "zoo", "scan", "--json", str(path)]


def read_kbd(report: dict) -> Found:
    reports = report.get("files") or report.get("reports") or [report]
    findings = [finding for one in reports for finding in one["findings"] if finding["severity"] != "info"]
    return frozenset(f"{finding['rule']} {anonymous(finding['what'])}" for finding in findings)


TOOLS = {"modelscan": (modelscan, read_modelscan), "modelaudit": (modelaudit, read_modelaudit), "kbd": (kbd, read_kbd)}
WRONG_REASON = {("modelaudit", "saved_model"): "TensorFlow protos unavailable"}
"""What a tool says of a file that is true and has nothing to do with what the file does; found by reading."""
QUIET = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "CI": "true", "NO_COLOR": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def anonymous(message: str) -> str:
    """A message without quoted names, paths and numbers."""
    return re.sub(r"'[^']*'|/\S+|\d+", "…", message)[:200]


def run(tool: str, program: str, name: str, folder: Path) -> Answer:
    """What a tool reports about a file, and how it ended if it did not end well."""
    make, read = TOOLS[tool]
    path, output = hostile.write(name, folder), folder / "report.json"
    command = make(program, path, output)
    limit = (10 * GIB, 10 * GIB)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            env={**os.environ, **QUIET},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
        )
    except subprocess.TimeoutExpired:
        return frozenset(), f"no answer in {SECONDS} s"
    try:
        text = output.read_text() if output.exists() else done.stdout.decode()
        return read(json.loads(text)), ""
    except (ValueError, KeyError):
        return frozenset(), f"exit code {done.returncode}, no report"


def results(tool: str, program: str, names: list[str], known: dict[str, Answer]) -> dict[str, Answer]:
    """What a tool reports about each file, the clean ones too; it is not asked again for what is known."""
    answers = {}
    for name in [*hostile.CLEAN, *names]:
        if name in known:
            answers[name] = known[name]
            continue
        with tempfile.TemporaryDirectory() as folder:
            answers[name] = run(tool, program, name, Path(folder))
    return answers


def cell(tool: str, name: str, answers: dict[str, Answer]) -> str:
    """What the table says of one tool and one file."""
    found, trouble = answers[name]
    clean = answers[hostile.CORPUS[name].twin][0] if hostile.CORPUS[name].twin else frozenset()
    wrong = WRONG_REASON.get((tool, name))
    if wrong and found and all(wrong in said for said in found - clean):
        return "for another reason"
    if found - clean:
        return "found"
    if found:
        return "flags clean too"
    return trouble or "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for tool in TOOLS:
        parser.add_argument(f"--{tool}", metavar="PROGRAM")
    parser.add_argument("--keras", action="store_true", help="measure what plain Keras does instead of quoting it")
    parser.add_argument("--only", metavar="PATTERN", default="", help="files whose names match this regular expression")
    parser.add_argument("--details", metavar="FILE", help="keep what the tools say in FILE, and do not ask them again")
    arguments = parser.parse_args()
    names = [name for name in hostile.CORPUS if re.search(arguments.only, name)]
    stored = Path(arguments.details) if arguments.details else None
    said = json.loads(stored.read_text()) if stored and stored.exists() else {}
    known = {
        tool: {name: (frozenset(found), end) for name, (found, end) in said.get(tool, {}).items()} for tool in TOOLS
    }
    effects = keras_effects(names) if arguments.keras else hostile.keras_effects()
    programs = {tool: getattr(arguments, tool) for tool in TOOLS if getattr(arguments, tool)}
    with ThreadPoolExecutor() as pool:
        jobs = {tool: pool.submit(results, tool, program, names, known[tool]) for tool, program in programs.items()}
    answers = {tool: job.result() for tool, job in jobs.items()}
    if stored:
        for tool, of in answers.items():
            said[tool] = {name: [sorted(found), end] for name, (found, end) in of.items()}
        stored.write_text(json.dumps(said, indent=1))
    print(table(names, effects, answers))


def table(names: list[str], effects: dict[str, str], answers: dict[str, dict[str, Answer]]) -> str:
    """A Markdown table, and counts over the files that do something in plain Keras."""
    lines = [
        "| file | what it does | plain Keras 2.15 | " + " | ".join(answers) + " |",
        "| --- " * (3 + len(answers)) + "|",
    ]
    for name in names:
        cells = [
            ascii(name)[1:-1],
            hostile.CORPUS[name].what,
            effects[name],
            *(cell(tool, name, of) for tool, of in answers.items()),
        ]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    lines += ["", "| plain Keras 2.15 | files | " + " | ".join(answers) + " |", "| --- " * (2 + len(answers)) + "|"]
    for effect, count in Counter(effects[name] for name in names).most_common():
        found = [
            sum(effects[name] == effect and cell(tool, name, of) == "found" for name in names)
            for tool, of in answers.items()
        ]
        lines.append(f"| {effect} | {count} | " + " | ".join(map(str, found)) + " |")
    flagged = [", ".join(name for name in hostile.CLEAN if of[name][0]) or "none" for of in answers.values()]
    lines.append(f"| (clean files flagged, of {len(hostile.CLEAN)}) | | " + " | ".join(flagged) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
