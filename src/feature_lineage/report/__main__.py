"""`python -m feature_lineage.report results/<study>` prints the main numbers of a study."""

import sys

from feature_lineage.report.page import main

main(*sys.argv[1:])
