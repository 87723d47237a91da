#!/usr/bin/env python3
"""Compile the inner loops once, before several processes of tests would each do so.

    python scripts/compile_kernels.py

Runs what uses them on the smallest instances: methods that prove bounds, a certificate, a generated instance.
"""

from __future__ import annotations

import moeplace
from moeplace.caching.scenarios.suites import Scenario, generate
from moeplace.solving import certified

METHODS = ("layer-enumeration", "column-generation", "max-convolution", "successive-greedy", "greedy")

for name in ("tiny_two_models_two_sizes", "tiny_sum_adds_up", "small_l02e06k4_s3_u40_c090_seed2"):
    instance = moeplace.load(name)
    for method in METHODS:
        solution, certificate = certified(instance, method)
        moeplace.check(instance, solution, certificate)
generate(Scenario(layers=2, experts=4, top_k=2, expert_bytes=1000, stations=2, users=3, tokens=20))
