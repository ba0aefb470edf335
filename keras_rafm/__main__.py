"""`python -m keras_rafm`: the command line tool."""

import sys

from keras_rafm.cli.main import main

sys.exit(main())
