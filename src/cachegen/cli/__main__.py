"""`python -m cachegen.cli` is `cachegen`."""

from cachegen.cli import main

main()
