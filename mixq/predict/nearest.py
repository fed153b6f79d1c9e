"""The known chip that is nearest to a name which no profile has.

Which core, how many of its SIMD pipes and which instructions decide more than clock and memory, so
that chips are told apart by generation. Spreads are assumed: 0.1 for another board around the same
chip, 0.25 for a neighbour of its generation, 0.5 and more for a guess.
"""

from __future__ import annotations

from typing import Final

NEAREST: Final = (
    # GPUs; the multiprocessors of a generation are alike, its memories are not.
    ("h200", "nvidia_h200", 0.1),
    ("gh200|h20", "nvidia_h200", 0.3),
    ("b100|b200|gb200|blackwell|rtx 50\\d\\d", "nvidia_h200", 0.7),
    ("h100 pcie|h800|hopper|sm ?90", "nvidia_h100", 0.3),
    ("h100", "nvidia_h100", 0.1),
    ("a100.* 40 ?gb|a100 40", "nvidia_a100_40gb", 0.1),
    ("a100", "nvidia_a100", 0.1),
    ("a800|sm ?80|a30", "nvidia_a100", 0.3),
    ("l40s", "nvidia_l40s", 0.1),
    ("l40|l20|l4|rtx 6000 ada", "nvidia_l40s", 0.5),
    ("rtx 4090", "rtx_4090", 0.1),
    ("rtx 40\\d\\d|sm ?89|ada", "rtx_4090", 0.4),
    ("rtx 3090", "rtx_3090", 0.1),
    ("rtx 30\\d\\d|rtx a\\d000|a10g?|a40|a6000|sm ?86", "rtx_3090", 0.4),
    ("v100", "nvidia_v100", 0.1),
    ("titan v|volta|sm ?70", "nvidia_v100", 0.4),
    ("t4", "nvidia_t4", 0.1),
    ("rtx 20\\d\\d|turing|sm ?75", "nvidia_t4", 0.5),
    # Apple, by generation and size.
    ("m4 (?:max|pro|ultra)", "apple_m4_max", 0.2),
    ("m4|m5|a18|a19", "apple_m4", 0.25),
    ("m3 (?:max|pro|ultra)", "apple_m3_max", 0.2),
    ("m3|a17", "apple_m3", 0.25),
    ("m[12] ultra", "apple_m2_ultra", 0.1),
    ("m2 (?:max|pro)", "apple_m2_max", 0.15),
    ("m2|a15|a16", "apple_m2", 0.15),
    ("m1 (?:max|pro)", "apple_m1_pro", 0.15),
    ("m1|a14", "apple_m1", 0.15),
    ("apple|iphone|ipad|macbook|mac mini", "apple_m2", 0.6),
    # Servers of Arm's.
    ("graviton ?4|neoverse v2|grace|axion", "graviton4", 0.2),
    ("graviton ?3e", "graviton3e", 0.1),
    ("graviton ?3|neoverse v1", "graviton3", 0.15),
    ("graviton ?2|neoverse n1|altra|ampere", "graviton2", 0.2),
    ("neoverse n2|cobalt|yitian|kunpeng|neoverse", "graviton3", 0.4),
    # Boards and phones; a core's generation says more than the name of the chip around it.
    ("raspberry pi ?5|rpi ?5|pi ?5|bcm2712", "raspberry_pi_5", 0.1),
    ("raspberry pi ?4|rpi ?4|pi ?4|pi 400|bcm2711", "raspberry_pi_4", 0.1),
    ("raspberry|rpi|pi zero|pi ?3", "raspberry_pi_4", 0.7),
    ("rk3588s?|orange pi 5.*|rock 5\\w*", "rk3588", 0.1),
    ("agx orin", "jetson_orin", 0.1),
    ("orin", "jetson_orin", 0.35),
    ("jetson|xavier", "jetson_orin", 0.6),
    ("orion o6|cix", "radxa_orion_o6", 0.1),
    ("snapdragon x|x elite|x plus", "snapdragon_x_elite", 0.15),
    ("8 elite|oryon", "snapdragon_8_elite", 0.15),
    ("8 ?\\+? ?gen ?[23]|cortex x[234]|sm8[56]50", "snapdragon_8_gen_2", 0.3),
    ("888|8 ?\\+? ?gen ?1|cortex x1|sm8[34]50|tensor g[123]", "snapdragon_888", 0.25),
    ("865|870|cortex a77", "snapdragon_865", 0.15),
    ("855 ?plus|860", "snapdragon_855_plus", 0.1),
    ("855|cortex a76|kirin 9[89]0", "snapdragon_855", 0.2),
    ("cortex a720|cortex a71[05]|cortex a725", "radxa_orion_o6", 0.3),
    ("cortex a78\\w*", "jetson_orin", 0.3),
    ("670|710|845|cortex a75", "snapdragon_670", 0.3),
    ("835|cortex a73|kirin 9[67]0", "snapdragon_835", 0.25),
    ("cortex a72", "raspberry_pi_4", 0.2),
    ("cortex a5[35]|cortex a510|cortex a520", "raspberry_pi_4", 0.8),
    ("snapdragon|dimensity|exynos|kirin|tensor|helio|pixel|galaxy", "snapdragon_888", 0.6),
    # x86; Xeons by generation.
    ("8488c", "xeon_8488c", 0.1),
    ("8480\\+?", "intel_amx", 0.05),
    ("w9 3475x", "xeon_w9_3475x", 0.1),
    ("m7i 16xlarge", "m7i_16xlarge", 0.1),
    ("xeon 6|granite|emerald|sapphire|spr|amx|m7i.*|c7i.*", "intel_amx", 0.3),
    ("xeon.* [3-9][45]\\d\\d[a-z+]*|xeon w[579] [23]\\d\\d\\d.*", "intel_amx", 0.25),
    ("1038ng7", "ice_lake_i5", 0.1),
    ("ice ?lake client|1065g7|surface book 3", "ice_lake_i7", 0.1),
    ("tiger ?lake|i[357] 1[01]\\d+n?g\\d", "ice_lake_i7", 0.25),
    ("8380", "intel_cpu", 0.05),
    ("ice ?lake|icx|xeon.* [4-8]3\\d\\d[a-z+]*|m6i.*|c6i.*", "intel_cpu", 0.2),
    ("cascade ?lake|cooper ?lake|xeon.* [4-9]2\\d\\d[a-z+]*", "x86_avx512_vnni", 0.3),
    ("zen ?[45]|epyc 9\\d\\d\\d\\w*|ryzen.* [789]\\d\\d\\d\\w*", "x86_avx512_vnni", 0.5),
    ("8180", "xeon_8180", 0.05),
    ("skylake|xeon.* [4-8]1\\d\\d[a-z+]*|c5.*|m5.*", "xeon_8180", 0.25),
    ("gfni", "x86_avx512_vnni_gfni", 0.3),
    ("avx ?512 ?vnni", "x86_avx512_vnni", 0.3),
    ("vnni", "x86_vnni", 0.4),
    ("avx ?512", "x86_avx512", 0.4),
    ("epyc|ryzen|threadripper|zen ?[123]|avx2", "x86_avx2", 0.4),
    ("core i\\d|i[3579] \\d+\\w*|core ultra|(?:alder|raptor|meteor) ?lake", "x86_avx2", 0.5),
    ("xeon", "intel_cpu", 0.5),
    ("arm64|aarch64|neon|arm", "arm64_neon", 0.6),
    ("x86|x86 64|intel|amd", "x86_avx2", 0.6),
    ("geforce|rtx|gtx|quadro|tesla|nvidia|cuda|gpu", "rtx_3090", 0.8),
)  # fmt: skip
"""Words of a chip's name as a regular expression over lower case letters, digits, plus and single
spaces; the nearest profile; the assumed spread of log(time) between the two. The first that is
found counts, so a model stands before its generation."""
