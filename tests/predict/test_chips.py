from __future__ import annotations

import pytest

from mixq.errors import UsageError
from mixq.predict.chips import chip_of
from mixq.predict.nearest import NEAREST
from mixq.profiles import available, load


@pytest.mark.parametrize("name", available(published=True))
def test_a_profile_has_its_own_names(name: str) -> None:
    for text in (name, *load(name).chips):
        assert (chip_of(text).profile, chip_of(text).spread, chip_of(text).note) == (name, 0.0, "")


def test_no_two_profiles_claim_one_name() -> None:
    names = [chip for name in available(published=True) for chip in load(name).chips]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("xeon 8380 (ICE LAKE-SP)", "intel_cpu"),
        ("Raspberry-Pi 5 [Cortex A76]", "raspberry_pi_5"),
        ("a100 80gb", "nvidia_a100"),
        ("Apple M2-Ultra", "apple_m2_ultra"),
        ("apple m2 ultra", "apple_m2_ultra"),
        ("NVIDIA-H100", "nvidia_h100"),
        ("graviton3, neoverse v1", "graviton3"),
    ],
)
def test_case_and_punctuation_do_not_count(text: str, profile: str) -> None:
    assert (chip_of(text).profile, chip_of(text).spread) == (profile, 0.0)


NEIGHBOURS = {
    "A100 PCIe 40GB": "nvidia_a100_40gb",
    "A100-SXM4-80GB": "nvidia_a100",
    "H100 PCIe": "nvidia_h100",
    "NVIDIA H200 NVL": "nvidia_h200",
    "NVIDIA GeForce RTX 3090 Ti": "rtx_3090",
    "RTX A6000": "rtx_3090",
    "L4": "nvidia_l40s",
    "Tesla T4": "nvidia_t4",
    "Apple M3 Pro": "apple_m3_max",
    "iPhone 15 Pro (A17 Pro)": "apple_m3",
    "Snapdragon 8 Gen 3": "snapdragon_8_gen_2",
    "Snapdragon 855 Plus (Cortex-A76)": "snapdragon_855_plus",
    "Some board (Cortex-A76)": "snapdragon_855",
    "Dimensity 9300": "snapdragon_888",
    "Jetson Orin Nano": "jetson_orin",
    "Rock 5B": "rk3588",
    "Raspberry Pi 3": "raspberry_pi_4",
    "Ampere Altra": "graviton2",
    "Google Axion": "graviton4",
    "Xeon Platinum 8480+": "intel_amx",
    "Xeon Max 9480": "intel_amx",
    "Xeon Platinum 8592+": "intel_amx",
    "Xeon Platinum 8358": "intel_cpu",
    "Xeon Platinum 8260": "x86_avx512_vnni",
    "Xeon Gold 6148": "xeon_8180",
    "AMD EPYC 7763": "x86_avx2",
    "AMD EPYC 9654": "x86_avx512_vnni",
    "Core i9-13900K": "x86_avx2",
    "Intel i7-1065G7": "ice_lake_i7",
    "an unnamed Arm CPU": "arm64_neon",
}


@pytest.mark.parametrize(("text", "profile"), NEIGHBOURS.items(), ids=NEIGHBOURS)
def test_an_unknown_chip_is_taken_for_its_neighbour_and_says_so(text: str, profile: str) -> None:
    found = chip_of(text)
    assert found.profile == profile
    assert found.spread > 0
    assert f"taken for {profile}" in found.note


def test_a_guess_is_wider_than_a_neighbour() -> None:
    assert chip_of("Xeon Platinum 8480+").spread < chip_of("Xeon Platinum 8468").spread
    assert chip_of("Xeon Platinum 8468").spread < chip_of("some Xeon").spread
    assert chip_of("Snapdragon 888+").spread < chip_of("a Snapdragon").spread


@pytest.mark.parametrize("text", ["", "TPU v5", "Hexagon NPU", "abacus", "x" * 5000])
def test_a_chip_that_is_like_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"chip '.*' is not known .* \(mixq hardware list --all\)"
    ):
        chip_of(text)


def test_every_neighbour_is_a_profile() -> None:
    assert {profile for _, profile, _ in NEAREST} <= set(available(published=True))
    assert all(0 < spread < 1 for _, _, spread in NEAREST)
