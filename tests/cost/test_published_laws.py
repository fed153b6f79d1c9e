"""The laws of a profile over every chip that only occurs in published measurements."""

from __future__ import annotations

import pytest

from mixq.profiles import available
from mixq.testing import ProfileContract

for _name in sorted(set(available(published=True)) - set(available())):
    _suite = type(f"Test_{_name}", (ProfileContract,), {"source": _name})
    globals()[_suite.__name__] = pytest.mark.slow(_suite)
