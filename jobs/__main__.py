"""``python -m jobs`` is ``mangroves``."""

from jobs.cli import main

if __name__ == "__main__":
    main()
