"""A torch model as a graph of operations and the weight units that they read."""
