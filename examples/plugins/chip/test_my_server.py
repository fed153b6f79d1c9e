"""The chip keeps mixq's contract."""

from pathlib import Path

from mixq.testing import ProfileContract


class TestMyServer(ProfileContract):
    source = str(Path(__file__).with_name("my_server.toml"))
