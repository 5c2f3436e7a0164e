"""`python -m hypoxnet.cli` is `hypoxnet`."""

import sys

from hypoxnet.cli import main

sys.exit(main())
