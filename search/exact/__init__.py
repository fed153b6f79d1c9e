"""The additive problem solved with proof: sums, hulls, the core of one budget, and HiGHS."""
