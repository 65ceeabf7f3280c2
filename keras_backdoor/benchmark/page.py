"""Puts tables of benches into a page of Markdown: `python -m keras_backdoor.benchmark.page docs/results.md`.

The page says where: between `<!-- bench FILE -->` and `<!-- end -->`, each a line of its own, comes what the `table.json` of a
bench holds, FILE being its path from the page's folder. What stood there is replaced; all else stays.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from keras_backdoor.benchmark.prose import as_markdown
from keras_backdoor.benchmark.tables import read_told
from keras_backdoor.files import BadInput, PathLike, write_text

PLACE = re.compile(r"(^<!-- bench (?P<file>\S+) -->\n)(?P<old>.*?)(^<!-- end -->$)", re.DOTALL | re.MULTILINE)


def filled(page: PathLike) -> str:
    """The text of the page with its tables made anew, one heading level lower than in `table.md`.

    Raises `BadInput` if it names no table, or a file is missing or no table.
    """
    text = Path(page).read_text(encoding="utf-8")
    if not PLACE.search(text):
        raise BadInput(f"{page}: has no line <!-- bench FILE --> with <!-- end --> after it")

    def table(place: re.Match[str]) -> str:
        tables = as_markdown(read_told(Path(page).parent / place["file"]))
        return f"{place[1]}\n{re.sub('^#', '##', tables, flags=re.MULTILINE)}\n{place[4]}"

    return PLACE.sub(table, text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_text(name, filled(name))
