"""`python -m hyena` is the `hyena` command."""

import sys

from hyena.cli import main

sys.exit(main())
