"""Technical English for training: the prose of Debian's documentation packages, as one text file.

    python training/corpus.py --out technical.txt

Downloads with `apt-get download`, unpacks with `dpkg -x`; needs Debian or Ubuntu, but no root.
"""

import argparse
import gzip
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("perl-doc",)
SUFFIXES = (".pod", ".rst", ".rst.txt", ".rst.gz", ".pod.gz")
MARKUP = re.compile(r"[A-Z]<+\s?([^<>]*?)\s?>+|:[a-z:]+:`([^`]*)`|[`*]+")


def unpack(folder: Path) -> None:
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "unpacked"], check=True)


def read(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode(errors="replace")


def prose(text: str) -> Iterator[str]:
    """Paragraphs that read as sentences: not indented, no directives, mostly letters."""
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph[:1].isalpha() and paragraph.rstrip().endswith((".", ":")):
            plain = MARKUP.sub(lambda m: m[1] or m[2] or "", " ".join(paragraph.split()))
            if len(plain) > 100 and sum(c.isalpha() or c == " " for c in plain) > 0.9 * len(plain):
                yield plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(folder)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
        out.write_text("\n".join(line for path in files for line in prose(read(path))) + "\n")
    print(f"{out}: {out.stat().st_size} bytes from {len(files)} files")


if __name__ == "__main__":
    main()
