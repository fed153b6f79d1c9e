"""One calibration of a machine that keeps the law exactly."""

from __future__ import annotations

import pytest

from mixq.calibrate.calibrate import Calibrated, Suite, described
from mixq.calibrate.case import Case
from mixq.calibrate.onnx_cases import onnx_cases
from mixq.calibrate.routine import COARSE_PRODUCTS, FLOAT_ACTIVATIONS, ONNX
from mixq.profiles import Profile
from tests.calibrate.law import CHIP, steady, timed_by_law


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    return list(onnx_cases(1))


@pytest.fixture(scope="session")
def calibrated(cases: list[Case]) -> Calibrated:
    routines = {**ONNX, **FLOAT_ACTIVATIONS}
    timed = timed_by_law(cases, routines, steady)
    suite = Suite("onnxruntime", "ONNX Runtime", ONNX, timed, FLOAT_ACTIVATIONS, COARSE_PRODUCTS)
    return described([suite], CHIP, seconds=lambda: 1.0)


@pytest.fixture(scope="session")
def profile(calibrated: Calibrated) -> Profile:
    return calibrated.profile
