"""Puts tables of benches into a page of Markdown: `python -m keras_backdoor.benchmark.page docs/results.md`.

The page says where: between `<!-- bench FILE -->` and `<!-- end -->`, each a line of its own, comes what the `table.json` of a
bench holds, FILE being its path from the page's folder (`results/mnist/table.json`). The first place gets the notes, too. What
stood there is replaced; all else stays.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from keras_backdoor.benchmark.prose import NOTES, tables_in_markdown
from keras_backdoor.benchmark.tables import read_told
from keras_backdoor.files import BadInput, PathLike, write_text

PLACE = re.compile(r"(^<!-- bench (?P<file>\S+) -->\n)(?P<old>.*?)(^<!-- end -->$)", re.DOTALL | re.MULTILINE)


def filled(page: PathLike) -> str:
    """The text of the page with its tables made anew, one heading level lower than in `table.md`.

    Raises `BadInput` if it names no table, or a file is missing or no table.
    """
    text = Path(page).read_text(encoding="utf-8")
    first = PLACE.search(text)
    if first is None:
        raise BadInput(f"{page}: has no line <!-- bench FILE --> with <!-- end --> after it")

    def table(place: re.Match[str]) -> str:
        tables = tables_in_markdown(read_told(Path(page).parent / place["file"]))
        lower = re.sub("^#", "##", tables, flags=re.MULTILINE)
        notes = "\n\n".join(NOTES) + "\n\n" if place.start() == start else ""
        return f"{place[1]}\n{notes}{lower}\n{place[4]}"

    start = first.start()

    return PLACE.sub(table, text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_text(name, filled(name))
