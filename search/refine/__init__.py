"""Refinement of a plan by what its changes do around it: beyond errors that only add up."""
