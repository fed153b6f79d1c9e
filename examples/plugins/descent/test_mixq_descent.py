"""The method keeps mixq's contract; the package has to be installed (pip install -e .)."""

from mixq.testing import RoundingContract


class TestDescent(RoundingContract):
    method = "descent"
    keeps_constants = False
