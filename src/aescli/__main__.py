"""`python -m aescli` is `aes`."""

from aescli.cli import main

main()
