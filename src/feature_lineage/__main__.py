"""`python -m feature_lineage` is the command `feature-lineage`."""

import sys

from feature_lineage.cli import main

if __name__ == "__main__":
    sys.exit(main())
