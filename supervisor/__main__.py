"""`python -m supervisor` is `soakd`."""

import sys

from supervisor.cli import main

sys.exit(main())
