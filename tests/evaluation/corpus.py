"""A small folder of the texts that profiles are learned from."""

import json
import lzma
from pathlib import Path

from cachegen.evaluation.texts import CHAT, NOVELS, WIKITEXT


def write_corpus(folder: Path) -> None:
    for name in (NOVELS, WIKITEXT, CHAT):
        (folder / name).parent.mkdir(parents=True)
    books = (f"<<<B{book}>>>\n" + f"book{book} goes on\n" * 1500 for book in range(8))
    with lzma.open(folder / NOVELS, "wt") as file:
        file.write("".join(books))
    articles = (f" = Article {n} = \n \n" + f" = = Part = = \n article{n}\n" * 9 for n in range(8))
    (folder / WIKITEXT).write_text(" \n" + "".join(articles))
    talks = (json.dumps({"conversation": f"USER: talk{n}\n" * 9}) for n in range(8))
    (folder / CHAT).write_text("\n".join(talks) + "\n")
