"""`python -m feature_lineage.report results/<study>` prints the main numbers of a study."""

import sys

from feature_lineage.report.page import main

if __name__ == "__main__":
    main(*sys.argv[1:])
