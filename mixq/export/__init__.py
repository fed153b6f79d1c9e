"""Plans become files that real runtimes load."""
