"""OpenVINO: IR files whose weights are decompression subgraphs of u8, u4 and u2 constants."""
