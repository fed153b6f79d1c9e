"""Chips of published GEMM measurements, until profiles has them."""

from mixq.profiles.profile import Profile, Cache, Runtime

G = 1e9


def chip(name, cores, peaks, dram, core_dram, caches, units=1, threads=None):
    return Profile(
        name=name,
        description="",
        fingerprint="",
        chips=(name,),
        cores=cores,
        units_per_core=units,
        core_ops_per_s=peaks,
        dram_bytes_per_s=dram * G,
        core_dram_bytes_per_s=core_dram * G,
        caches=tuple(Cache(n, int(s * 2**20), b * G, p) for n, s, b, p in caches),
        default_runtime="x",
        default_threads=threads or cores,
        runtimes={},
    )


def gpu(name, sms, fp32, tf32, fp16, bw, l2, l2bw):
    T = 1e12
    return chip(
        name,
        1,
        dict(
            fp32=fp32 * T,
            tf32=tf32 * T,
            fp16=fp16 * T,
            bf16=fp16 * T,
            int8=2 * fp16 * T,
            int4=4 * fp16 * T,
        ),
        bw,
        bw,
        [("L2", l2, l2bw, False)],
        units=sms,
    )


def cpu(name, cores, ghz, f32, i8, dram, core, caches, threads=None, bf16=None, f16=None):
    p = dict(fp32=f32 * ghz * G, int8=i8 * ghz * G)
    p["fp16"] = (f16 or f32) * ghz * G
    p["bf16"] = (bf16 or f32) * ghz * G
    return chip(name, cores, p, dram, core, caches, threads=threads)


C = {}


def add(p):
    C[p.name] = p


add(gpu("A100", 108, 19.5, 156, 312, 2039, 40, 7200 / 1))
add(gpu("A100-80GB", 108, 19.5, 156, 312, 2039, 40, 7200 / 1))
add(gpu("sm80 GPU (A100-class)", 108, 19.5, 156, 312, 2039, 40, 7200))
add(gpu("A100-40GB", 108, 19.5, 156, 312, 1555, 40, 7200))
for n in ("H100", "sm90 GPU (H100-class)"):
    add(gpu(n, 132, 66.9, 494.7, 989.4, 3350, 50, 10000))
add(gpu("H200", 132, 66.9, 494.7, 989.4, 4800, 50, 10000))
add(
    cpu(
        "Xeon 8480+ (Sapphire Rapids)",
        56,
        3.0,
        64,
        2048,
        307,
        15,
        [("L2", 2, 100, True), ("L3", 105, 20, False)],
        bf16=1024,
    )
)
add(
    cpu(
        "Sapphire Rapids (GCP 22 cores)",
        22,
        3.0,
        64,
        2048,
        200,
        15,
        [("L2", 2, 100, True), ("L3", 105, 20, False)],
        bf16=1024,
    )
)
add(
    cpu(
        "AMX Xeon (model unspecified)",
        192,
        3.0,
        64,
        2048,
        614,
        15,
        [("L2", 2, 100, True), ("L3", 105, 20, False)],
        bf16=1024,
        threads=8,
    )
)
add(
    cpu(
        "Xeon Platinum 8180 (Skylake-SP)",
        28,
        2.5,
        64,
        128,
        128,
        12,
        [("L2", 1, 80, True), ("L3", 38, 20, False)],
    )
)
add(
    cpu(
        "Core i5-1038NG7 (Ice Lake client)",
        4,
        3.4,
        32,
        128,
        58,
        20,
        [("L2", 0.5, 100, True), ("L3", 6, 30, False)],
    )
)
add(
    cpu(
        "Core i7 Ice Lake client (Surface Book 3)",
        4,
        3.5,
        32,
        128,
        58,
        20,
        [("L2", 0.5, 100, True), ("L3", 8, 30, False)],
        threads=4,
    )
)
for n in ("Xeon (Ice Lake-SP, model unspecified)", "x86 AVX512-VNNI-GFNI CPU (model unspecified)"):
    add(
        cpu(
            n,
            40,
            3.0,
            64,
            256,
            205,
            13,
            [("L2", 1.25, 100, True), ("L3", 60, 20, False)],
            threads=1,
        )
    )
for n in ("x86 AVX512-VNNI CPU (model unspecified)", "x86 AVX512 CPU (model unspecified)"):
    add(
        cpu(
            n,
            16,
            3.0,
            64,
            256,
            50,
            13,
            [("L2", 1.25, 100, True), ("L3", 36, 40, False)],
            threads=16,
        )
    )
add(
    cpu(
        "x86 VNNI CPU (model unspecified)",
        16,
        3.0,
        64,
        256,
        205,
        13,
        [("L2", 1.25, 100, True), ("L3", 48, 20, False)],
        threads=8,
    )
)
add(cpu("Apple M2-Ultra", 16, 3.5, 32, 128, 800, 60, [("L2", 32, 100, False)], f16=64))
add(cpu("Apple M4", 4, 4.4, 32, 128 * 4, 120, 60, [("L2", 16, 100, False)], f16=64, threads=1))
add(
    cpu("Apple M4 Max", 12, 4.4, 32, 128 * 4, 546, 60, [("L2", 32, 100, False)], f16=64, threads=1)
)
add(
    cpu(
        "Raspberry Pi 5 (Cortex-A76)",
        4,
        2.4,
        16,
        64,
        17,
        11.8,
        [("L2", 0.5, 30, True), ("L3", 2, 15, False)],
        f16=32,
    )
)
add(
    cpu(
        "Raspberry Pi 5 @2.8GHz (Cortex-A76)",
        4,
        2.8,
        16,
        64,
        17,
        7,
        [("L2", 0.5, 30, True), ("L3", 2, 15, False)],
        f16=32,
    )
)
add(
    cpu(
        "Jetson AGX Orin (Cortex-A78AE)",
        12,
        2.2,
        16,
        64,
        204.8,
        15,
        [("L2", 0.25, 30, True), ("L3", 6, 20, False)],
        f16=32,
    )
)
add(
    cpu(
        "Azure ARM64 VM (model unspecified)",
        8,
        3.0,
        16,
        64,
        200,
        15,
        [("L2", 1, 30, True), ("L3", 32, 20, False)],
        f16=32,
        threads=4,
    )
)
add(
    cpu(
        "ARM64 NEON CPU (model unspecified)",
        8,
        3.0,
        32,
        128,
        60,
        30,
        [("L2", 1, 60, True), ("L3", 8, 30, False)],
        f16=64,
        threads=8,
    )
)
add(
    cpu(
        "Snapdragon 8 Elite (Galaxy S25)",
        8,
        4.3,
        32,
        256,
        77,
        40,
        [("L2", 12, 80, False)],
        f16=64,
        threads=1,
    )
)
add(
    cpu(
        "Graviton4 c8g (Neoverse V2)",
        96,
        2.8,
        32,
        256,
        537,
        15,
        [("L2", 2, 60, True), ("L3", 36, 20, False)],
        threads=32,
        bf16=128,
        f16=64,
    )
)


def profile_of(row):
    return C[row.chip]
