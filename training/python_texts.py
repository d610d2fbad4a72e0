"""The shipped texts of technical English: prose of Python's documentation as Debian packages it.

    python training/python_texts.py

Writes `*-python.txt` and the licence beside the shipped novels. The three texts have no file of the
documentation in common.
"""

import re
import subprocess
import tempfile
from pathlib import Path

from corpus import prose, read

from cachegen import refmodel

PACKAGE = "python3.11-doc"
FILES = {
    "train-python": ("tutorial/*", "howto/functional.*"),
    "heldout-python": (
        "howto/curses.*",
        "howto/descriptor.*",
        "howto/isolating-extensions.*",
        "howto/regex.*",
    ),
    "eval-python": (
        "faq/design.*",
        "faq/general.*",
        "faq/library.*",
        "reference/compound_stmts.*",
        "reference/datamodel.*",
        "reference/executionmodel.*",
        "reference/import.*",
        "reference/simple_stmts.*",
    ),
}
LICENSE_STARTS, LICENSE_STOPS = "PSF LICENSE AGREEMENT", ".. _OtherLicenses"


LINK_TARGET = re.compile(r"\s*<https?://[^>\s]*>_{0,2}")


def sources(folder: Path) -> Path:
    """Download and unpack the package; the folder of the documentation's sources."""
    subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg", "-x", package, folder / "unpacked"], check=True)
    return next(folder.glob("unpacked/usr/share/doc/*/html/_sources"))


def text(root: Path, patterns: tuple[str, ...]) -> str:
    paths = sorted(path for pattern in patterns for path in root.glob(pattern))
    lines = (line for path in paths for line in prose(read(path)))
    return "\n".join(LINK_TARGET.sub("", line) for line in lines) + "\n"


def license_text(root: Path) -> str:
    """Python's licences, with their copyright notices."""
    whole = read(root / "license.rst.txt").replace("|release|", "3.11")
    return whole[whole.index(LICENSE_STARTS) : whole.index(LICENSE_STOPS)]


def main() -> None:
    out = refmodel.weights_path().parent / "texts"
    with tempfile.TemporaryDirectory() as folder:
        root = sources(Path(folder))
        for name, patterns in FILES.items():
            written = (out / f"{name}.txt").write_text(text(root, patterns), encoding="utf-8")
            print(f"{name}: {written} characters")
        (out / "LICENSE.python").write_text(license_text(root), encoding="utf-8")


if __name__ == "__main__":
    main()
